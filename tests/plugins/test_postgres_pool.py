"""Short borrows on both event loops, against a real server: nothing is lost, nothing dirty comes back."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row

from horsies.plugins.postgres.driver.connection import AnyioConnection, connect
from horsies.plugins.postgres.driver.pool import ConnectionPool

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def pid_of(connection: AnyioConnection) -> int:
    row = await (await connection.execute("select pg_backend_pid()")).fetchone()
    assert row is not None
    pid: int = row[0]
    return pid


def pool_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("horsies-")]


@contextmanager
def gate_to(url: str) -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """A URL whose first connection is taken, then answered only when the second event is set (the first: it came)."""
    parameters = psycopg.conninfo.conninfo_to_dict(url)
    came, opened = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as front:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with source, sink:
                try:
                    while data := source.recv(65536):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

        def serve() -> None:
            client, _ = front.accept()
            came.set()
            opened.wait(30)
            server = socket.socket(socket.AF_UNIX)
            server.connect(f"{parameters['host']}/.s.PGSQL.{parameters.get('port', 5432)}")
            back = threading.Thread(target=pump, args=(server.dup(), client.dup()))
            back.start()
            pump(client, server)
            back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        inside = {"host": "127.0.0.1", "hostaddr": "", "port": str(front.getsockname()[1]), "sslmode": "disable"}
        kept = {name: str(parameters[name]) for name in ("user", "password", "dbname") if parameters.get(name)}
        try:
            yield psycopg.conninfo.make_conninfo(**kept, **inside), came, opened
        finally:
            opened.set()
            thread.join(10)


async def test_borrowing_again_gives_the_same_connection(postgres_url: str) -> None:
    async with ConnectionPool(postgres_url, min_size=0, max_size=2, timeout=10) as pool:
        async with pool.connection() as first:
            pid = await pid_of(first)
        async with pool.connection() as second:
            assert second is first
            assert await pid_of(second) == pid


async def test_configured_once(postgres_url: str) -> None:
    calls = 0

    async def configure(connection: AnyioConnection) -> None:
        nonlocal calls
        calls += 1
        await connection.execute("set application_name = 'configured'")

    async with ConnectionPool(postgres_url, min_size=0, max_size=1, timeout=10, configure=configure) as pool:
        for _ in range(3):
            async with pool.connection() as connection:
                cursor = await connection.execute("show application_name")
                assert await cursor.fetchone() == ("configured",)
    assert calls == 1


async def test_failing_configure_loses_no_turn(postgres_url: str) -> None:
    async def configure(connection: AnyioConnection) -> None:
        await connection.execute("select 1 / 0")

    async with ConnectionPool(postgres_url, min_size=0, max_size=1, timeout=10, configure=configure) as pool:
        for _ in range(3):
            with pytest.raises(psycopg.errors.DivisionByZero):
                async with pool.connection():
                    pytest.fail("a connection that was not configured was lent")


async def test_handover_among_many(postgres_url: str) -> None:
    lent = most = 0
    pids: set[int] = set()

    async def borrow(pool: ConnectionPool) -> None:
        nonlocal lent, most
        async with pool.connection() as connection:
            lent += 1
            most = max(most, lent)
            pids.add(await pid_of(connection))
            lent -= 1

    async with (
        ConnectionPool(postgres_url, min_size=1, max_size=1, timeout=10) as pool,
        anyio.create_task_group() as group,
    ):
        for _ in range(20):
            group.start_soon(borrow, pool)
    assert most == 1
    assert len(pids) == 1


async def test_grows_to_its_size_and_no_further(postgres_url: str) -> None:
    pids: set[int] = set()
    everyone = anyio.Event()

    async def borrow(pool: ConnectionPool) -> None:
        async with pool.connection() as connection:
            pids.add(await pid_of(connection))
            if len(pids) == 3:
                everyone.set()
            await everyone.wait()

    async with (
        ConnectionPool(postgres_url, min_size=0, max_size=3, timeout=10) as pool,
        anyio.create_task_group() as group,
    ):
        for _ in range(6):
            group.start_soon(borrow, pool)
    assert len(pids) == 3


async def test_all_lent_says_so(postgres_url: str) -> None:
    async with ConnectionPool(postgres_url, min_size=0, max_size=1, timeout=0.5) as pool:
        async with pool.connection():
            with pytest.raises(psycopg_pool.PoolTimeout, match=r"all were lent.*pool\.max_size"):
                async with pool.connection():
                    pytest.fail("one connection was lent twice")
        async with pool.connection() as connection:
            assert await pid_of(connection)


async def test_terminated_while_lent(postgres_url: str) -> None:
    async with ConnectionPool(postgres_url, min_size=1, max_size=1, timeout=10) as pool:
        observer = await connect(postgres_url, timeout=10)
        async with pool.connection() as connection:
            pid = await pid_of(connection)
            await observer.execute("select pg_terminate_backend(%s, 5000)", (pid,))
            with pytest.raises(psycopg.OperationalError):
                await connection.execute("select 1")
        async with pool.connection() as connection:
            assert await pid_of(connection) != pid
        await observer.close()


async def test_terminated_while_in_the_pool(postgres_url: str) -> None:
    """After a restart of the server, no borrower pays for the connections that died meanwhile."""
    async with ConnectionPool(postgres_url, min_size=1, max_size=1, timeout=10) as pool:
        observer = await connect(postgres_url, timeout=10)
        async with pool.connection() as connection:
            pid = await pid_of(connection)
        await observer.execute("select pg_terminate_backend(%s, 5000)", (pid,))
        async with pool.connection() as connection:
            assert await pid_of(connection) != pid
        await observer.close()


@pytest.mark.parametrize(
    "left", ["transaction", "pipeline", "listen", "row_factory", "autocommit", "isolation", "copy"]
)
async def test_only_pristine_connections_come_back(postgres_url: str, left: str) -> None:
    async with ConnectionPool(postgres_url, min_size=0, max_size=1, timeout=10) as pool:
        async with pool.connection() as connection:
            pid = await pid_of(connection)
            match left:
                case "transaction":
                    await connection.execute("begin")
                case "pipeline":
                    connection.pgconn.enter_pipeline_mode()
                case "listen":
                    await connection.execute("listen door")
                case "row_factory":
                    connection.row_factory = dict_row
                case "autocommit":
                    await connection.set_autocommit(False)
                case "isolation":
                    await connection.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
                case "copy":
                    connection.pgconn.send_query(b"copy (select 1) to stdout")
        async with pool.connection() as connection:
            assert await pid_of(connection) != pid
            assert await (await connection.execute("select 1")).fetchone() == (1,)


async def test_cancelled_borrower_gives_a_usable_connection_back(postgres_url: str) -> None:
    async with ConnectionPool(postgres_url, min_size=0, max_size=1, timeout=10) as pool:
        async with pool.connection() as connection:
            pid = await pid_of(connection)
        with anyio.move_on_after(0.1) as scope:
            async with pool.connection() as connection, connection.transaction():
                await connection.execute("select pg_sleep(3600)")
        assert scope.cancelled_caught
        async with pool.connection() as connection:
            assert await pid_of(connection) == pid


async def test_a_borrower_who_gives_up_while_the_pool_connects(postgres_url: str) -> None:
    """Nobody is left to take the connection that is opened for him, so it waits in the pool."""
    with gate_to(postgres_url) as (url, came, opened):
        async with ConnectionPool(url, min_size=0, max_size=1, timeout=20) as pool:
            async with anyio.create_task_group() as group:

                async def borrow() -> None:
                    async with pool.connection():
                        pytest.fail("lent although the server had not answered")

                group.start_soon(borrow)
                assert await anyio.to_thread.run_sync(came.wait, 10)
                started = anyio.current_time()
                group.cancel_scope.cancel()
            assert anyio.current_time() - started < 2
            opened.set()
            async with pool.connection() as connection:
                assert await pid_of(connection)
            # The gate lets one connection through: this was the one the first borrower had asked for.


async def test_dead_port_names_the_cause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"postgresql://me:hunter2@127.0.0.1:{port}/app"
        async with ConnectionPool(url, min_size=1, max_size=1, timeout=0.5) as pool:
            with pytest.raises(psycopg_pool.PoolTimeout, match=f"host 127.0.0.1, port {port}.*refused") as info:
                async with pool.connection():
                    pytest.fail("nothing listens there")
            assert "hunter2" not in f"{info.value!s} {info.value!r} {pool!r}"
    assert "error connecting" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_mute_server_is_bounded_and_left_at_once_and_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"postgresql://127.0.0.1:{mute.getsockname()[1]}/app"
        started = anyio.current_time()
        async with ConnectionPool(url, min_size=1, max_size=1, timeout=0.5) as pool:
            with pytest.raises(psycopg_pool.PoolTimeout, match="did not answer"):
                async with pool.connection():
                    pytest.fail("nobody answers there")
        assert anyio.current_time() - started < 2
        assert pool_threads() == []
    assert caplog.text == ""


async def test_recovers_when_the_server_comes_up(postgres_url: str) -> None:
    """A borrower who already waits gets the first connection that can be opened."""
    with gate_to(postgres_url) as (url, came, opened):
        pool = ConnectionPool(url, min_size=0, max_size=1, timeout=20)

        async def borrow() -> None:
            async with pool.connection() as connection:
                assert await pid_of(connection)

        async with pool, anyio.create_task_group() as group:
            group.start_soon(borrow)
            assert await anyio.to_thread.run_sync(came.wait, 10)
            opened.set()


async def test_no_thread_and_no_connection_is_left(postgres_url: str) -> None:
    observer = await connect(postgres_url, timeout=10)
    url = psycopg.conninfo.make_conninfo(postgres_url, application_name="counted")
    query = "select count(*) from pg_stat_activity where application_name = 'counted'"
    async with ConnectionPool(url, min_size=2, max_size=4, timeout=10) as pool:
        async with pool.connection(), pool.connection():
            row = await (await observer.execute(query)).fetchone()
            assert row is not None
            assert row[0] >= 2
        assert pool_threads() != []
    assert pool_threads() == []
    with anyio.fail_after(5):
        while await (await observer.execute(query)).fetchone() != (0,):
            await anyio.sleep(0.01)
    await observer.close()


async def test_no_thread_per_query(postgres_url: str) -> None:
    async with ConnectionPool(postgres_url, min_size=1, max_size=1, timeout=10) as pool:
        async with pool.connection() as connection:
            await pid_of(connection)
        before = set(threading.enumerate())
        seen: set[threading.Thread] = set()

        async def watch() -> None:
            while True:
                seen.update(threading.enumerate())
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            for _ in range(20):
                async with pool.connection() as connection:
                    await connection.execute("select pg_sleep(0.001)")
            group.cancel_scope.cancel()
        assert seen - before == set()


async def test_a_listener_keeps_listening_for_its_borrow_only(postgres_url: str) -> None:
    async with ConnectionPool(postgres_url, min_size=0, max_size=2, timeout=10) as pool:
        async with pool.connection() as listener, pool.connection() as sender:
            await listener.execute("listen door")
            await sender.execute("notify door, 'knock'")
            async with aclosing(listener.notifies(timeout=10)) as notifications:
                assert (await anext(notifications)).payload == "knock"
        assert listener.closed
        assert not sender.closed
