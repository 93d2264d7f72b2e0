"""What only SQLite promises: two connections to one file, and files that are not its own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest

from horsies import AppConfig, Horsies, HorsiesError, Runtime
from horsies.abc import Broker, BrokerError, Promotion, Scheduling, TaskStatus, Topic, Workflowing
from horsies.plugins.sqlite.queries import named_queries, read_sql
from horsies.plugins.sqlite.schema import migrate, statements
from horsies.testing._conformance.scheduling import begins, fires
from horsies.testing._conformance.stage import done
from horsies.testing._conformance.workflows import FIRST
from horsies.testing._conformance.workflows import begins as flows
from horsies.testing.broker import T0, Stage, at, new_task

Opener = Callable[[], AbstractAsyncContextManager[Broker]]


def opener(url: str) -> Opener:
    config = AppConfig(url=url)
    return lambda: Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "horsies.db"


@pytest.mark.anyio
async def test_a_foreign_commit_is_noticed_though_nobody_was_waiting(file: Path) -> None:
    opened = opener(f"sqlite:///{file}")
    async with opened() as one, opened() as other, one.producer() as producer, other.listen(Topic.FINISHED) as listener:
        for n in (1, 2):
            await producer.enqueue([new_task(n)])
            with anyio.fail_after(10):
                assert await listener.receive() == [""]


@pytest.mark.anyio
async def test_a_send_that_waits_for_a_lock_can_be_cancelled(file: Path) -> None:
    async with opener(f"sqlite:///{file}")() as broker, broker.producer() as producer:
        with closing(sqlite3.connect(file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(10):
                with anyio.move_on_after(0.01) as scope:
                    await producer.enqueue([new_task(1)])
            assert scope.cancelled_caught
        await producer.enqueue([new_task(2)])
        found = await broker.reader.results([new_task(1).task_id, new_task(2).task_id])
        assert [stored.task_id for stored in found] == [new_task(2).task_id]


@pytest.mark.anyio
async def test_of_many_connections_that_fire_at_once_one_sends(file: Path) -> None:
    opened = opener(f"sqlite:///{file}")
    fired: list[bool] = []

    async def fire(broker: Broker, n: int) -> None:
        assert isinstance(broker, Scheduling)
        fired.extend(await broker.schedules.fire([fires(1, new_task(n))], now=at(1)))

    async with AsyncExitStack() as stack:
        brokers = [await stack.enter_async_context(opened()) for _ in range(4)]
        assert isinstance(brokers[0], Scheduling)
        await brokers[0].schedules.declare([begins()])
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for n, broker in enumerate(brokers, 1):
                    group.start_soon(fire, broker, n)
        assert sorted(fired) == [False, False, False, True]
        (sent,) = await brokers[1].reader.results([new_task(n).task_id for n in range(1, 5)])
        (row,) = (await brokers[0].schedules.read()).rows
        assert row.last_task_id == sent.task_id


@pytest.mark.anyio
async def test_a_firing_that_waits_for_a_lock_can_be_cancelled(file: Path) -> None:
    async with opener(f"sqlite:///{file}")() as broker:
        assert isinstance(broker, Scheduling)
        await broker.schedules.declare([begins()])
        before = await broker.schedules.read(now=T0)
        with closing(sqlite3.connect(file, isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(10):
                with anyio.move_on_after(0.01) as scope:
                    await broker.schedules.fire([fires(1, new_task(1))], now=at(1))
            assert scope.cancelled_caught
        assert await broker.schedules.read(now=T0) == before
        assert await broker.schedules.fire([fires(1, new_task(2))], now=at(1)) == [True]
        found = await broker.reader.results([new_task(1).task_id, new_task(2).task_id])
        assert [stored.task_id for stored in found] == [new_task(2).task_id]


@pytest.mark.anyio
async def test_a_due_time_beyond_the_calendar_is_its_end() -> None:
    async with opener("sqlite://:memory:")() as broker, broker.producer() as producer:
        await producer.enqueue([new_task(1, due_in=1e300)], now=at(0))
        row = await broker.reader.read(new_task(1).task_id)
        assert row is not None
        assert row.due_at.year == 9999


@pytest.mark.anyio
async def test_an_id_that_is_no_uuid_is_refused() -> None:
    async with opener("sqlite://:memory:")() as broker, broker.producer() as producer:
        with pytest.raises(BrokerError, match="not a UUID"):
            await producer.enqueue([new_task(1, task_id="nonsense")])


@pytest.mark.anyio
@pytest.mark.parametrize("script", ["CREATE TABLE users (x)", "PRAGMA user_version = 1", "PRAGMA user_version = 99"])
async def test_a_file_of_something_else_is_left_alone(file: Path, script: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(script)
    with pytest.raises(HorsiesError, match="HRS-218"):
        async with opener(f"sqlite:///{file}")():
            pass
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'tasks'").fetchall() == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("sqlite:///:memory:", "HRS-203"),
        ("sqlite:///x.db?mode=ro", "HRS-203"),
        ("sqlite://host/x.db", "HRS-203"),
        ("sqlite:///", "HRS-203"),
        ("sqlite:////nowhere/at/all/x.db", "HRS-211"),
    ],
)
async def test_what_cannot_be_opened(url: str, code: str) -> None:
    with pytest.raises(HorsiesError, match=code):
        async with opener(url)():
            pass


@pytest.mark.anyio
@pytest.mark.parametrize("in_memory", [True, False])
async def test_what_is_asked_what_follows_may_fail_as_the_database_does(file: Path, in_memory: bool) -> None:
    """It is not taken for a failure of the database, which would be tried again."""
    asked = 0

    def fails(_: object) -> list[Any]:
        nonlocal asked
        asked += 1
        raise sqlite3.OperationalError("database is locked")

    async with opener("sqlite://:memory:" if in_memory else f"sqlite:///{file}")() as broker:
        assert isinstance(broker, Workflowing)
        await broker.workflows.start(flows())
        with pytest.raises(sqlite3.OperationalError, match="is locked"):
            await broker.workflows.advance([FIRST], fails)
    assert asked == 1


def shape(connection: sqlite3.Connection) -> list[Any]:
    """Tables by columns and constraints, indexes by their text: ALTER TABLE leaves another text of the same table."""
    found: list[Any] = []
    for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name"):
        checks = re.findall(r"CONSTRAINT (\w+ CHECK .*?)(?=\)\s*(?:,\s*CONSTRAINT|$))", sql or "", re.DOTALL)
        columns = connection.execute(f"PRAGMA table_xinfo({name})").fetchall()
        keys = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
        found.append((kind, name, columns, keys, checks) if kind == "table" else (kind, name, sql))
    return found


def test_the_migrations_lead_to_the_schema() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as migrated:
        migrate(migrated)
        led_to = shape(migrated)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        for statement in statements(read_sql("sql/schema.sql")):
            made.execute(statement)
        assert shape(made) == led_to
    assert len(led_to) > 5


@pytest.mark.parametrize(
    "name",
    [
        "tasks.delayed",
        "tasks.next_due_at",
        "tasks.heads",
        "tasks.held",
        "tasks.leave",
        "tasks.to_sweep",
        "tasks.overdue",
        "tasks.orphans",
        "tasks.old",
        "tasks.begun",
        "tasks.holdings",
        "tasks.has_due",
        "tasks.results",
        "workflows.tasks_of",
        "workflows.marked_ends",
        "workflows.unadvanced",
        "workflows.old_workflows",
    ],
)
def test_no_statement_reads_all_tasks(name: str) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        given = dict.fromkeys(
            (
                "now",
                "limit",
                "queue",
                "id",
                "ids",
                "worker",
                "claim_number",
                "heard_until",
                "step_over",
                "without",
                "skipped",
                "before",
            ),
            1,
        )
        plan = connection.execute(f"EXPLAIN QUERY PLAN {named_queries()[name]}", given).fetchall()
    assert [step for *_, step in plan if step.startswith("SCAN tasks") and "INDEX" not in step] == []


@pytest.mark.anyio
async def test_rows_that_cannot_be_written_keep_no_other_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "horsies.db"
    refused = (2, 12, 22)
    async with opener(f"sqlite:///{path}")() as broker, Stage.on(broker) as stage:
        worker = await stage.worker()
        for n in range(1, 5):
            await stage.started(worker, new_task(n), retry_after_crash=5.0)
            await stage.send(new_task(n + 10, queue="slow", good_until=at(1)))
            await worker.finish([done(await stage.started(worker, new_task(n + 20)))], now=at(n))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            ids = ", ".join(f"'{UUID(int=n)}'" for n in refused)
            for change in ("UPDATE", "DELETE"):
                other.execute(
                    f"CREATE TRIGGER refuse_{change} BEFORE {change} ON tasks WHEN old.id IN ({ids})"
                    " BEGIN SELECT RAISE(ABORT, 'refused'); END"
                )
        maintenance, old = stage.maintenance, timedelta(seconds=1)
        assert [await stage.reap(3, now=at(60)) for _ in range(3)] == [2, 1, 0]
        assert [await maintenance.expire(3, now=at(60)) for _ in range(3)] == [2, 1, 0]
        assert [await maintenance.prune(3, finished_after=old, now=at(60)) for _ in range(2)] == [2, 1]
        rows = [await stage.row(n) for n in range(1, 5)]
        assert [len(row.attempts) for row in rows] == [1, 0, 1, 1]
        assert [await stage.status(n) for n in refused] == [
            TaskStatus.RUNNING,
            TaskStatus.PENDING,
            TaskStatus.COMPLETED,
        ]
    assert sorted(record.task_id for record in caplog.records) == [str(UUID(int=n)) for n in refused]


def refuse(path: Path, n: int, what: str = "true") -> None:
    """From now on a trigger refuses each change of the n-th task that `what` is true of."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            f"CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN old.id = '{UUID(int=n)}' AND {what}"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )


@pytest.mark.anyio
async def test_a_claim_whose_start_is_refused_leaves_the_row_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "horsies.db"
    async with opener(f"sqlite:///{path}")() as broker, Stage.on(broker) as stage:
        worker = await stage.worker()
        for n in (1, 2):
            await stage.send(new_task(n))
        refuse(path, 1, "new.status = 'RUNNING'")
        claim = await worker.claim(2, startable=(new_task(1).task_name,), now=at(1))
        assert [task.lease.task_id for task in claim.tasks] == [str(UUID(int=2))]
        assert await stage.status(1) is TaskStatus.PENDING


@pytest.mark.anyio
async def test_an_orphan_with_a_value_beyond_all_bounds_keeps_no_other_waiting(tmp_path: Path) -> None:
    path = tmp_path / "horsies.db"
    async with opener(f"sqlite:///{path}")() as broker, Stage.on(broker) as stage:
        worker = await stage.worker()
        for n in (1, 2):
            await stage.started(worker, new_task(n), retry_after_crash=5.0)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            other.execute("UPDATE tasks SET retry_after_crash = -1e999 WHERE id = ?", (str(UUID(int=1)),))
        assert await stage.reap(2, now=at(60)) == 1
        assert [await stage.status(n) for n in (1, 2)] == [TaskStatus.RUNNING, TaskStatus.PENDING]


@pytest.mark.anyio
async def test_a_row_that_cannot_be_promoted_makes_nobody_look_again_at_once(tmp_path: Path) -> None:
    path = tmp_path / "horsies.db"
    async with opener(f"sqlite:///{path}")() as broker, Stage.on(broker) as stage:
        worker = await stage.worker()
        for n, due_in in ((1, 1.0), (2, 2.0), (3, 9.0)):
            await stage.send(new_task(n, due_in=due_in))
        refuse(path, 1)
        assert await worker.promote(5, now=at(5)) == Promotion(1, 4.0)
