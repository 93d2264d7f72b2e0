"""The schema of the Postgres broker: who makes it, what it is, and how opening fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import resources
from secrets import token_hex

import anyio
import psycopg
import pytest
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH

from horsies import (
    AppConfig,
    CancelOutcome,
    Horsies,
    HorsiesError,
    NodeRef,
    Ok,
    PoolConfig,
    ResilienceConfig,
    Runtime,
    WorkflowBuilder,
)
from horsies.abc import Migrating
from horsies.plugins import postgres
from horsies.plugins.postgres import horsies_brokers
from horsies.plugins.postgres.queries import named_queries
from horsies.plugins.postgres.schema import migrations

FACTORY = horsies_brokers()["postgresql"]

MIGRATE = """
import sys
import anyio
from datetime import UTC, datetime
from horsies import AppConfig
from horsies.plugins.postgres import horsies_brokers

url, schema, backend = sys.argv[1:]

async def main():
    async with horsies_brokers()["postgresql"].open(AppConfig(url=url, schema=schema), clock=lambda: datetime.now(UTC)):
        pass

print("ready", flush=True)
sys.stdin.readline()
anyio.run(main, backend=backend)
"""

STRUCTURE = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY c.relname, a.attnum
    """,
    "storage": "SELECT relname, relkind, reloptions FROM pg_class WHERE relnamespace = %s::regnamespace ORDER BY 1",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s ORDER BY indexname",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = %s::regnamespace ORDER BY 1, 2
    """,
    "functions": "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = %s::regnamespace ORDER BY proname",
}


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def schemas(connection: psycopg.Connection) -> Iterator[list[str]]:
    """Two names that are free, dropped afterwards."""
    names = [f"test_{token_hex(6)}" for _ in range(2)]
    yield names
    for name in names:
        connection.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")


async def open_and_close(url: str, schema: str = "horsies", **fields: object) -> None:
    config = AppConfig.for_database_url(url, schema=schema, **fields)
    async with FACTORY.open(config, clock=lambda: datetime.now(UTC)):
        pass


def structure(connection: psycopg.Connection, schema: str) -> dict[str, str]:
    """Everything the catalog says of `schema`, free of its name."""
    found = {part: repr(connection.execute(query, (schema,)).fetchall()) for part, query in STRUCTURE.items()}
    return {part: text.replace(schema, "<schema>") for part, text in found.items()}


def versions(connection: psycopg.Connection, schema: str) -> list[int]:
    return [row[0] for row in connection.execute(f"SELECT version FROM {schema}.migrations ORDER BY version")]


@pytest.mark.timeout(120)
def test_twenty_processes_make_one_schema(
    postgres_url: str, connection: psycopg.Connection, schemas: list[str]
) -> None:
    raced, alone = schemas
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", MIGRATE, postgres_url, raced, ("asyncio", "trio")[number % 2]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(20)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        errors = [process.communicate()[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 20, errors
    assert versions(connection, raced) == list(migrations())
    connection.execute(FACTORY.schema_sql(AppConfig(url=postgres_url, schema=alone)).encode())
    assert structure(connection, raced) == structure(connection, alone)


@pytest.mark.anyio
async def test_schema_sql_is_what_the_migrations_lead_to(
    postgres_url: str, connection: psycopg.Connection, schemas: list[str]
) -> None:
    migrated, written = schemas
    await open_and_close(postgres_url, migrated)
    connection.execute(FACTORY.schema_sql(AppConfig(url=postgres_url, schema=written)).encode())

    before = structure(connection, written)
    assert structure(connection, migrated) == before
    assert versions(connection, migrated) == versions(connection, written) == list(migrations())

    await open_and_close(postgres_url, written)
    assert structure(connection, written) == before


@pytest.mark.anyio
async def test_opening_again_changes_nothing(
    postgres_url: str, connection: psycopg.Connection, schemas: list[str]
) -> None:
    schema, _ = schemas
    await open_and_close(postgres_url, schema)
    before = connection.execute(f"SELECT * FROM {schema}.migrations").fetchall()
    await open_and_close(postgres_url, schema)
    assert connection.execute(f"SELECT * FROM {schema}.migrations").fetchall() == before


@pytest.mark.anyio
async def test_a_schema_made_by_an_administrator_is_filled(
    postgres_url: str, connection: psycopg.Connection, schemas: list[str]
) -> None:
    schema, _ = schemas
    connection.execute(f"CREATE SCHEMA {schema}")
    await open_and_close(postgres_url, schema)
    assert versions(connection, schema) == list(migrations())


@pytest.mark.anyio
async def test_a_newer_schema_is_refused(postgres_url: str, connection: psycopg.Connection, schemas: list[str]) -> None:
    schema, _ = schemas
    await open_and_close(postgres_url, schema)
    connection.execute(f"INSERT INTO {schema}.migrations (version) VALUES (999)")
    with pytest.raises(HorsiesError) as caught:
        await open_and_close(postgres_url, schema)
    assert caught.value.code == "HRS-218"
    assert "version 999" in str(caught.value)
    assert versions(connection, schema) == [*migrations(), 999]


@pytest.mark.anyio
@pytest.mark.parametrize("word", ["user", "order", "select", "current_catalog", "end", "natural"])
async def test_a_reserved_word_can_name_the_schema(
    word: str, postgres_url: str, connection: psycopg.Connection
) -> None:
    connection.execute(f'DROP SCHEMA IF EXISTS "{word}" CASCADE')
    config = AppConfig.for_database_url(
        postgres_url, schema=word, cluster_wide_cap=5, resilience=ResilienceConfig(poll_interval=60.0)
    )
    app = Horsies(config)

    @app.task
    async def add(a: int, b: int) -> int:
        return a + b

    @app.workflow("sum")
    def total(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        first = wf.task(add.node(n, 1))
        return wf.task(add.node(first, first))

    async with Runtime(app) as rt:
        rt.start_worker()
        with anyio.fail_after(30):
            handle = (await add.handle(rt).schedule(0.05, 1, 2)).unwrap()
            assert await handle.get() == Ok(3)
            assert await handle.cancel() == Ok(CancelOutcome.ALREADY_FINISHED)
            assert await (await total.handle(rt).start(1)).unwrap().get() == Ok(4)
            assert await rt.pause_queue("default") == Ok(True)
            assert await rt.resume_queue("default") == Ok(True)
    assert isinstance(FACTORY, Migrating)
    assert (await FACTORY.schema_state(config)).is_usable
    connection.execute(f'DROP SCHEMA "{word}" CASCADE')
    connection.execute(FACTORY.schema_sql(config).encode())
    assert (await FACTORY.schema_state(config)).is_usable
    connection.execute(f'DROP SCHEMA "{word}" CASCADE')


@pytest.mark.parametrize("name", ["pg_app", "pg_", "Select", "a-b", "1a", "s" * 49, "", "s\n", 'a"b', "ü"])
def test_a_name_that_postgres_takes_for_another_is_refused(name: str) -> None:
    with pytest.raises(HorsiesError, match="HRS-203"):
        AppConfig.for_database_url("postgresql://localhost/app", schema=name)


@pytest.mark.anyio
async def test_a_database_that_is_not_there_is_named_in_one_line() -> None:
    url = "postgresql://somebody:s3cret@127.0.0.1:1/stable?sslmode=disable"
    with pytest.raises(HorsiesError) as caught:
        await open_and_close(url, pool=PoolConfig(timeout=5.0))
    assert caught.value.code == "HRS-211"
    line = str(caught.value)
    for part in ("host 127.0.0.1", "port 1", "role somebody", "database stable", "TLS disable", "refused"):
        assert part in line
    assert "s3cret" not in line
    assert "\n" not in line


@pytest.mark.anyio
async def test_an_unreadable_url_is_refused_without_showing_it() -> None:
    with pytest.raises(HorsiesError) as caught:
        await open_and_close("postgresql://somebody:s3cret%zz@host/stable")
    assert caught.value.code == "HRS-203"
    assert "s3cret" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "part", ["somebody:s3cret%ff@host/stable", "host/stable?password=s3cret%C3", "%ff@host/s3cret"]
)
@pytest.mark.parametrize("field", ["url", "listen_url"])
async def test_a_url_of_bytes_that_are_not_utf8_is_refused_without_showing_it(part: str, field: str) -> None:
    fields = {"url": "postgresql://host/stable", field: f"postgresql://{part}"}
    with pytest.raises(HorsiesError, match=f"^\\[HRS-203\\] {field} holds bytes that are not UTF-8") as caught:
        await open_and_close(**fields)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.anyio
@pytest.mark.parametrize("variable", ["PGUSER", "PGHOST", "PGPASSWORD", "PGDATABASE"])
async def test_a_variable_of_libpq_that_is_not_utf8_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "s3cret\udcff")
    with pytest.raises(HorsiesError, match=f"the environment variable {variable} holds bytes") as caught:
        await open_and_close("postgresql:///?connect_timeout=2")
    assert caught.value.code == "HRS-203"
    assert "s3cret" not in str(caught.value)


@pytest.mark.anyio
async def test_a_host_that_cannot_be_a_name_is_one_error() -> None:
    with pytest.raises(HorsiesError, match=r"host a\.\.b, .*: its host is not a name that can be looked up") as caught:
        await open_and_close("postgresql://somebody:s3cret@a..b/stable")
    assert caught.value.code == "HRS-211"
    assert "s3cret" not in str(caught.value)
    assert isinstance(FACTORY, Migrating)
    with pytest.raises(HorsiesError, match=r"HRS-211.*host a\.\.b, .*: its host is not a name that can be looked up"):
        await FACTORY.schema_state(AppConfig(url="postgresql://somebody:s3cret@a..b/stable"))


def test_every_query_is_used_and_every_used_name_exists() -> None:
    sources = [entry for entry in resources.files(postgres).iterdir() if entry.name.endswith(".py")]
    code = "".join(source.read_text(encoding="utf-8") for source in sources)
    assert set(re.findall(r'_sql\["([\w.]+)"\]', code)) <= named_queries("horsies").keys()
    assert named_queries("horsies").keys() <= set(re.findall(r'"([\w.]+)"', code))


def test_queries_speak_of_their_schema_only() -> None:
    for name, query in named_queries("stable").items():
        assert "{schema}" not in query, name
        assert "--" not in query, name


def test_psycopg_keeps_every_query_parsed() -> None:
    longest = "s" * 48
    assert max(len(query.encode()) for query in named_queries(longest).values()) <= MAX_CACHED_STATEMENT_LENGTH
