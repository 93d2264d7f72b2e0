"""What `using` is given: a connection that leads to the runtime's own database, or the send is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import psycopg_pool
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from horsies import (
    AppConfig,
    Horsies,
    NodeRef,
    Runtime,
    Task,
    TaskSendErrorCode,
    Workflow,
    WorkflowBuilder,
    blocking,
)

from .conftest import Bench
from .test_sending import count

pytestmark = pytest.mark.anyio

REFUSED = TaskSendErrorCode.VALIDATION_FAILED
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def whole(bench: Bench) -> Workflow[[], int]:
    @bench.app.workflow("whole")
    def whole(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(bench.add.node(1, 2))

    return whole


@contextmanager
def elsewhere(app: Horsies) -> Iterator[str]:
    """Another database of the same server, whose schema has the same name and the same tables."""
    config = app.config
    name = f"{config.schema}_elsewhere"
    with psycopg.connect(config.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield make_conninfo(**{**conninfo_to_dict(config.url), "dbname": name})
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def refusals(rt: Runtime, add: Task[[int, int], int], whole: Workflow[[], int], connection: Any) -> list[str]:
    """The messages of a send, a `send_many` and a start with `connection`, all of which are refused."""
    sender = add.handle(rt).using(connection)
    answers: list[Any] = [
        await sender.send(1, 2),
        await sender.schedule(1, 1, 2),
        *await sender.send_many([(1, 2), (3, 4)]),
        await whole.handle(rt).using(connection).start(),
    ]
    errors = [answer.unwrap_err() for answer in answers]
    assert {error.code for error in errors} == {REFUSED}
    return [error.message for error in errors]


async def test_using_none_is_refused(bench: Bench, whole: Workflow[[], int]) -> None:
    async with Runtime(bench.app) as rt:
        for message in await refusals(rt, bench.add, whole, None):
            assert "using() got None" in message or "takes no part in transactions" in message
        for queue in (await rt.queues()).unwrap():
            assert queue.ready == 0


@on_postgres
async def test_what_is_no_connection_is_refused(bench: Bench, whole: Workflow[[], int]) -> None:
    url = bench.app.config.url
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with psycopg.connect(url) as connection, psycopg_pool.ConnectionPool(url, open=False) as pool:
        strangers = [connection.cursor(), pool, engine, url, sqlite3.connect(":memory:"), connection.info]
        async with Runtime(bench.app) as rt:
            for stranger in strangers:
                for message in await refusals(rt, bench.add, whole, stranger):
                    assert f"using() got a {type(stranger).__name__}, not a psycopg connection" in message
    strangers[4].close()  # type: ignore[attr-defined]
    engine.dispose()
    assert count(bench.app.config) == 0


@on_postgres
async def test_a_connection_that_leads_elsewhere_is_refused(bench: Bench, whole: Workflow[[], int]) -> None:
    app = bench.app
    with elsewhere(app) as url:
        there = Horsies(AppConfig.for_database_url(url_of(url), schema=app.config.schema, queues=app.config.queues))
        async with Runtime(app) as rt, Runtime(there) as other:
            with psycopg.connect(url) as connection:
                for message in await refusals(rt, bench.add, whole, connection):
                    assert "another server or database" in message
                    assert app.config.schema in message
                    assert "password" not in message
                # The transaction is as it was.
                assert connection.execute("SELECT 1").fetchone() == (1,)
            async with other.transaction() as strange:
                await refusals(rt, bench.add, whole, strange)
            with psycopg.connect(app.config.url) as own:
                (await bench.add.handle(rt).using(own).send(1, 2)).unwrap()
        assert count(there.config) == 0
        assert count(app.config) == 1


def url_of(conninfo: str) -> str:
    parts = conninfo_to_dict(conninfo)
    host = str(parts.get("host") or "")
    user, port, name = parts.get("user") or "postgres", parts.get("port") or 5432, parts["dbname"]
    if host.startswith("/"):
        return f"postgresql://{user}@/{name}?host={host}&port={port}"
    return f"postgresql://{user}@{host}:{port}/{name}"


@on_postgres
async def test_a_database_without_the_schema_is_refused(bench: Bench, whole: Workflow[[], int]) -> None:
    with elsewhere(bench.app) as url, psycopg.connect(url) as connection:
        async with Runtime(bench.app) as rt:
            for message in await refusals(rt, bench.add, whole, connection):
                assert "another server or database" in message
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


@on_postgres
async def test_a_connection_is_looked_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runtime(bench.app) as rt:
        asked: list[str] = []
        sql = rt._engine.broker._sql  # type: ignore[attr-defined]
        identity = rt._engine.broker._identity  # type: ignore[attr-defined]
        ask = identity.ask

        async def counting(fetch: Any) -> str:
            asked.append("")
            return str(await ask(fetch))

        monkeypatch.setattr(identity, "ask", counting)
        assert "tasks.place" in sql
        with psycopg.connect(bench.app.config.url) as connection:
            for _ in range(3):
                (await bench.add.handle(rt).using(connection).send(1, 2)).unwrap()
        assert len(asked) == 2  # the connection, and the broker's own place
        async with rt.transaction() as own:
            (await bench.add.handle(rt).using(own).send(1, 2)).unwrap()
        assert len(asked) == 2


@on_postgres
async def test_a_database_that_has_moved_is_looked_at_anew(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        rt._engine.broker._identity._place = "as before a failover"  # type: ignore[attr-defined]
        with psycopg.connect(bench.app.config.url) as connection:
            (await bench.add.handle(rt).using(connection).send(1, 2)).unwrap()


@on_postgres
async def test_a_role_without_privileges_is_told_so(bench: Bench) -> None:
    config = bench.app.config
    async with Runtime(bench.app) as rt:
        with psycopg.connect(config.url) as connection:
            connection.execute(f"CREATE ROLE {config.schema}_nobody".encode())
            connection.execute(f"SET LOCAL ROLE {config.schema}_nobody".encode())
            error = (await bench.add.handle(rt).using(connection).send(1, 2)).unwrap_err()
            assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, False)
            assert "42501" in error.message
            connection.rollback()


@on_postgres
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_connection_of_another_loop_is_refused(bench: Bench, whole: Workflow[[], int]) -> None:
    opened: list[Any] = []

    async def open_one() -> None:
        opened.append(await psycopg.AsyncConnection.connect(bench.app.config.url))

    await anyio.to_thread.run_sync(lambda: anyio.run(open_one, backend="asyncio"))
    async with Runtime(bench.app) as rt:
        for message in await refusals(rt, bench.add, whole, opened[0]):
            assert "Runtime.transaction()" in message
    await anyio.to_thread.run_sync(lambda: anyio.run(opened[0].close, backend="asyncio"))


@on_postgres
def test_a_blocking_runtime_refuses_the_same(bench: Bench, whole: Workflow[[], int]) -> None:
    with blocking(bench.app) as rt:
        for connection in (None, "postgresql://", 42):
            assert bench.add.handle(rt).using(connection).send(1, 2).unwrap_err().code is REFUSED
            assert whole.handle(rt).using(connection).start().unwrap_err().code is REFUSED
        with psycopg.connect(bench.app.config.url) as own:
            bench.add.handle(rt).using(own).send(1, 2).unwrap()
    assert count(bench.app.config) == 1
