"""psycopg on both event loops, against a real server: what is cancelled leaves a connection usable or closed."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import anyio
import anyio.lowlevel
import psycopg
import pytest
from psycopg import generators
from psycopg.pq import TransactionStatus

from horsies import HorsiesError
from horsies.plugins.postgres.driver import overrides
from horsies.plugins.postgres.driver.connection import AnyioConnection, WaitExpired, connect

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@asynccontextmanager
async def opened(url: str, *, autocommit: bool = True) -> AsyncIterator[AnyioConnection]:
    connection = await connect(url, timeout=10, autocommit=autocommit)
    try:
        yield connection
    finally:
        await connection.close()


async def value(connection: AnyioConnection, query: str) -> object:
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row else None


async def is_usable(connection: AnyioConnection) -> bool:
    async with connection.transaction():
        return await value(connection, "select 42") == 42


async def until_busy(observer: AnyioConnection, watched: AnyioConnection, marker: str) -> None:
    """Return once the server runs a statement of `watched` that contains `marker`."""
    query = "select 1 from pg_stat_activity where pid = %s and state = 'active' and query like %s"
    with anyio.fail_after(10):
        while not await (await observer.execute(query, (watched.info.backend_pid, f"%{marker}%"))).fetchone():
            await anyio.sleep(0.005)


async def test_round_trip(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        cursor = await connection.execute("select n, n::text from generate_series(1, %s) as n", (1000,))
        assert await cursor.fetchall() == [(n, str(n)) for n in range(1, 1001)]
        assert await value(connection, "show application_name") == "horsies"


async def test_the_url_names_the_application(postgres_url: str) -> None:
    separator = "&" if "?" in postgres_url else "?"
    async with opened(f"{postgres_url}{separator}application_name=mine") as connection:
        assert await value(connection, "show application_name") == "mine"


async def test_key_value_pairs_connect_too(postgres_url: str) -> None:
    pairs = psycopg.conninfo.make_conninfo(postgres_url, application_name="pairs")
    assert "://" not in pairs
    async with opened(pairs) as connection:
        assert await is_usable(connection)


async def test_a_large_query_and_a_large_answer(postgres_url: str) -> None:
    """More than the socket buffers hold, so that sending has to wait for reading."""
    async with opened(postgres_url) as connection:
        text = "x" * 16_000_000
        cursor = await connection.execute("select %s::text", (text,))
        assert await cursor.fetchone() == (text,)


async def test_cancelled_query_leaves_the_connection_usable(postgres_url: str) -> None:
    async with opened(postgres_url) as connection, opened(postgres_url) as observer:
        pid = connection.info.backend_pid
        async with anyio.create_task_group() as group:
            group.start_soon(connection.execute, "select pg_sleep(3600)")
            await until_busy(observer, connection, "pg_sleep")
            group.cancel_scope.cancel()
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert await value(connection, "select pg_backend_pid()") == pid


async def test_cancelled_before_it_starts_sends_nothing(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.execute("create table never (n int)")
        assert scope.cancelled_caught
        assert await value(connection, "select to_regclass('never')") is None


async def test_cancelled_transaction_is_rolled_back(postgres_url: str) -> None:
    async with opened(postgres_url) as connection, opened(postgres_url) as observer:
        await connection.execute("create temp table written (n int)")

        async def write() -> None:
            async with connection.transaction():
                await connection.execute("insert into written values (1)")
                async with connection.transaction():
                    await connection.execute("insert into written values (2)")
                    await connection.execute("select pg_sleep(3600)")

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await until_busy(observer, connection, "pg_sleep")
            group.cancel_scope.cancel()
        assert await value(connection, "select count(*) from written") == 0
        assert await is_usable(connection)


async def test_transaction_cancelled_between_statements(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        await connection.execute("create temp table written (n int)")
        with anyio.CancelScope() as scope:
            async with connection.transaction():
                await connection.execute("insert into written values (1)")
                scope.cancel()
        assert scope.cancelled_caught
        assert await value(connection, "select count(*) from written") == 0
        assert await is_usable(connection)


async def test_transaction_cancelled_on_entering(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with connection.transaction():
                pytest.fail("the block of a cancelled transaction ran")
        assert await is_usable(connection)


async def test_cancelled_commit_leaves_no_open_transaction(postgres_url: str) -> None:
    async with opened(postgres_url) as connection, opened(postgres_url) as observer:
        await connection.execute(
            """
            create temp table slow (n int);
            create function pg_temp.doze() returns trigger language plpgsql as
                $$ begin perform pg_sleep(3600); return null; end $$;
            create constraint trigger doze after insert on slow deferrable initially deferred
                for each row execute function pg_temp.doze()
            """
        )

        async def write() -> None:
            async with connection.transaction():
                await connection.execute("insert into slow values (1)")

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await until_busy(observer, connection, "COMMIT")
            group.cancel_scope.cancel()
        assert await value(connection, "select count(*) from slow") == 0
        assert await is_usable(connection)


async def test_transaction_commits_and_rolls_back(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        await connection.execute("create temp table written (n int)")
        async with connection.transaction():
            await connection.execute("insert into written values (1)")
            with suppress(psycopg.errors.DivisionByZero):
                async with connection.transaction():
                    await connection.execute("insert into written values (2)")
                    await connection.execute("select 1 / 0")
            async with connection.transaction() as inner:
                await connection.execute("insert into written values (3)")
                raise psycopg.Rollback(inner)
        assert await value(connection, "select array_agg(n) from written") == [1]


async def test_terminated_backend_raises_and_closes(postgres_url: str) -> None:
    async with opened(postgres_url) as connection, opened(postgres_url) as observer:
        raised: list[psycopg.Error] = []

        async def sleep() -> None:
            with pytest.raises(psycopg.OperationalError) as info:
                await connection.execute("select pg_sleep(3600)")
            raised.append(info.value)

        async with anyio.create_task_group() as group:
            group.start_soon(sleep)
            await until_busy(observer, connection, "pg_sleep")
            await observer.execute("select pg_terminate_backend(%s)", (connection.info.backend_pid,))
        assert raised
        assert connection.closed
        assert not connection.is_at_rest()


async def test_notifications_and_a_cancelled_wait_for_them(postgres_url: str) -> None:
    async with opened(postgres_url) as listener, opened(postgres_url) as sender:
        await listener.execute("listen door")
        await sender.execute("notify door, 'one'")
        async with aclosing(listener.notifies(timeout=10)) as notifications:
            assert (await anext(notifications)).payload == "one"

        with anyio.move_on_after(0.05) as scope:
            async with aclosing(listener.notifies()) as notifications:
                await anext(notifications)
        assert scope.cancelled_caught
        assert await is_usable(listener)

        await sender.execute("notify door, 'two'")
        async with aclosing(listener.notifies(timeout=10)) as notifications:
            assert (await anext(notifications)).payload == "two"


async def test_notifies_ends_with_its_timeout(postgres_url: str) -> None:
    async with opened(postgres_url) as listener:
        await listener.execute("listen door")
        started = anyio.current_time()
        async with aclosing(listener.notifies(timeout=0.05)) as notifications:
            assert [n async for n in notifications] == []
        assert 0.04 <= anyio.current_time() - started < 5
        async with aclosing(listener.notifies(timeout=0)) as notifications:
            assert [n async for n in notifications] == []
        assert await is_usable(listener)


async def test_closing_wakes_whoever_waits(postgres_url: str) -> None:
    """A waiter left asleep on a closed descriptor would break the next connection that gets the number."""
    async with opened(postgres_url) as listener:
        await listener.execute("listen door")
        waiting = anyio.Event()
        ended = False

        async def listen() -> None:
            nonlocal ended
            async with aclosing(listener.notifies()) as notifications:
                waiting.set()
                with pytest.raises(psycopg.OperationalError):
                    await anext(notifications)
            ended = True

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(listen)
                await waiting.wait()
                await anyio.wait_all_tasks_blocked()
                await listener.close()
        assert ended
    async with opened(postgres_url) as successor:
        assert await is_usable(successor)


async def test_pipeline(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        async with connection.pipeline():
            cursors = [await connection.execute("select %s::int", (n,)) for n in range(100)]
        assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(100)]
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with connection.pipeline():
                await connection.execute("select 1 / 0")
        assert await is_usable(connection)


async def test_cancelled_pipeline_leaves_the_connection_usable_or_closed(postgres_url: str) -> None:
    async with opened(postgres_url) as connection, opened(postgres_url) as observer:

        async def run() -> None:
            async with connection.pipeline() as pipeline:
                await connection.execute("select 1")
                await connection.execute("select pg_sleep(3600)")
                await connection.execute("select 2")
                await pipeline.sync()

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await until_busy(observer, connection, "pg_sleep")
            group.cancel_scope.cancel()
        assert await is_usable(connection)


async def test_pipeline_cancelled_while_it_ends(postgres_url: str) -> None:
    async with opened(postgres_url) as connection, opened(postgres_url) as observer:

        async def run() -> None:
            async with connection.pipeline():
                await connection.execute("select pg_sleep(3600)")

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await until_busy(observer, connection, "pg_sleep")
            group.cancel_scope.cancel()
        assert await is_usable(connection)


async def test_copy_in_and_out(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        await connection.execute("create temp table copied (n int, s text)")
        rows = [(n, f"row {n}") for n in range(20_000)]
        cursor = connection.cursor()
        async with cursor.copy("copy copied from stdin") as copy:
            for row in rows:
                await copy.write_row(row)
        async with cursor.copy("copy (select * from copied order by n) to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert [row async for row in copy.rows()] == rows


@pytest.mark.parametrize("query", ["copy copied from stdin", "copy (select generate_series(1, 1e9)) to stdout"])
async def test_cancelled_copy_leaves_the_connection_usable(postgres_url: str, query: str) -> None:
    async with opened(postgres_url) as connection:
        await connection.execute("create temp table copied (n int)")
        with anyio.CancelScope() as scope:
            async with connection.cursor().copy(query) as copy:
                for n in range(10):
                    await (copy.write_row((n,)) if "from" in query.split()[:3] else copy.read())
                scope.cancel()
                while True:
                    await (copy.write_row((0,)) if "from" in query.split()[:3] else copy.read())
        assert scope.cancelled_caught
        assert await value(connection, "select count(*) from copied") == 0
        assert await is_usable(connection)


async def test_a_busy_copy_lets_others_run(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        await connection.execute("create temp table copied (n int)")
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as group:
            group.start_soon(other)
            async with connection.cursor().copy("copy copied from stdin") as copy:
                await anyio.lowlevel.checkpoint()
                before = turns
                started = anyio.current_time()
                while turns < before + 3:
                    await copy.write_row((1,))
                    assert anyio.current_time() - started < 10
            group.cancel_scope.cancel()


async def test_executemany_cancelled(postgres_url: str) -> None:
    async with opened(postgres_url) as connection, opened(postgres_url) as observer:

        async def run() -> None:
            await connection.cursor().executemany("select pg_sleep(%s)", [(0,), (3600,), (0,)])

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await until_busy(observer, connection, "pg_sleep")
            group.cancel_scope.cancel()
        assert await is_usable(connection)


async def test_one_at_a_time(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        seen: list[object] = []

        async def ask(n: int) -> None:
            cursor = await connection.execute("select %s::int", (n,))
            seen.append(await cursor.fetchone())

        async with anyio.create_task_group() as group:
            for n in range(50):
                group.start_soon(ask, n)
        assert sorted(seen) == [(n,) for n in range(50)]


async def test_no_thread_per_query(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        before = set(threading.enumerate())
        seen: set[threading.Thread] = set()

        async def watch() -> None:
            while True:
                seen.update(threading.enumerate())
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            for _ in range(20):
                await connection.execute("select pg_sleep(0.001)")
            group.cancel_scope.cancel()
        assert seen - before == set()


async def test_waiting_for_notices_ends_with_its_timeout(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        await connection.execute("LISTEN here; NOTIFY here, '1'; NOTIFY here, '2'")
        for timeout in (0, 0.05):
            async with aclosing(connection.notifies(timeout=timeout)) as notices:
                assert [notice.payload async for notice in notices] == (["1", "2"] if timeout == 0 else [])
        await connection.execute("NOTIFY here, '3'")
        async with aclosing(connection.notifies(timeout=20, stop_after=1)) as notices:
            assert [notice.payload async for notice in notices] == ["3"]
        assert connection.info.transaction_status == TransactionStatus.IDLE
        assert not connection.lock.locked()


async def test_a_wait_that_expires_cancels_the_query(postgres_url: str) -> None:
    async with opened(postgres_url) as connection:
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        with pytest.raises(WaitExpired):
            await connection.wait(generators.execute(connection.pgconn), timeout=0.05)
        assert connection.info.transaction_status == TransactionStatus.IDLE


def test_a_psycopg_that_lacks_what_is_overridden_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(overrides.OVERRIDDEN, psycopg.Connection, ("_connect_gen", "_gone"))
    with pytest.raises(HorsiesError, match=r"HRS-211[\s\S]*has no Connection._gone"):
        overrides.require_psycopg()
