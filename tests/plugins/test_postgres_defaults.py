"""What a role, a database, the environment or the URL has for a default changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from secrets import token_hex
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from everything import config_for, make_old, role, uri, use_everything
from pgbouncer import BINARY, open_pgbouncer
from psycopg.conninfo import conninfo_to_dict

from horsies import AppConfig, Horsies, HorsiesError, Ok, QueueConfig, Runtime, TaskSendOptions, WorkerConfig
from horsies.plugins.postgres.driver.connection import connect
from horsies.plugins.postgres.driver.pool import ConnectionPool
from horsies.plugins.postgres.driver.session import Connections, Target
from horsies.plugins.postgres.driver.settings import limited

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

STRANGE = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "extra_float_digits": "-15",
    "idle_in_transaction_session_timeout": "700ms",
    "idle_session_timeout": "700ms",
    "lock_timeout": "1ms",
    "search_path": "''",
    "standard_conforming_strings": "off",
    "statement_timeout": "700ms",
    "transform_null_equals": "on",
}
ASKED = [name for name in STRANGE if name not in ("search_path", "enable_indexscan", "enable_nestloop")]
NAMES = ["plain", "zähler", "задача", "任务", "🐴" * 60, "a\u0301" * 80, "naïve\x01\x7f"]


@pytest.fixture
def strange_url(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server for a role whose defaults are all unlike what horsies expects."""
    monkeypatch.setenv("PGCLIENTENCODING", "SQL_ASCII")
    monkeypatch.setenv("PGDATESTYLE", "German")
    settings = [f"SET {name} = {value if value == chr(39) * 2 else repr(value)}" for name, value in STRANGE.items()]
    with closing(psycopg.connect(postgres_url)) as owner:
        if owner.info.server_version >= 170000:
            settings.append("SET transaction_timeout = '700ms'")
    with role(postgres_url, *settings) as url:
        yield f"{url}&client_encoding=LATIN1"


@contextmanager
def database(postgres_url: str, encoding: str) -> Iterator[str]:
    """The URL of a database in `encoding`."""
    name = f"in_{encoding.lower()}_{token_hex(4)}"
    with closing(psycopg.connect(postgres_url, autocommit=True)) as owner:
        like = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0 LOCALE_PROVIDER libc"
        owner.execute(f"CREATE DATABASE {name} {like}".encode())
    try:
        yield uri(conninfo_to_dict(postgres_url), dbname=name)
    finally:
        with closing(psycopg.connect(postgres_url, autocommit=True)) as owner:
            owner.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def shown(connection: Any) -> dict[str, str]:
    cursor = await connection.execute(
        "SELECT name, current_setting(name) FROM unnest(%s::text[]) AS name", (ASKED,), prepare=False
    )
    return dict(await cursor.fetchall())


async def test_everything_works_for_a_role_with_strange_defaults(strange_url: str, schema: str) -> None:
    await use_everything(config_for(strange_url, schema))


async def test_an_old_schema_is_upgraded_for_such_a_role(strange_url: str, schema: str) -> None:
    make_old(strange_url, schema)
    await use_everything(config_for(strange_url, schema))


@pytest.mark.skipif(BINARY is None, reason="PgBouncer is not installed here")
async def test_everything_works_for_such_a_role_behind_a_pooler(strange_url: str, schema: str) -> None:
    with open_pgbouncer(strange_url) as pgbouncer:
        await use_everything(config_for(f"{pgbouncer.url}&client_encoding=LATIN1", schema))


async def test_no_session_of_horsies_inherits_a_setting(strange_url: str, postgres_url: str) -> None:
    ask = "SELECT name, current_setting(name) FROM unnest(%(names)s::text[]) AS name"
    found = []
    for url in (strange_url, postgres_url):
        target = Target(url, connect_timeout=10, statement_timeout=7, pooled=False)
        async with Connections().open_session(target) as session:
            found.append(dict(await session.fetch("ask", ask, {"names": ASKED})))
        pool = ConnectionPool(url, min_size=0, max_size=1, timeout=10, settings=limited(7.0))
        async with pool, pool.connection() as connection:
            found.append(await shown(connection))
    assert found[0] == found[1] == found[2] == found[3]
    assert (found[0]["client_encoding"], found[0]["statement_timeout"]) == ("UTF8", "7s")


async def test_a_transaction_of_the_application_has_the_defaults_of_its_role(strange_url: str) -> None:
    async with ConnectionPool(strange_url, min_size=0, max_size=1, timeout=10, settings=limited(7.0)) as pool:
        pids = set()
        for _ in range(2):
            async with pool.connection() as connection:
                pids.add(connection.pgconn.backend_pid)
                assert (await shown(connection))["TimeZone"] == "UTC"
            async with pool.connection(as_is=True) as connection:
                pids.add(connection.pgconn.backend_pid)
                settings = await shown(connection)
                assert settings == {name: STRANGE[name] for name in ASKED} | {
                    "client_encoding": "UTF8",
                    "DateStyle": "German, DMY",  # the environment goes before the role
                }
        assert len(pids) == 1


async def test_a_database_in_sql_ascii_keeps_every_name(postgres_url: str, schema: str) -> None:
    with database(postgres_url, "SQL_ASCII") as url:
        queues = tuple(map(QueueConfig, ["default", "очередь"]))
        app = Horsies(AppConfig(url=url, schema=schema, queues=queues))

        async def say(text: str) -> str:
            return text

        tasks = [app.task(name, queue=queues[n % 2].name)(say) for n, name in enumerate(NAMES)]
        async with Runtime(app) as rt:
            rt.start_worker(WorkerConfig(name="рабочий"))
            for task in tasks:
                handle = (await task.handle(rt).send("é任\0")).unwrap()
                assert await handle.get(timeout=20) == Ok("é任\0")
                info = (await handle.info()).unwrap()
                assert info is not None
                assert info.task_name == task.name
                assert info.worker_id is not None
                assert info.worker_id.startswith("рабочий")
            keyed = tasks[0].handle(rt).with_options(TaskSendOptions(unique_key="ключ"))
            assert await (await keyed.send("x")).unwrap().get(timeout=20) == Ok("x")


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "WIN1251"])
async def test_a_database_that_cannot_keep_every_name_is_refused(postgres_url: str, schema: str, encoding: str) -> None:
    with database(postgres_url, encoding) as url:
        with pytest.raises(HorsiesError) as caught:
            async with Runtime(Horsies(AppConfig(url=url, schema=schema))):
                pytest.fail("it cannot store every name")
        assert caught.value.code == "HRS-211"
        assert f"its encoding is {encoding}" in caught.value.message
        assert "ENCODING 'UTF8'" in str(caught.value)


@pytest.mark.parametrize("stored", ["UTF8", "SQL_ASCII"])
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "SJIS"])
async def test_a_connection_of_the_application_may_have_any_encoding(
    postgres_url: str, schema: str, stored: str, encoding: str
) -> None:
    with database(postgres_url, stored) as url:
        app = Horsies(AppConfig(url=url, schema=schema))

        async def say(text: str) -> str:
            return text

        tasks = [app.task(name)(say) for name in NAMES]
        async with Runtime(app) as rt:
            handles = []
            async with rt.transaction() as connection:
                await connection.execute(f"SET LOCAL client_encoding = '{encoding}'")
                for task in tasks:
                    keyed = task.handle(rt).with_options(TaskSendOptions(unique_key="ключ"))
                    handles.append((await keyed.using(connection).send("é")).unwrap())
                    assert (await keyed.using(connection).send("é")).unwrap().deduplicated
                assert connection.info.parameter_status("client_encoding") == encoding

            def connected() -> psycopg.Connection:
                return psycopg.connect(f"{url}&client_encoding={encoding}")

            with closing(await anyio.to_thread.run_sync(connected)) as mine:
                for task in tasks:
                    with mine.transaction():
                        handles.append((await task.handle(rt).using(mine).send("é")).unwrap())
                    assert mine.info.parameter_status("client_encoding") == encoding
            rt.start_worker()
            for handle in handles:
                assert await handle.get(timeout=20) == Ok("é")


async def test_the_url_cannot_ask_for_another_encoding(postgres_url: str) -> None:
    parameters = conninfo_to_dict(postgres_url)
    connection = await connect(uri(parameters, client_encoding="LATIN1"), timeout=10)
    assert connection.info.encoding == "utf-8"
    await connection.close()
