"""A name that leads to a server that only reads for a while, and hosts of which one does not answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from doorway import Doorway, doorway, silent_address
from psycopg.conninfo import conninfo_to_dict

from horsies import (
    AppConfig,
    BrokerError,
    Horsies,
    HorsiesError,
    Ok,
    PoolConfig,
    RecoveryConfig,
    ResilienceConfig,
    Runtime,
)
from horsies.abc import Topic
from horsies.plugins.postgres.driver import hosts
from horsies.plugins.postgres.driver.connection import connect
from horsies.plugins.postgres.driver.pool import ConnectionPool
from horsies.plugins.postgres.driver.session import Connections, Session, Target
from horsies.plugins.postgres.driver.sharing import Sharing
from horsies.testing.postgres import embedded_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

NUMBER = "SELECT current_setting('default_transaction_read_only')"


@pytest.fixture(scope="module")
def fenced() -> Iterator[str]:
    """A server that takes no writes."""
    with embedded_server(durable=False) as server:
        yield server.url
        # so that the module's schemas could be made, it is fenced by each test


def fence(url: str, on: bool) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("SET default_transaction_read_only = off")
        owner.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}".encode())
        owner.execute("SELECT pg_reload_conf()")
    with psycopg.connect(url, autocommit=True) as owner:
        while owner.execute("SHOW default_transaction_read_only").fetchone() != ("on" if on else "off",):
            pass


@pytest.fixture
def door(postgres_url: str) -> Iterator[Doorway]:
    with doorway(postgres_url) as door:
        yield door


def target(url: str) -> Target:
    return Target(url, connect_timeout=10, statement_timeout=10, pooled=False)


async def where(session: Session) -> str:
    """Which server answers it: "off" for the one that writes."""
    ((answer,),) = await session.fetch("ask", NUMBER, {})
    return str(answer)


async def test_a_runtime_follows_a_name_to_the_server_that_writes(
    postgres_url: str, fenced: str, schema: str, door: Doorway
) -> None:
    fence(fenced, False)
    for url in (postgres_url, fenced):
        async with Runtime(Horsies(AppConfig(url=url, schema=schema))):
            pass
    fence(fenced, True)
    resilience = ResilienceConfig(poll_interval=30.0, retry_initial=0.05, retry_max=0.5)
    recovery = RecoveryConfig(heartbeat_interval=0.5, dead_after=30.0)
    app = Horsies(AppConfig(url=door.url, schema=schema, resilience=resilience, recovery=recovery))

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with Runtime(app) as rt:
        rt.start_worker()
        send = double.handle(rt).send
        assert await (await send(1)).unwrap().get(timeout=20) == Ok(2)
        door.leads_to = fenced
        door.cut()
        with anyio.fail_after(20):
            while True:
                refusal = await send(2)
                if refusal.is_err() and "25006" in refusal.unwrap_err().message:
                    break
                await anyio.sleep(0.05)
        assert refusal.unwrap_err().retryable
        assert (await rt.queues()).is_ok()  # the pool is there as well
        door.leads_to = postgres_url
        with anyio.fail_after(20):
            while (answer := await send(3)).is_err():
                await anyio.sleep(0.05)
        # Notified and not polled: whoever listened there has come back too.
        for n in range(3):
            with anyio.fail_after(20):
                assert await (await send(n)).unwrap().get() == Ok(2 * n)
        assert await answer.unwrap().get(timeout=20) == Ok(6)
        async with rt.transaction() as connection:
            cursor = await connection.execute(NUMBER)
            assert await cursor.fetchone() == ("off",)


async def test_a_refused_write_closes_all_that_are_idle(fenced: str, postgres_url: str, door: Doorway) -> None:
    fence(fenced, True)
    sharing = Sharing()
    connections = Connections(sharing)
    there = target(door.url)
    async with (
        ConnectionPool(door.url, min_size=1, max_size=2, timeout=10, sharing=sharing) as pool,
        connections.open_session(there) as one,
        connections.open_session(there) as other,
    ):
        assert await where(one) == "off"
        async with pool.connection() as lent:
            before = lent.pgconn.backend_pid
        door.leads_to = fenced
        async with one.transaction("ask"):  # the connection that was open is in use, so that another one is opened
            with pytest.raises(BrokerError) as caught:
                await other.fetch("write", "CREATE TABLE never (n int)", {})
        assert (caught.value.code, caught.value.retryable) == ("25006", True)
        assert not caught.value.lost  # the server has answered; that the connection is closed then is our decision
        door.leads_to = postgres_url
        assert [await where(one), await where(other)] == ["off", "off"]
        async with pool.connection() as lent:
            assert lent.pgconn.backend_pid != before


async def test_a_connection_to_a_server_that_only_reads_is_used_once(
    fenced: str, postgres_url: str, door: Doorway
) -> None:
    """Reading works there, and no session stays on it when the name leads elsewhere."""
    fence(fenced, True)
    door.leads_to = fenced
    settings: dict[str, str] = {}
    async with (
        ConnectionPool(door.url, min_size=0, max_size=1, timeout=10, settings=settings) as pool,
        Connections().open_session(target(door.url)) as session,
    ):
        for url, read_only in ((fenced, "on"), (fenced, "on"), (postgres_url, "off"), (postgres_url, "off")):
            door.leads_to = url
            assert await where(session) == read_only
            async with pool.connection() as connection:
                assert await (await connection.execute(NUMBER)).fetchone() == (read_only,)


async def test_a_refused_write_that_the_application_caught_is_seen_too(
    fenced: str, postgres_url: str, door: Doorway
) -> None:
    async with ConnectionPool(door.url, min_size=0, max_size=1, timeout=10) as pool:
        async with pool.connection() as connection:
            before = connection.pgconn.backend_pid
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                await connection.execute("BEGIN READ ONLY; CREATE TABLE never (n int)")
            await connection.execute("ROLLBACK")
        async with pool.connection() as connection:
            assert connection.pgconn.backend_pid != before


async def test_nobody_listens_where_nothing_is_written(fenced: str, schema: str) -> None:
    fence(fenced, False)
    app = Horsies(AppConfig(url=fenced, schema=schema))
    async with Runtime(app) as rt:
        async with rt._engine.broker.listen(Topic.WORK):
            fence(fenced, True)
        with pytest.raises(BrokerError, match="takes no writes") as caught:
            async with rt._engine.broker.listen(Topic.WORK):
                pytest.fail("listens to a server that has nothing to say")
        assert (caught.value.code, caught.value.retryable) == ("25006", True)


@pytest.mark.parametrize("options", ["", "&connect_timeout=2", "&connect_timeout=9"])
async def test_a_host_that_does_not_answer_leaves_time_for_the_next(door: Doorway, options: str) -> None:
    _, _, rest = door.url.partition("127.0.0.1:")
    with silent_address() as silent:
        url = f"postgresql://postgres@{silent},127.0.0.1:{rest}{options}"
        with anyio.fail_after(8):
            connection = await connect(url, timeout=10)
        connection.finish()
        # Less than the least for each: both get it all the same.
        connection = await connect(url, timeout=1)
        connection.finish()
        async with ConnectionPool(url, min_size=0, max_size=1, timeout=3) as pool, pool.connection() as lent:
            assert not lent.closed


async def test_all_silent_is_bounded_by_the_timeout() -> None:
    with silent_address() as one, silent_address() as other:
        with anyio.fail_after(9), pytest.raises(psycopg.OperationalError):
            await connect(f"postgresql://{one},{other}/app", timeout=5)
        app = Horsies(AppConfig(url=f"postgresql://{one},{other}/app", pool=PoolConfig(timeout=1.0)))
        with anyio.fail_after(9), pytest.raises(HorsiesError, match="HRS-211"):
            async with Runtime(app):
                pytest.fail("nobody answers there")


async def test_of_several_hosts_the_one_that_writes_is_wanted(
    fenced: str, door: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence(fenced, True)
    with doorway(fenced) as reads:
        _, _, rest = door.url.partition("127.0.0.1:")
        url = f"postgresql://postgres@127.0.0.1:{reads.port},127.0.0.1:{rest}"
        connection = await connect(url, timeout=10)
        assert not connection.only_reads
        connection.finish()
        connection = await connect(f"{url}&target_session_attrs=any", timeout=10)
        assert connection.only_reads
        connection.finish()
        monkeypatch.setenv("PGTARGETSESSIONATTRS", "any")
        connection = await connect(url, timeout=10)
        assert connection.only_reads
        connection.finish()
        monkeypatch.delenv("PGTARGETSESSIONATTRS")
        monkeypatch.setenv("PGHOST", "127.0.0.1,127.0.0.1")
        monkeypatch.setenv("PGPORT", f"{reads.port},{door.port}")
        connection = await connect("postgresql://postgres@/postgres?sslmode=disable", timeout=10)
        assert not connection.only_reads
        connection.finish()
        connection = await connect(reads.url, timeout=10)  # one host is taken as it is
        assert connection.only_reads
        connection.finish()


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (["127.0.0.1"], None),
        (["127.0.0.1", "::1"], None),
        (["127.0.0.1", "127.0.0.2"], "read-write"),
        (["::1", "::2", "127.0.0.1"], "read-write"),
    ],
)
def test_addresses_of_one_name_count_as_hosts(
    monkeypatch: pytest.MonkeyPatch, found: list[str], wanted: str | None
) -> None:
    def resolve(host: str, port: str | None, **_: Any) -> list[Any]:
        assert host == "db.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port or 0))) for address in found]

    monkeypatch.setattr(hosts.socket, "getaddrinfo", resolve)
    given: dict[str, Any] = conninfo_to_dict("postgresql://u@db.example:5433/app")
    calls: list[dict[str, Any]] = []

    def note(**parameters: Any) -> None:
        calls.append(parameters)

    hosts.connected(note, {**given, "connect_timeout": 30}, 30.0)
    (call,) = calls
    assert call.get("target_session_attrs") == wanted
    if len(found) > 1:
        assert call["hostaddr"] == ",".join(found)
        assert call["host"] == ",".join(["db.example"] * len(found))
        assert call["port"] == ",".join(["5433"] * len(found))
        assert call["connect_timeout"] == hosts.LEAST
    else:
        assert call == {**given, "connect_timeout": 30}


def test_a_second_round_shares_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(hosts, "monotonic", lambda: now)
    timeouts: list[int] = []

    def silent(connect_timeout: int, **_: Any) -> None:
        nonlocal now
        timeouts.append(connect_timeout)
        now += 2 * connect_timeout
        raise psycopg.OperationalError("timeout expired")

    for stated, patience, expected in ((30, 30.0, [2, 13]), (5, 30.0, [2, 5]), (2, 30.0, [2]), (30, 8.0, [2])):
        timeouts.clear()
        with pytest.raises(psycopg.OperationalError):
            hosts.connected(silent, {"host": "10.0.0.1,10.0.0.2", "connect_timeout": stated}, patience)
        assert timeouts == expected
