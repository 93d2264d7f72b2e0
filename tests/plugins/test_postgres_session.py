"""A session's statements under locks, and with settings that last one transaction: a pooled session has no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from secrets import randbits, token_hex

import anyio
import anyio.lowlevel
import psycopg
import pytest
from everything import role
from sessions import pid

from horsies.abc import BrokerError
from horsies.plugins.postgres.driver import session as module
from horsies.plugins.postgres.driver.connection import AnyioConnection, connect
from horsies.plugins.postgres.driver.notices import Notices
from horsies.plugins.postgres.driver.pool import ConnectionPool
from horsies.plugins.postgres.driver.session import Connections, Row, Session, Target
from horsies.plugins.postgres.driver.settings import limited
from horsies.plugins.postgres.driver.transaction import Borrowing

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture(params=["direct", "pooled", "pgbouncer"])
def target(request: pytest.FixtureRequest, postgres_url: str) -> Target:
    """Pooled means what it does for a pooler, whether there is one or not."""
    url = request.getfixturevalue("pgbouncer").url if request.param == "pgbouncer" else postgres_url
    return Target(url, connect_timeout=10, statement_timeout=10, pooled=request.param != "direct")


@pytest.fixture
async def observer(postgres_url: str) -> AsyncIterator[AnyioConnection[Row]]:
    connection = await connect(postgres_url, timeout=10)
    yield connection
    await connection.close()


@pytest.fixture
async def table(observer: AnyioConnection[Row]) -> AsyncIterator[str]:
    name = f"counted_{token_hex(6)}"
    await observer.execute(f"CREATE TABLE {name} (n bigint)")
    yield name
    await observer.execute(f"DROP TABLE {name}")
    await observer.execute(f"DROP FUNCTION IF EXISTS {name}")


@pytest.fixture
async def refusing_table(observer: AnyioConnection[Row], table: str, request: pytest.FixtureRequest) -> str:
    """A table whose every insert goes well until its commit, where the parameter happens."""
    await observer.execute(
        f"CREATE FUNCTION {table}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {request.param}; RETURN NULL; END'"
    )
    await observer.execute(
        f"CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW EXECUTE FUNCTION {table}()"
    )
    return table


@pytest.fixture
def key() -> int:
    return randbits(64) - 2**63


async def until_waiting_for_lock(observer: AnyioConnection[Row], sessions: int = 1) -> None:
    """Return once so many sessions wait for an advisory lock."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with anyio.fail_after(10):
        while await (await observer.execute(query)).fetchone() != (sessions,):
            await anyio.sleep(0.005)


def open_session(target: Target) -> AbstractAsyncContextManager[Session]:
    """A session that shares its connection with none."""
    return Connections().open_session(target)


def idle_connection(session: Session) -> AnyioConnection[Row]:
    ((statements,),) = session._lending.idle.values()
    return statements.connection


async def test_what_runs_under_a_lock_sees_what_earlier_holders_committed(
    target: Target, observer: AnyioConnection[Row], table: str, key: int
) -> None:
    """With a snapshot from before the wait, all sessions would count the same and exceed the cap."""
    count_and_insert = f"INSERT INTO {table} SELECT 1 FROM {table} HAVING count(*) < %(cap)s RETURNING n"
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(open_session(target)) for _ in range(4)]
        for cap in (1, 2, 3):
            inserted: list[Row] = []

            async def run(session: Session, cap: int = cap, inserted: list[Row] = inserted) -> None:
                inserted += await session.fetch("insert", count_and_insert, {"cap": cap}, locks=[key])

            async with anyio.create_task_group() as group, observer.transaction():
                await observer.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
                for session in sessions:
                    group.start_soon(run, session)
                await until_waiting_for_lock(observer, len(sessions))
            assert len(inserted) == 1


@pytest.mark.parametrize("target", ["direct", "pooled"], indirect=True)
async def test_the_default_isolation_of_the_role_does_not_make_it_stale(
    postgres_url: str, target: Target, observer: AnyioConnection[Row], table: str, key: int
) -> None:
    separator = "&" if "?" in postgres_url else "?"
    options = "options=-c%20default_transaction_isolation%3Dserializable"
    strict = replace(target, conninfo=f"{postgres_url}{separator}{options}")
    counted: list[Row] = []

    async def count() -> None:
        counted.extend(await session.fetch("count", f"SELECT count(*) FROM {table}", {}, locks=[key]))

    async with open_session(strict) as session, anyio.create_task_group() as group, observer.transaction():
        await observer.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        group.start_soon(count)
        await until_waiting_for_lock(observer)
        await observer.execute(f"INSERT INTO {table} VALUES (1)")
    assert counted == [(1,)]


@pytest.mark.parametrize("pooled", [False, True])
async def test_a_borrowed_transaction_sees_what_others_committed_meanwhile(postgres_url: str, pooled: bool) -> None:
    with role(postgres_url, "SET default_transaction_isolation = 'serializable'") as url:
        pool = ConnectionPool(url, min_size=0, max_size=1, timeout=10, settings=limited(10.0), pooled=pooled)
        async with pool:
            borrowing = Borrowing(pool.connection, Notices(), 10.0)
            ask = "SELECT current_setting('transaction_isolation')"
            found = await borrowing.transact("ask", lambda fetch: fetch("ask", ask, {}), lock_wait="1s")
    assert found == [("read committed",)]


async def test_locks_end_with_the_call(target: Target, observer: AnyioConnection[Row], key: int) -> None:
    async with open_session(target) as session:
        others = [key, key + 1 if key < 2**63 - 1 else 0, key]
        assert await session.fetch("ask", "SELECT %(n)s::int", {"n": 7}, locks=others) == [(7,)]
        for one in others:
            cursor = await observer.execute("SELECT pg_try_advisory_lock(%s), pg_advisory_unlock(%s)", (one, one))
            assert await cursor.fetchone() == (True, True)


async def test_locks_are_taken_in_one_order(target: Target, observer: AnyioConnection[Row]) -> None:
    """Sessions that name the same locks in different orders never lock each other up."""
    low, high = sorted(randbits(62) for _ in range(2))

    async def run(locks: list[int]) -> None:
        async with open_session(target) as session:
            for _ in range(20):
                await session.fetch("ask", "SELECT pg_sleep(0.001)::text", {}, locks=locks)

    async with anyio.create_task_group() as group:
        group.start_soon(run, [low, high])
        group.start_soon(run, [high, low])


async def test_a_failure_leaves_the_session_usable(target: Target, key: int) -> None:
    async with open_session(target) as session:
        before = await pid(session)
        for query in ("SELECT 1 / %(n)s::int", "SELECT * FROM there_is_no_such_table", "SELECT pg_advisory_xact_lock("):
            with pytest.raises(BrokerError) as caught:
                await session.fetch("ask", query, {"n": 0}, locks=[key])
            assert caught.value.code in {"22012", "42P01", "42601"}
            assert await session.fetch("ask", "SELECT %(n)s::int", {"n": 1}, locks=[key]) == [(1,)]
        assert await pid(session) == before


async def test_a_cancelled_wait_for_a_lock_leaves_nothing(
    target: Target, observer: AnyioConnection[Row], table: str, key: int
) -> None:
    insert = f"INSERT INTO {table} VALUES (1) RETURNING n"
    async with open_session(target) as session:
        before = await pid(session)
        async with observer.transaction():
            await observer.execute("SELECT pg_advisory_xact_lock(%s)", (key,))

            async def run() -> None:
                await session.fetch("insert", insert, {}, locks=[key])

            with anyio.fail_after(8):
                async with anyio.create_task_group() as group:
                    group.start_soon(run)
                    await until_waiting_for_lock(observer)
                    group.cancel_scope.cancel()
            assert await pid(session) == before
            cursor = await observer.execute(f"SELECT count(*) FROM {table}")
            assert await cursor.fetchone() == (0,)
        assert await session.fetch("insert", insert, {}, locks=[key]) == [(1,)]


async def test_a_lock_is_waited_for_no_longer_than_allowed(
    target: Target, observer: AnyioConnection[Row], key: int
) -> None:
    hasty = replace(target, lock_timeout=0.05)
    async with open_session(hasty) as session:
        async with observer.transaction():
            await observer.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
            with pytest.raises(BrokerError) as caught:
                await session.fetch("ask", "SELECT 1", {}, locks=[key])
            assert (caught.value.code, caught.value.retryable) == ("55P03", True)
        assert await session.fetch("ask", "SELECT 1", {}, locks=[key]) == [(1,)]


async def test_a_backend_that_ends_in_the_middle_is_replaced(
    target: Target, observer: AnyioConnection[Row], key: int
) -> None:
    async with open_session(target) as session:
        backend = await pid(session)

        async def run() -> None:
            with pytest.raises(BrokerError) as caught:
                await session.fetch("ask", "SELECT 1", {}, locks=[key])
            assert caught.value.retryable

        async with anyio.create_task_group() as group, observer.transaction():
            await observer.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
            group.start_soon(run)
            await until_waiting_for_lock(observer)
            await observer.execute("SELECT pg_terminate_backend(%s)", (backend,))
        assert await pid(session) != backend


async def test_one_round_trip(target: Target, postgres_url: str, key: int) -> None:
    """What is asked under a lock is sent before anything is answered."""
    with psycopg.connect(postgres_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (key,))
        async with open_session(target) as session, anyio.create_task_group() as group:
            answers: list[Row] = []

            async def run() -> None:
                answers.extend(await session.fetch("ask", "SELECT 1", {}, locks=[key]))

            await pid(session)
            group.start_soon(run)
            with anyio.fail_after(5):
                while session._used is None or not session._used.connection._pipeline:
                    await anyio.sleep(0.005)
                await anyio.wait_all_tasks_blocked()
            pipeline = session._used.connection._pipeline
            assert not pipeline.command_queue
            assert len(pipeline.result_queue) >= 5
            holder.rollback()
    assert answers == [(1,)]


async def test_nothing_is_sent_after_what_ends_the_transaction(target: Target, tmp_path: Path, key: int) -> None:
    """A pooler would lend another server for it, and never get that back."""
    async with open_session(target) as session:
        await session.fetch("ask", "SELECT 1", {}, locks=[key])
        connection = idle_connection(session)
        with (tmp_path / "trace").open("w") as trace:
            connection.pgconn.trace(trace.fileno())
            await session.fetch("ask", "SELECT 1", {}, locks=[key])
            connection.pgconn.untrace()
    lines = [line.split("\t") for line in (tmp_path / "trace").read_text().splitlines()]
    sent = [message for _, direction, _, message, *_ in lines if direction == "F"]
    assert sent.count("Sync") == 1
    assert sent[-1] == "Sync"


async def test_a_pooled_session_has_the_settings_of_a_direct_one_and_leaves_none(postgres_url: str) -> None:
    query = "SELECT name, setting FROM pg_settings ORDER BY name"
    found = []
    for pooled in (False, True):
        given = Target(postgres_url, connect_timeout=10, statement_timeout=7, pooled=pooled, lock_timeout=3)
        async with open_session(given) as session:
            rows = dict(await session.fetch("ask", query, {}))
            assert (rows["statement_timeout"], rows["lock_timeout"], rows["enable_seqscan"]) == ("7000", "3000", "off")
            found.append(rows)
            if pooled:
                connection = idle_connection(session)
                cursor = await connection.execute("SELECT count(*) FROM pg_settings WHERE source = 'session'")
                assert await cursor.fetchone() == (0,)
                cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
                assert await cursor.fetchone() == (0,)
    assert found[0] == found[1]


async def test_a_statement_takes_no_longer_than_it_may(target: Target, key: int) -> None:
    hasty = replace(target, statement_timeout=0.1)
    async with open_session(hasty) as session:
        for locks in ([], [key]):
            with pytest.raises(BrokerError, match="due to statement timeout") as caught:
                await session.fetch("ask", "SELECT pg_sleep(60)", {}, locks=locks)
            assert (caught.value.code, caught.value.retryable) == ("57014", True)
        assert await session.fetch("ask", "SELECT 1", {}) == [(1,)]


async def test_a_server_that_does_not_keep_its_own_timeout_is_not_waited_for(
    target: Target, observer: AnyioConnection[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked to stop, and the connection is as good as before."""
    query = f"SELECT pg_sleep(60), '{token_hex(6)}'"
    async with open_session(target) as session:
        before = await pid(session)
        monkeypatch.setattr(module, "_GRACE", 0.2 - target.statement_timeout)
        with (
            pytest.raises(BrokerError, match="the database did not answer within") as caught,
            anyio.fail_after(8),
        ):
            await session.fetch("ask", query, {})
        assert (caught.value.code, caught.value.retryable) == ("57014", True)
        cursor = await observer.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s", (query,)
        )
        assert await cursor.fetchone() == (0,)
        assert target.pooled or await pid(session) == before


async def test_what_no_text_can_have_is_refused_before_it_is_sent(target: Target) -> None:
    async with open_session(target) as session:
        with pytest.raises(BrokerError, match="DataError"):
            await session.fetch("ask", "SELECT %(text)s::text", {"text": "a\0b"})
        with pytest.raises(BrokerError, match="DataError"):
            await session.fetch("ask", "SELECT %(ids)s::uuid[]", {"ids": ["nothing of the kind"]})
        assert await session.fetch("ask", "SELECT %(text)s::text", {"text": "ab"}) == [("ab",)]


async def test_a_parameter_that_is_named_twice_is_one(target: Target) -> None:
    query = "SELECT %(n)s::bigint + 1, %(ids)s::bigint[], %(n)s::bigint, %(none)s::text, cardinality(%(ids)s::bigint[])"
    async with open_session(target) as session:
        for ids in ([7, 8], []):
            given = {"n": 41, "ids": ids, "none": None}
            assert await session.fetch("ask", query, given) == [(42, ids, 41, None, len(ids))]


async def test_a_statement_is_prepared_once_for_each_connection(
    postgres_url: str, observer: AnyioConnection[Row]
) -> None:
    target = Target(postgres_url, connect_timeout=10, statement_timeout=10, pooled=False)
    async with open_session(target) as session:
        for n in range(3):
            query = "SELECT pg_backend_pid(), %(n)s::bigint, (SELECT count(*) FROM pg_prepared_statements)"
            ((pid, seen, prepared),) = await session.fetch("ask", query, {"n": n})
            assert (seen, prepared) == (n, 2)
        await observer.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises(BrokerError):
            await session.fetch("ask", query, {"n": 3})
        ((other, seen, prepared),) = await session.fetch("ask", query, {"n": 4})
        assert (other != pid, seen, prepared) == (True, 4, 2)


async def test_a_statement_that_cannot_be_prepared_says_so_each_time(target: Target) -> None:
    async with open_session(target) as session:
        for _ in range(2):
            with pytest.raises(BrokerError, match="42P01"):
                await session.fetch("ask", "SELECT FROM no_such_table", {})
        assert await session.fetch("ask", "SELECT 1", {}) == [(1,)]


async def test_a_statement_keeps_its_name_however_many_others_there_are(postgres_url: str) -> None:
    target = Target(postgres_url, connect_timeout=10, statement_timeout=10, pooled=False)
    async with open_session(target) as session, open_session(target) as other:
        for _ in range(2):
            await session.fetch("ask", "SELECT 1", {})
            for n in range(200):
                await other.fetch("ask", f"SELECT {n}", {})
        query = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1'"
        assert await session.fetch("ask", query, {}) == [(1,)]


async def test_a_statement_that_the_connection_forgot_is_prepared_again(postgres_url: str) -> None:
    target = Target(postgres_url, connect_timeout=10, statement_timeout=10, pooled=False)
    async with open_session(target) as session:
        for n in range(3):
            assert await session.fetch("ask", "SELECT %(n)s::bigint", {"n": n}) == [(n,)]
            await session.fetch("forget", "DEALLOCATE ALL", {})


@pytest.mark.parametrize(
    ("refusing_table", "retryable"),
    [
        pytest.param("RAISE EXCEPTION ''refused''", False, id="error"),
        pytest.param("PERFORM pg_terminate_backend(pg_backend_pid())", True, id="terminated"),
    ],
    indirect=["refusing_table"],
)
async def test_what_fails_at_the_commit_has_failed(
    target: Target, observer: AnyioConnection[Row], refusing_table: str, retryable: bool
) -> None:
    """The server has said by then that the statement is done, so there are two answers to it."""
    async with open_session(target) as session:
        with pytest.raises(BrokerError) as caught:
            await session.fetch("insert", f"INSERT INTO {refusing_table} VALUES (1)", {})
        assert caught.value.retryable is retryable
        assert await session.fetch("count", f"SELECT count(*) FROM {refusing_table}", {}) == [(0,)]


async def test_a_transaction_is_written_as_a_whole(target: Target, table: str) -> None:
    put = f"INSERT INTO {table} VALUES (%(n)s::bigint) RETURNING n"
    count = f"SELECT count(*) FROM {table} WHERE n = ANY (%(some)s::bigint[])"
    async with open_session(target) as session:
        async with session.transaction("count", lock_wait="2s") as fetch:
            assert session.is_free is False
            assert await fetch("put", put, {"n": 1}) == [(1,)]
            assert await fetch("count", count, {"some": [1, 2]}) == [(1,)]
            assert await fetch("ask", "SHOW transaction_isolation", {}) == [("read committed",)]
            assert await fetch("ask", "SHOW lock_timeout", {}) == [("2s",)]
        assert session.is_free
        with pytest.raises(ValueError, match="mine"):
            await in_one(session, ("put", put, {"n": 2}), ValueError("mine"))
        fails = ("fail", "SELECT 1 / %(n)s::bigint", {"n": 0})
        with pytest.raises(BrokerError, match="count: "):
            await in_one(session, ("put", put, {"n": 3}), fails)
        assert await session.fetch("count", f"SELECT n FROM {table}", {}) == [(1,)]
        assert await session.fetch("ask", "SHOW lock_timeout", {}) == [("0",)]


async def in_one(session: Session, *steps: tuple[str, str, dict[str, int]] | Exception) -> None:
    """Statements in one transaction, and what happens in between."""
    async with session.transaction("count") as fetch:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            await fetch(*step)


async def test_an_error_whose_rollback_gets_no_answer_is_a_lost_connection(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unanswered(_: object) -> None:
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(module, "_roll_back", unanswered)
    async with open_session(target) as session:
        with pytest.raises(BrokerError) as caught:
            await in_one(session, ("fail", "SELECT 1 / %(n)s::bigint", {"n": 0}))
        assert (caught.value.code, caught.value.lost) == ("22012", True)
        assert await session.fetch("ask", "SELECT 1", {}) == [(1,)]


async def test_a_transaction_that_is_cancelled_is_none(target: Target, table: str) -> None:
    async with open_session(target) as session:
        with anyio.move_on_after(0.2) as scope:
            async with session.transaction("wait") as fetch:
                await fetch("put", f"INSERT INTO {table} VALUES (1) RETURNING n", {})
                await fetch("sleep", "SELECT pg_sleep(60)", {})
        assert scope.cancelled_caught
        assert await session.fetch("count", f"SELECT count(*) FROM {table}", {}) == [(0,)]


async def test_a_transaction_takes_no_longer_than_a_statement_may(target: Target, table: str) -> None:
    async with open_session(replace(target, statement_timeout=0.3)) as session:
        put, sleep = f"INSERT INTO {table} VALUES (1) RETURNING n", "SELECT pg_sleep(60)"
        with pytest.raises(BrokerError) as raised:
            await in_one(session, ("put", put, {}), ("sleep", sleep, {}))
        assert raised.value.retryable
        assert await session.fetch("count", f"SELECT count(*) FROM {table}", {}) == [(0,)]


@pytest.mark.parametrize("target", ["direct", "pooled"], indirect=True)
@pytest.mark.parametrize(
    "refusing_table", ["RAISE ''no''", "PERFORM pg_terminate_backend(pg_backend_pid())"], indirect=True
)
async def test_a_transaction_whose_commit_fails_is_none(target: Target, refusing_table: str) -> None:
    put = f"INSERT INTO {refusing_table} VALUES (%(n)s::bigint) RETURNING n"
    async with open_session(target) as session:
        for _ in range(2):
            with pytest.raises(BrokerError):
                await in_one(session, ("put", put, {"n": 1}))
        assert await session.fetch("count", f"SELECT count(*) FROM {refusing_table}", {}) == [(0,)]
