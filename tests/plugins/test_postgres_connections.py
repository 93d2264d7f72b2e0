"""Sessions whose connections are one set. They are direct: behind a pooler nobody knows which process serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import replace

import anyio
import psycopg
import pytest
from sessions import pid

from horsies.abc import BrokerError
from horsies.plugins.postgres.driver.session import Connections, Session, Target

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def busy_together(sessions: list[Session]) -> list[int]:
    """Of each session the process that served it, while all of them were at work."""
    async with AsyncExitStack() as stack:
        fetches = [await stack.enter_async_context(session.transaction("ask")) for session in sessions]
        return [int((await fetch("ask", "SELECT pg_backend_pid()", {}))[0][0]) for fetch in fetches]


@pytest.fixture
def observer(postgres_url: str) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(postgres_url, autocommit=True)) as observer:
        yield observer


@pytest.fixture
def target(postgres_url: str) -> Target:
    return Target(postgres_url, connect_timeout=10, statement_timeout=10, pooled=False)


def alive(observer: psycopg.Connection, pids: list[int]) -> set[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s)"
    return {number for (number,) in observer.execute(query, (pids,)).fetchall()}


async def test_what_runs_one_after_the_other_has_one_connection(target: Target) -> None:
    connections = Connections()
    async with connections.open_session(target) as one, connections.open_session(target) as other:
        assert await pid(one) == await pid(other) == await pid(one)
        async with one.transaction("ask") as fetch:
            ((within,),) = await fetch("ask", "SELECT pg_backend_pid()", {})
            assert await pid(other) != within
        assert await pid(other) == within


async def test_the_one_used_last_is_lent_first(target: Target) -> None:
    connections = Connections()
    async with connections.open_session(target) as one, connections.open_session(target) as other:
        first, second = await busy_together([one, other])
        assert first != second
        last = await pid(one)
        assert [await pid(other), await pid(one)] == [last, last]


async def test_other_settings_are_another_connection(target: Target) -> None:
    connections = Connections()
    hasty = replace(target, lock_timeout=0.5)
    async with connections.open_session(target) as one, connections.open_session(hasty) as other:
        assert await pid(one) != await pid(other)
        assert await one.fetch("ask", "SHOW lock_timeout", {}) == [("0",)]
        assert await other.fetch("ask", "SHOW lock_timeout", {}) == [("500ms",)]


async def test_there_are_never_more_than_sessions(target: Target, observer: psycopg.Connection) -> None:
    connections = Connections()
    async with connections.open_session(target) as one:
        async with connections.open_session(target) as other, connections.open_session(target) as third:
            pids = await busy_together([one, other, third])
            assert len(set(pids)) == 3
            last = await pid(third)
        with anyio.fail_after(10):
            while alive(observer, pids) != {last}:
                await anyio.sleep(0.01)
        assert await pid(one) == last
    with anyio.fail_after(10):
        while alive(observer, pids):
            await anyio.sleep(0.01)


async def test_when_the_server_has_closed_them_all_one_statement_fails(
    target: Target, observer: psycopg.Connection
) -> None:
    connections = Connections()
    async with connections.open_session(target) as one, connections.open_session(target) as other:
        pids = await busy_together([one, other])
        observer.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", (pids,))
        with anyio.fail_after(10):
            while alive(observer, pids):
                await anyio.sleep(0.01)
        with pytest.raises(BrokerError) as caught:
            await pid(one)
        assert caught.value.retryable
        assert not set(await busy_together([one, other])) & set(pids)


async def test_one_that_is_not_at_rest_is_lent_to_nobody(target: Target, observer: psycopg.Connection) -> None:
    connections = Connections()
    async with connections.open_session(target) as one, connections.open_session(target) as other:
        before = await pid(one)
        await one.fetch("begin", "BEGIN", {})
        assert await pid(other) != before
        with anyio.fail_after(10):
            while alive(observer, [before]):
                await anyio.sleep(0.01)


async def test_one_that_is_in_use_ends_with_its_session(target: Target, observer: psycopg.Connection) -> None:
    connections = Connections()
    failures: list[BrokerError] = []

    async def wait() -> None:
        with pytest.raises(BrokerError) as caught:
            await session.fetch("ask", "SELECT pg_sleep(20)", {})
        failures.append(caught.value)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, connections.open_session(target) as session:
            served = await pid(session)
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
        assert [failure.retryable for failure in failures] == [True]
        observer.execute("SELECT pg_cancel_backend(%s)", (served,))  # it would not look before the query ends
        while alive(observer, [served]):
            await anyio.sleep(0.01)
    async with connections.open_session(target) as session:
        assert await pid(session) != served
