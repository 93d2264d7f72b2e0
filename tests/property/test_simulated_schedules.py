"""Schedules in simulated time: a year of slots through both clock changes, and what gets lost on the way."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any

import anyio
import pytest

from horsies import AppConfig, Cron, Daily, Every, Horsies, Hourly, Monthly, Runtime, Schedule, TaskContext, Weekly
from horsies._payload.ids import slot_task_id
from horsies.testing.simulation import Simulation

BEGIN = datetime(2040, 1, 1, tzinfo=UTC)
ZONE = "Australia/Lord_Howe"
PATTERNS: dict[str, Any] = {
    "every": Every(timedelta(hours=7)),
    "hourly": Hourly(30, tz=ZONE),
    "daily": Daily(time(2, 10), tz=ZONE),
    "weekly": Weekly(("sun", "wed"), time(2, 15), tz="Europe/Paris"),
    "monthly": Monthly(31, time(1, 45), tz=ZONE, short_months="last"),
    "cron": Cron("*/20 1-3 * * sun", tz="America/New_York"),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("horsies")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


def slots_between(schedule: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    found = []
    slot = schedule.next_after(begin)
    while slot is not None and slot <= end:
        found.append(slot)
        slot = schedule.next_after(slot)
    return found


class Year:
    """An application with a schedule of every kind, and what ran."""

    def __init__(self) -> None:
        self.app = Horsies(AppConfig.for_database_url("postgresql://localhost/elsewhere"))
        self.ran: Counter[str] = Counter()
        self.at: dict[str, float] = {}

        @self.app.task("tick")
        async def tick(ctx: TaskContext) -> None:
            self.ran[ctx.task_id] += 1
            self.at[ctx.task_id] = anyio.current_time()

        for name, pattern in PATTERNS.items():
            self.app.schedule(name, tick, pattern, catch_up="all")

    def expected(self, end: datetime) -> dict[str, datetime]:
        """By the id of its task, each slot up to `end`."""
        return {
            slot_task_id(name, slot): slot
            for name, schedule in self.app.schedules.items()
            for slot in slots_between(schedule, BEGIN, end)
        }


def test_a_year_of_slots_each_once_and_on_time() -> None:
    year, simulation = Year(), Simulation(1, start=BEGIN)
    app = simulation.app(year.app)

    async def body() -> dict[str, datetime | None]:
        async with Runtime(app, environment=simulation.environment) as rt:
            with anyio.move_on_after(timedelta(days=366, seconds=-1).total_seconds()):
                await rt.run_scheduler()
            rows = {task_id: await rt._engine.read(task_id) for task_id in year.expected(simulation.now())}
            (queue,) = (await rt.queues()).unwrap()
            assert queue.ready == len(rows)
        return {task_id: row and row.due_at for task_id, row in rows.items()}

    due = simulation.run(body, limit=timedelta(days=367))
    expected = year.expected(BEGIN + timedelta(days=366, seconds=-1))
    assert due == expected
    assert len(due) > 9_000


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
def test_days_of_slots_each_once_while_requests_and_answers_are_lost(seed: int) -> None:
    lost = {"read": 0.1, "declare": 0.3, "fire": 0.3}
    year = Year()
    simulation = Simulation(seed, start=BEGIN, latency=1.0, lost_requests=lost, lost_answers=lost)
    app = simulation.app(year.app)
    days = timedelta(days=3)

    async def body() -> None:
        async with Runtime(app, environment=simulation.environment) as rt, anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(rt.run_scheduler)
            rt.start_worker()
            while simulation.now() < BEGIN + days:
                await anyio.sleep(simulation.random.uniform(0, 9 * 3600))
                with simulation.outage():
                    await anyio.sleep(simulation.random.uniform(0, 4 * 3600))
            await anyio.sleep(24 * 3600)
            group.cancel_scope.cancel()

    simulation.run(body)
    expected = year.expected(BEGIN + days)
    missing = [slot for task_id, slot in expected.items() if not year.ran[task_id]]
    assert missing == []
    assert [task_id for task_id, count in year.ran.items() if count > 1] == []
    assert year.ran.keys() <= year.expected(BEGIN + days + timedelta(days=3)).keys()
