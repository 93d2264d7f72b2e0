"""Rows that a person wrote or changed by SQL: each ends alone, or is left alone, and no worker ends with it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from uuid import UUID

import anyio
import psycopg
import pytest

from horsies import (
    AppConfig,
    Err,
    Horsies,
    NodeRef,
    Ok,
    QueueConfig,
    Runtime,
    Task,
    TaskStatus,
    WorkerConfig,
    WorkflowBuilder,
)

from .conftest import until

pytestmark = pytest.mark.anyio

on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_files = pytest.mark.parametrize("database_url", ["sqlite-file"], indirect=True)
UNTIL_IDLE = WorkerConfig(until_idle=True)

HOSTILE = {
    "good_until = 'infinity'": True,
    "good_until = '-infinity'": False,
    "good_until = '20000-01-01'": True,
    "due_at = '-infinity'": True,
    "due_at = '0044-03-15 BC'": True,
    "phase = 0, due_at = '-infinity'": True,
    "deferred_from = '-infinity'": False,
    "sent_at = 'infinity'": False,
    "claim_number = 9223372036854775807": True,
    "attempt = 2147483647": True,
    "priority = 32767": False,
    "task_name = repeat('n', 9000)": True,
}
"""Changes of a row on Postgres, and whether a worker cannot but fail the task when no constraint is there."""


def changed(config: AppConfig, task_id: str, change: str, constraints: str) -> None:
    """Change a row of a table without the constraints that forbid it, or whose constraints do not hold for old rows."""
    schema = config.schema
    with psycopg.connect(config.url, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE contype = 'c' AND conrelid = %s::regclass AND conname ~ 'calendar|bounds'",
            (f"{schema}.tasks",),
        ).fetchall()
        assert len(rows) == 3
        for name, _ in rows:
            connection.execute(f"ALTER TABLE {schema}.tasks DROP CONSTRAINT {name}".encode())
        connection.execute(f"UPDATE {schema}.tasks SET {change} WHERE id = %s".encode(), (task_id,))
        if constraints == "unvalidated":
            for name, definition in rows:
                connection.execute(f"ALTER TABLE {schema}.tasks ADD CONSTRAINT {name} {definition} NOT VALID".encode())


def two_queues(config: AppConfig) -> Horsies:
    queues = (QueueConfig("default"), QueueConfig("other"))
    return Horsies(AppConfig.for_database_url(config.url, schema=config.schema, queues=queues))


def echoing(config: AppConfig) -> tuple[Horsies, Task[[int], int]]:
    app = two_queues(config)

    @app.task("echo")
    async def echo(n: int) -> int:
        return n

    return app, echo


@on_postgres
@pytest.mark.parametrize("change", HOSTILE)
@pytest.mark.parametrize("constraints", ["dropped", "unvalidated"])
async def test_a_bad_row_on_postgres_ends_alone(config: AppConfig, change: str, constraints: str) -> None:
    app, echo = echoing(config)
    async with Runtime(app) as rt:
        bad = (await echo.handle(rt).send(0)).unwrap()
        changed(config, bad.task_id, change, constraints)
        innocent = [answer.unwrap() for answer in await echo.handle(rt).send_many([(n,) for n in range(1, 6)])]
        with anyio.fail_after(30):
            await rt.run_worker(UNTIL_IDLE)
        assert [await handle.get(timeout=10) for handle in innocent] == [Ok(n) for n in range(1, 6)]
        info = (await bad.info()).unwrap()
        assert info is not None
        if constraints == "unvalidated" or HOSTILE[change]:
            assert (info.status, info.error_code) == (TaskStatus.FAILED, "WORKER_SERIALIZATION_ERROR")
            assert (await bad.get(timeout=10)).unwrap_err().code == "WORKER_SERIALIZATION_ERROR"
        else:
            assert info.status in (TaskStatus.COMPLETED, TaskStatus.EXPIRED, TaskStatus.PENDING)


@on_postgres
@pytest.mark.parametrize("change", ["queue = repeat('q', 9000)", "phase = 0, queue = repeat('q', 9000)"])
async def test_a_bad_row_of_a_queue_that_is_not_served_hinders_no_worker(config: AppConfig, change: str) -> None:
    app, echo = echoing(config)
    async with Runtime(app) as rt:
        bad = (await echo.handle(rt).send(0)).unwrap()
        changed(config, bad.task_id, change, "dropped")
        innocent = (await echo.handle(rt).schedule(0.01, 1)).unwrap()
        worker = rt.start_worker()
        assert await innocent.get(timeout=20) == Ok(1)
        assert worker.is_ready
        info = (await bad.info()).unwrap()
        assert info is not None
        assert info.status in (TaskStatus.PENDING, TaskStatus.FAILED)


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
@pytest.mark.parametrize("refused", ["true", "new.status = 'RUNNING'"])
async def test_a_row_that_cannot_be_written_is_left_and_passed_over(
    config: AppConfig, caplog: pytest.LogCaptureFixture, refused: str
) -> None:
    app, echo = echoing(config)
    async with Runtime(app) as rt:
        bad = (await echo.handle(rt).send(0)).unwrap()
        refuse(config, bad.task_id, refused)
        innocent = [answer.unwrap() for answer in await echo.handle(rt).send_many([(n,) for n in range(1, 6)])]
        with anyio.fail_after(30), caplog.at_level(logging.ERROR):
            await rt.run_worker(UNTIL_IDLE)
        assert [await handle.get(timeout=10) for handle in innocent] == [Ok(n) for n in range(1, 6)]
        info = (await bad.info()).unwrap()
        assert info is not None
        assert info.status is TaskStatus.PENDING
    told = [record.getMessage() for record in caplog.records if bad.task_id in record.getMessage()]
    assert len(told) == 1
    assert "left as it is" in told[0]


def refuse(config: AppConfig, task_id: str, what: str = "true") -> None:
    """From now on a trigger refuses each change of the row that `what` is true of."""
    if config.url.startswith("sqlite"):
        with closing(sqlite3.connect(config.url.removeprefix("sqlite:///"))) as connection:
            connection.execute(
                f"CREATE TRIGGER refuse BEFORE UPDATE ON tasks WHEN old.id = '{task_id}' AND {what}"
                " BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        return
    with psycopg.connect(config.url) as other:
        other.execute(
            f"""
            CREATE FUNCTION {config.schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
            CREATE TRIGGER refuse BEFORE UPDATE ON {config.schema}.tasks FOR EACH ROW
            WHEN (old.id = '{UUID(task_id)}' AND {what}) EXECUTE FUNCTION {config.schema}.refuse()
            """.encode()
        )


@on_files
@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ("envelope = x'00'", True),
        ("good_until = 9223372036854775807", True),
        ("good_until = -9223372036854775808", True),
        ("due_at = -9223372036854775808", True),
        ("phase = 0, due_at = -9223372036854775808", True),
        ("deferred_from = 9223372036854775807", True),
        ("claim_number = 9223372036854775807", True),
        ("attempt = 9223372036854775807", True),
        ("priority = 9223372036854775807", True),
        ("task_name = cast(x'fffe' as text)", True),
        ("queue = printf('%.*c', 9000, 'q')", False),
    ],
)
async def test_a_bad_row_on_sqlite_ends_alone(config: AppConfig, change: str, fails: bool) -> None:
    app, echo = echoing(config)
    async with Runtime(app) as rt:
        bad = (await echo.handle(rt).send(0)).unwrap()
        with closing(sqlite3.connect(config.url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(f"UPDATE tasks SET {change} WHERE id = ?", (bad.task_id,))
        innocent = [answer.unwrap() for answer in await echo.handle(rt).send_many([(n,) for n in range(1, 6)])]
        with anyio.fail_after(30):
            await rt.run_worker(UNTIL_IDLE)
        assert [await handle.get(timeout=10) for handle in innocent] == [Ok(n) for n in range(1, 6)]
        if fails:
            assert (await bad.get(timeout=10)).unwrap_err().code == "WORKER_SERIALIZATION_ERROR"
        (await bad.info()).unwrap()


@on_files
@pytest.mark.parametrize("change", ["envelope = 'text'", "due_at = 'soon'", "good_until = 'zzz'", "priority = 1.5"])
async def test_sqlite_refuses_a_value_of_another_type(config: AppConfig, change: str) -> None:
    app, echo = echoing(config)
    async with Runtime(app) as rt:
        (await echo.handle(rt).send(0)).unwrap()
        with (
            closing(sqlite3.connect(config.url.removeprefix("sqlite:///"), isolation_level=None)) as connection,
            pytest.raises(sqlite3.IntegrityError),
        ):
            connection.execute(f"UPDATE tasks SET {change}")


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
@pytest.mark.parametrize("column", ["task_name", "queue"])
async def test_a_row_that_no_longer_agrees_with_its_envelope_runs_nothing(config: AppConfig, column: str) -> None:
    app = two_queues(config)
    runs: list[str] = []

    def declare(name: str) -> Callable[[], None]:
        @app.task(name)
        async def task() -> None:
            runs.append(name)

        return task  # type: ignore[return-value]

    declare("read"), declare("delete")
    async with Runtime(app) as rt:
        handle = (await app.tasks["read"].handle(rt).send()).unwrap()
        execute(config, f"UPDATE {{tasks}} SET {column} = '{'delete' if column == 'task_name' else 'other'}'")
        await rt.run_worker(UNTIL_IDLE)
        error = (await handle.get(timeout=10)).unwrap_err()
    assert (error.code, runs) == ("WORKER_SERIALIZATION_ERROR", [])
    assert column in error.message


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
async def test_an_envelope_of_another_task_runs_nothing(config: AppConfig) -> None:
    app = two_queues(config)
    runs: list[int] = []

    @app.task("note")
    async def note(n: int) -> None:
        runs.append(n)

    async with Runtime(app) as rt:
        one, other = [answer.unwrap() for answer in await note.handle(rt).send_many([(1,), (2,)])]
        execute(
            config,
            f"UPDATE {{tasks}} SET (envelope, sha) = (SELECT envelope, sha FROM {{tasks}} WHERE id = '{other.task_id}')"
            f" WHERE id = '{one.task_id}'",
        )
        await rt.run_worker(UNTIL_IDLE)
        assert (await one.get(timeout=10)).unwrap_err().code == "WORKER_SERIALIZATION_ERROR"
        assert isinstance(await other.get(timeout=10), Ok)
    assert runs == [2]


def execute(config: AppConfig, statement: str) -> None:
    if config.url.startswith("sqlite"):
        with closing(sqlite3.connect(config.url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute(statement.format(tasks="tasks", workflows="workflows"))
        return
    with psycopg.connect(config.url, autocommit=True) as other:
        other.execute(statement.format(tasks=f"{config.schema}.tasks", workflows=f"{config.schema}.workflows").encode())


@on_postgres
async def test_a_task_is_shown_whatever_its_instants_are(config: AppConfig) -> None:
    app, echo = echoing(config)
    async with Runtime(app) as rt:
        handle = (await echo.handle(rt).send(0)).unwrap()
        changed(
            config, handle.task_id, "good_until = 'infinity', sent_at = '-infinity', due_at = '20000-01-01'", "dropped"
        )
        info = (await handle.info()).unwrap()
        assert info is not None
        assert (info.good_until.year, info.sent_at.year, info.due_at.year) == (9999, 1, 9999)  # type: ignore[union-attr]
        queues = (await rt.queues()).unwrap()
        assert [queue.ready for queue in queues if queue.name == "default"] == [1]


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
@pytest.mark.parametrize("column", ["spec", "state"])
async def test_a_workflow_that_cannot_be_read_is_an_error_value(config: AppConfig, column: str) -> None:
    app, echo = echoing(config)

    @app.workflow("one")
    def one(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(echo.node(1))

    async with Runtime(app) as rt:
        handle = (await one.handle(rt).start()).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=20) == Ok(1)
        damaged = "'\\x07'::bytea" if config.url.startswith("postgres") else "x'07'"
        execute(config, f"UPDATE {{workflows}} SET {column} = {damaged}")
    async with Runtime(app) as rt:  # another one has nothing of it in memory
        handle = rt.workflow(handle.workflow_id)
        for answer in (await handle.tasks(), await handle.graph(), await handle.results()):
            assert "cannot be read" in answer.unwrap_err().message
        for result in (await handle.get(timeout=5), await handle.result_for("echo")):
            assert result.unwrap_err().code == "BROKER_ERROR"


async def test_a_worker_lets_go_of_what_a_history_that_was_taken_back_shows_as_its_own(config: AppConfig) -> None:
    """The task had ended, and its end was lost: it does not run again, and does not stay RUNNING for ever."""
    app = two_queues(config)
    runs: list[int] = []

    @app.task("note")
    async def note(n: int) -> None:
        runs.append(n)

    if config.url.startswith("sqlite://:memory:"):
        pytest.skip("a database in memory has no older copy")
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await note.handle(rt).send(1)).unwrap()
        assert isinstance(await handle.get(timeout=10), Ok)
        execute(
            config,
            "UPDATE {tasks} SET phase = 2, status = 'RUNNING', finished_at = NULL, result = NULL"
            f" WHERE id = '{handle.task_id}'",
        )
        services = worker._incarnation.heartbeat
        assert services is not None
        await services.look()
        await services.look()

        def is_failed() -> bool:
            return worker.statistics().given_back == 1

        await until(is_failed)
        result = await rt.handle(handle.task_id).get(timeout=10)
        assert isinstance(result, Err)
        assert result.error.code == "WORKER_CRASHED"
        assert isinstance(await (await note.handle(rt).send(2)).unwrap().get(timeout=10), Ok)
    assert runs == [1, 2]
