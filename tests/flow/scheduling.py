"""What tests of schedules stand on: an application with one task, and a store that is read when the test says."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, cast

import psycopg

from horsies import (
    AppConfig,
    Every,
    Horsies,
    ResilienceConfig,
    Runtime,
    Schedule,
    Task,
    TaskContext,
    Worker,
    WorkerConfig,
)
from horsies._payload.ids import slot_task_id
from horsies._schedule.scheduler import Scheduler
from horsies.abc import NewSchedule, ScheduleRow, Schedules

HOUR = timedelta(hours=1)
PROMPT = ResilienceConfig(poll_interval=0.5)


@dataclass
class Place:
    """An application whose task notes which of its tasks ran, and with what."""

    app: Horsies
    tick: Task[[str], None]
    ran: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    sent_at: list[datetime] = field(default_factory=list)

    def slots(self, schedule: Schedule, since: datetime) -> list[datetime]:
        """The slots whose tasks ran, in the order in which they did."""
        known: dict[str, datetime] = {}
        slot = schedule.next_after(since - timedelta(microseconds=1))
        while slot is not None and len(known) < 2000 and slot < since + timedelta(days=3):
            known[slot_task_id(schedule.name, slot)] = slot
            slot = schedule.next_after(slot)
        return [known[task_id] for task_id in self.ran]


def place_for(config: AppConfig, **fields: Any) -> Place:
    app = Horsies(replace(config, **{"resilience": PROMPT, **fields}))

    @app.task("tick")
    async def tick(ctx: TaskContext, what: str) -> None:
        place.ran.append(ctx.task_id)
        place.said.append(what)
        place.sent_at.append(ctx.sent_at)

    place = Place(app, tick)
    return place


def store_of(rt: Runtime) -> Schedules:
    return cast("Any", rt._engine.broker).schedules


async def row_of(rt: Runtime, schedule: Schedule) -> ScheduleRow:
    (row,) = [row for row in (await store_of(rt).read()).rows if row.name == schedule.name]
    return row


async def now_in(rt: Runtime) -> datetime:
    return (await store_of(rt).read()).now


async def begun(rt: Runtime, schedule: Schedule, ago: timedelta) -> datetime:
    """Have a schedule stand as if its last slot before `ago` had not been dealt with; that slot."""
    slot = schedule.next_after(await now_in(rt) - ago)
    assert slot is not None
    assert await store_of(rt).declare([NewSchedule(schedule.name, schedule.timing, slot)]) == [True]
    return slot


class At:
    """The store of a runtime, read at an instant of the test's choice."""

    def __init__(self, rt: Runtime, now: datetime) -> None:
        self._store = store_of(rt)
        self.now = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self) -> Any:
        return replace(await self._store.read(), now=self.now)


async def look(rt: Runtime, now: datetime, *, goes_first: bool = True) -> float:
    """One round of a scheduler that has not looked before."""
    return await Scheduler(rt._engine, cast("Schedules", At(rt, now)), lambda: goes_first).run_once()


class With:
    """A runtime with another version of its application."""

    def __init__(self, rt: Runtime, app: Horsies) -> None:
        self._rt = rt._engine
        self.app = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rt, name)


def work_only(rt: Runtime, **config: Any) -> Worker:
    """A worker whose application has the tasks and no schedule, so that it sends nothing by the time of the day."""
    app = copy.copy(rt.app)
    app._schedules = {}
    return Worker(cast("Any", With(rt, app)), WorkerConfig(**config))


async def work(rt: Runtime) -> None:
    """Run what is due."""
    await work_only(rt, until_idle=True).run()


async def have_tasks(rt: Runtime, schedule: Schedule, slots: Iterable[datetime]) -> list[bool]:
    return [await rt._engine.read(slot_task_id(schedule.name, slot)) is not None for slot in slots]


@asynccontextmanager
async def refusing(rt: Runtime, task_name: str) -> AsyncIterator[None]:
    """In the block the database refuses tasks of one name."""
    config = rt.app.config
    if config.url.startswith("sqlite"):
        session = cast("Any", rt._engine.broker)._session
        trigger = (
            f"CREATE TRIGGER refuse BEFORE INSERT ON tasks WHEN NEW.task_name = '{task_name}'"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
        await session.write("refuse", lambda transaction: transaction.fetch(trigger, {}))
        yield
        await session.write("refuse", lambda transaction: transaction.fetch("DROP TRIGGER refuse", {}))
        return
    with psycopg.connect(config.url, autocommit=True) as connection:
        connection.execute(
            f"""
            CREATE FUNCTION {config.schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON {config.schema}.tasks
                FOR EACH ROW WHEN (NEW.task_name = '{task_name}') EXECUTE FUNCTION {config.schema}.refuse();
            """.encode()
        )
        yield
        connection.execute(f"DROP TRIGGER refuse ON {config.schema}.tasks".encode())


def hourly(place: Place, **options: Any) -> Schedule:
    return place.app.schedule("hourly", place.tick, Every(HOUR), args=("",), **options)
