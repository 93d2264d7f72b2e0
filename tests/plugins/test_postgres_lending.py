"""Sessions that take turns, because the server takes no further connection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import anyio
import psycopg
import pytest
from everything import role
from sessions import pid

from horsies.abc import BrokerError
from horsies.plugins.postgres.driver import lending
from horsies.plugins.postgres.driver.connection import connect
from horsies.plugins.postgres.driver.pool import ConnectionPool
from horsies.plugins.postgres.driver.session import Connections, Session, Target
from horsies.plugins.postgres.driver.sharing import Sharing, is_full

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def alone(postgres_url: str) -> Iterator[Target]:
    """Where one connection may be open at a time."""
    with role(postgres_url, "CONNECTION LIMIT 1") as url:
        yield Target(url, connect_timeout=10, statement_timeout=10, pooled=False)


async def test_sessions_with_other_settings_share_one_connection(alone: Target) -> None:
    connections = Connections()
    hasty = replace(alone, lock_timeout=0.5)
    async with connections.open_session(alone) as one, connections.open_session(hasty) as other:
        first = await pid(one)
        for _ in range(2):
            assert await pid(other) == first
            assert await other.fetch("ask", "SHOW lock_timeout", {}) == [("500ms",)]
            assert await pid(one) == first
            assert await one.fetch("ask", "SHOW lock_timeout", {}) == [("0",)]


async def test_one_that_waits_gets_the_connection_before_the_one_that_gave_it_back(alone: Target) -> None:
    connections = Connections()
    async with connections.open_session(alone) as busy, connections.open_session(alone) as other:
        answered: list[str] = []

        async def ask_again_and_again() -> None:
            while "other" not in answered:
                await busy.fetch("ask", "SELECT 1", {})
                answered.append("busy")

        async def ask_once() -> None:
            await other.fetch("ask", "SELECT 1", {})
            answered.append("other")

        with anyio.fail_after(20):
            async with busy.transaction("ask"), anyio.create_task_group() as group:
                group.start_soon(ask_once)
                await anyio.sleep(0.3)  # it is refused a connection of its own, and waits
                assert answered == []
                group.cancel_scope.cancel()
            async with anyio.create_task_group() as group:
                group.start_soon(ask_again_and_again)
                group.start_soon(ask_once)
        assert answered.index("other") <= 3


async def test_one_that_gives_up_waiting_leaves_the_connection_to_the_next(alone: Target) -> None:
    connections = Connections()
    async with connections.open_session(alone) as one, connections.open_session(alone) as other:
        for _ in range(3):
            async with one.transaction("ask"):
                with anyio.move_on_after(0.1) as scope:
                    await pid(other)
                assert scope.cancelled_caught
            assert await pid(other) == await pid(one)


async def test_a_connection_that_breaks_makes_room_for_those_who_wait(alone: Target, postgres_url: str) -> None:
    connections = Connections()
    observer = await connect(postgres_url, timeout=10)
    async with connections.open_session(alone) as one, connections.open_session(alone) as other:
        first = await pid(one)
        found: list[int] = []

        async def ask(session: Session) -> None:
            found.append(await pid(session))

        async def break_while_asked() -> None:
            async with one.transaction("ask") as fetch:
                group.start_soon(ask, other)
                await anyio.sleep(0.3)
                await observer.execute("SELECT pg_terminate_backend(%s, 5000)", (first,))
                await fetch("ask", "SELECT 1", {})

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                with pytest.raises(BrokerError):
                    await break_while_asked()
        assert found != [first]
        assert len(found) == 1
    await observer.close()


async def test_where_others_hold_every_connection_the_failure_says_so(
    alone: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "ROOM", 0.2)
    holder = await connect(alone.conninfo, timeout=10)
    async with Connections().open_session(alone) as session:
        with pytest.raises(BrokerError, match="too many connections for role") as caught:
            await pid(session)
        assert caught.value.retryable
        await holder.close()
        with anyio.fail_after(20):
            while True:
                try:
                    await pid(session)
                    break
                except BrokerError:
                    await anyio.sleep(0.05)


async def test_parts_give_up_idle_connections_for_each_other(alone: Target) -> None:
    sharing = Sharing()
    connections = Connections(sharing)
    pool = ConnectionPool(alone.conninfo, min_size=1, max_size=3, timeout=20, sharing=sharing)
    async with pool, connections.open_session(alone) as session:
        async with pool.connection() as lent:
            assert not lent.closed
        await pid(session)
        assert lent.closed
        # A session's last connection is not given up.
        quick = ConnectionPool(alone.conninfo, min_size=0, max_size=1, timeout=0.5, sharing=sharing)
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            async with quick, quick.connection():
                pytest.fail("there was one connection, and a session has it")


@pytest.mark.parametrize(
    "said",
    [
        'FATAL:  too many connections for role "app"',
        'FATAL:  too many connections for database "app"',
        "FATAL:  sorry, too many clients already",
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "FATAL:  remaining connection slots are reserved for non-replication superuser connections",
        "FATAL:  no more connections allowed (max_client_conn)",
        "FATAL:  client connections exceeded (max_db_client_connections)",
    ],
)
def test_a_refusal_for_want_of_connections_is_recognised(said: str) -> None:
    assert is_full(psycopg.OperationalError(f"connection to server failed: {said}"))
    assert not is_full("FATAL:  the database system is starting up")
