"""A database from before there were workflows, with tasks in it: they are all there afterwards, and as they were."""

from __future__ import annotations

import re
import sqlite3
from contextlib import AbstractAsyncContextManager, closing

import psycopg
import pytest

from horsies import AppConfig, Horsies, Runtime
from horsies.abc import Broker, QueueRow, Scheduling, TaskRow, TaskStatus, Workflowing
from horsies.testing._conformance.scheduling import NAME, begins, fires, slot, standing
from horsies.testing._conformance.stage import done
from horsies.testing._conformance.workflows import FIRST, goes_on, node, task_id
from horsies.testing._conformance.workflows import begins as flows
from horsies.testing.broker import T0, Stage, at, new_task

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True),
]

UNDO = {
    8: """
        ALTER TABLE workers DROP COLUMN steady_since;
        ALTER TABLE tasks DROP COLUMN unknown_since;
    """,
    6: """
        DROP TABLE workflow_signals;
        DROP INDEX workflows_overdue;
        DROP INDEX workflows_sent;
        ALTER TABLE workflows DROP COLUMN parent_id;
        ALTER TABLE workflows DROP COLUMN root_id;
        ALTER TABLE workflows DROP COLUMN good_until;
        ALTER TABLE workflows DROP COLUMN problem;
    """,
    5: """
        DROP TABLE workflows;
        DROP INDEX tasks_of_workflow;
        DROP INDEX tasks_unadvanced;
        ALTER TABLE tasks DROP COLUMN workflow_id;
        ALTER TABLE tasks DROP COLUMN advances;
    """,
    4: "DROP TABLE schedules;",
}
"""What takes back the migration of each version: the statements of today cannot write to a schema of then."""


BOUNDS = re.compile(
    r",\s*CONSTRAINT \w+_(?:in_calendar|have_bounds|expire) CHECK \((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
)


def loosen(connection: sqlite3.Connection) -> None:
    """Take back the bounds of version 9: SQLite has no statement for that."""
    tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql LIKE '% STRICT%'").fetchall()
    with connection:
        connection.execute("PRAGMA writable_schema = ON")
        for name, sql in tables:
            loose = BOUNDS.sub("", sql).replace(" STRICT, WITHOUT", " WITHOUT").replace(" STRICT", "")
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (loose, name))
        connection.execute("PRAGMA writable_schema = RESET")


def rewind(config: AppConfig, version: int) -> None:
    """Make the database what it was at `version`."""
    undo = "".join(UNDO[later] for later in sorted(UNDO, reverse=True) if later > version)
    if config.url.startswith("sqlite"):
        undo = f"DROP TABLE migrations; {undo}"
        with closing(sqlite3.connect(config.url.removeprefix("sqlite:///"))) as connection:
            loosen(connection)
            connection.executescript(f"{undo} PRAGMA user_version = {version}")
    else:
        with psycopg.connect(config.url) as other:
            taken_back = f"DELETE FROM migrations WHERE version > {version}"
            other.execute(f"SET search_path = {config.schema}; {undo} {taken_back}".encode())


def opened(config: AppConfig) -> AbstractAsyncContextManager[Broker]:
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


async def stored(stage: Stage) -> tuple[list[TaskRow], list[QueueRow]]:
    rows = [await stage.row(n) for n in range(1, 7)]
    return rows, sorted(await stage.broker.reader.queues(), key=lambda queue: queue.name)


@pytest.mark.parametrize("version", [3, 4])
async def test_tasks_outlive_the_coming_of_workflows(config: AppConfig, version: int) -> None:
    async with opened(config) as broker, Stage.on(broker) as stage:
        worker = await stage.worker()
        await worker.finish([done(await stage.started(worker, new_task(1)))], now=at(1))
        again = await stage.started(worker, new_task(2, unique_key="k"), retry_after_crash=2.0)
        await stage.claimed(worker, new_task(3))
        await stage.send(new_task(4, good_until=at(60)), new_task(5, due_in=60), new_task(6, queue="slow"))
        await stage.broker.control.pause("slow", now=at(2))
        assert isinstance(broker, Scheduling)
        await broker.schedules.declare([begins()])
        before = await stored(stage)
    rewind(config, version)
    async with opened(config) as broker, Stage.on(broker) as stage:
        assert await stored(stage) == before
        worker = await stage.worker()
        assert await worker.finish([done(again)], now=at(3)) == [True]
        assert isinstance(broker, Scheduling)
        assert await broker.schedules.declare([begins()]) == [version == 3]
        assert await broker.schedules.fire([fires(1, new_task(7))], now=slot(1)) == [True]
        assert (await standing(broker.schedules, NAME)).last_task_id == new_task(7).task_id
        assert isinstance(broker, Workflowing)
        assert await broker.workflows.unadvanced(5) == []
        await broker.workflows.start(flows(FIRST, node(8)), now=at(3))
        await broker.control.cancel([task_id(8)], now=at(4))
        assert await broker.workflows.unadvanced(5) == [FIRST]
        await broker.workflows.advance([FIRST], lambda given: [goes_on() for news in given if news.ended], now=at(5))
        assert await broker.workflows.tasks(FIRST) == [(task_id(8), TaskStatus.CANCELLED, None)]
        assert await broker.workflows.unadvanced(5) == []
