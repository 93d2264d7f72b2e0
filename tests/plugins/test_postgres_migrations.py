"""Upgrades of a schema that is in use: nobody waits long for them, and they go on where one was killed."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import anyio.to_thread
import psycopg
import pytest
from pgbouncer import PgBouncer
from sessions import opened

from horsies import AppConfig, HorsiesError, PoolConfig
from horsies.abc import Migrating
from horsies.plugins.postgres import horsies_brokers, upgrade
from horsies.plugins.postgres import schema as schema_module
from horsies.plugins.postgres import schema_commands as migrating
from horsies.plugins.postgres.queries import read_sql
from horsies.plugins.postgres.schema import Step, migrations, newest_version, record_sql, steps, upgrade_sql

pytestmark = pytest.mark.anyio

INSERT = """
INSERT INTO {}.tasks (id, phase, status, queue, priority, due_at, sent_at, task_name, envelope, sha)
VALUES (gen_random_uuid(), 1, 'PENDING', 'default', 50, now(), now(), 'x', '', '')
"""

BROKEN = """
-- step: short names
ALTER TABLE {schema}.tasks
    DROP CONSTRAINT IF EXISTS tasks_short, DROP CONSTRAINT IF EXISTS tasks_long,
    ADD CONSTRAINT tasks_short CHECK (length(task_name) > 3) NOT VALID,
    ADD CONSTRAINT tasks_long CHECK (length(task_name) < 3) NOT VALID;

-- step: short names hold (validate)
ALTER TABLE {schema}.tasks VALIDATE CONSTRAINT tasks_short;

-- step: long names hold (validate)
ALTER TABLE {schema}.tasks VALIDATE CONSTRAINT tasks_long;
"""


@pytest.fixture
def config(postgres_url: str, schema: str) -> AppConfig:
    return AppConfig.for_database_url(postgres_url, schema=schema)


@pytest.fixture
def connection(config: AppConfig) -> Iterator[psycopg.Connection]:
    with psycopg.connect(config.url, autocommit=True, options="-c lock_timeout=20s") as connection:
        yield connection
        connection.execute(f"DROP SCHEMA IF EXISTS {config.schema} CASCADE")


@pytest.fixture
def other(config: AppConfig) -> Iterator[psycopg.Connection]:
    """A session with transactions of its own."""
    with psycopg.connect(config.url) as other:
        yield other


def make(connection: psycopg.Connection, schema: str, version: int) -> None:
    """The schema as a release that knew versions up to `version` has left it."""
    connection.execute(f"CREATE SCHEMA {schema}")
    connection.execute(
        f"CREATE TABLE {schema}.migrations"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    for number in range(1, version + 1):
        connection.execute(read_sql(f"migrations/{migrations()[number]}", schema).encode())
        connection.execute(record_sql(number, schema).encode())


def version(connection: psycopg.Connection, schema: str) -> int:
    ((found,),) = connection.execute(f"SELECT max(version) FROM {schema}.migrations").fetchall()
    assert isinstance(found, int)
    return found


def indexes(connection: psycopg.Connection, schema: str) -> dict[str, bool]:
    """Whether each index is valid."""
    query = """
        SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = %s::regnamespace
    """
    return dict(connection.execute(query, (schema,)).fetchall())


async def open_and_close(config: AppConfig) -> None:
    async with opened(config):
        pass


async def insert(connection: psycopg.Connection, schema: str, times: int = 20) -> None:
    """Insert as a sender of the release before does, one row after the other."""
    for _ in range(times):
        await anyio.to_thread.run_sync(connection.execute, INSERT.format(schema).encode())


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.02)


def add_migration(monkeypatch: pytest.MonkeyPatch, text: str) -> int:
    """Make `text` the newest migration; its number."""
    number = newest_version() + 1
    known = {**migrations(), number: f"{number:03}_of_a_test.sql"}
    for module in (schema_module, upgrade):
        monkeypatch.setattr(module, "migrations", lambda: known)
    monkeypatch.setattr(
        schema_module,
        "read_sql",
        lambda path, schema: (
            text.replace("{schema}", schema) if path.endswith(known[number]) else read_sql(path, schema)
        ),
    )
    return number


async def test_inserts_pass_an_upgrade_that_waits_for_an_idle_transaction(
    config: AppConfig, connection: psycopg.Connection, other: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    make(connection, config.schema, 4)
    other.execute(f"SELECT count(*) FROM {config.schema}.tasks")
    async with anyio.create_task_group() as group:
        group.start_soon(open_and_close, config)
        await until(lambda: f"waits for process {other.info.backend_pid} " in caplog.text)
        await insert(connection, config.schema)
        assert version(connection, config.schema) == 4
        other.rollback()
    assert version(connection, config.schema) == newest_version()


async def test_inserts_pass_an_index_that_is_built(
    config: AppConfig, connection: psycopg.Connection, other: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    make(connection, config.schema, 2)
    other.execute(INSERT.format(config.schema).encode())
    async with anyio.create_task_group() as group:
        group.start_soon(open_and_close, config)
        await until(lambda: f"'ended tasks' waits for process {other.info.backend_pid} " in caplog.text)
        await insert(connection, config.schema)
        other.commit()
    assert version(connection, config.schema) == newest_version()
    assert all(indexes(connection, config.schema).values())


async def test_opening_that_waits_too_long_names_what_it_waits_for(
    config: AppConfig, connection: psycopg.Connection, other: psycopg.Connection
) -> None:
    make(connection, config.schema, 4)
    other.execute(f"SELECT count(*) FROM {config.schema}.tasks")
    hasty = AppConfig.for_database_url(config.url, schema=config.schema, pool=PoolConfig(timeout=2.0))
    with pytest.raises(HorsiesError) as caught:
        await open_and_close(hasty)
    assert caught.value.code == "HRS-211"
    for part in (f"process {other.info.backend_pid}", "idle in transaction", "pool.timeout", "horsies migrate"):
        assert part in str(caught.value)
    other.rollback()
    await open_and_close(hasty)
    assert version(connection, config.schema) == newest_version()


async def test_an_invalid_index_that_was_left_is_built_again(config: AppConfig, connection: psycopg.Connection) -> None:
    make(connection, config.schema, 4)
    connection.execute(read_sql(f"migrations/{migrations()[5]}", config.schema).encode())
    connection.execute(
        "UPDATE pg_index SET indisvalid = false, indisready = false WHERE indexrelid = %s::regclass",
        (f"{config.schema}.tasks_unadvanced",),
    )
    await open_and_close(config)
    assert indexes(connection, config.schema)["tasks_unadvanced"]


@pytest.mark.parametrize("number", range(2, newest_version() + 1))
async def test_an_upgrade_goes_on_after_each_step_at_which_it_was_killed(
    number: int, config: AppConfig, connection: psycopg.Connection
) -> None:
    for done in range(1, len(steps(migrations()[number], config.schema)) + 1):
        make(connection, config.schema, number - 1)
        for step in steps(migrations()[number], config.schema)[:done]:
            connection.execute(step.sql.encode())
        await open_and_close(config)
        assert version(connection, config.schema) == newest_version()
        connection.execute(f"DROP SCHEMA {config.schema} CASCADE")


async def test_many_that_upgrade_at_once_do_it_once(config: AppConfig, connection: psycopg.Connection) -> None:
    make(connection, config.schema, 3)
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(open_and_close, config)
    assert version(connection, config.schema) == newest_version()
    assert all(indexes(connection, config.schema).values())


async def test_an_upgrade_and_an_older_release_wait_for_each_other(
    config: AppConfig, connection: psycopg.Connection, other: psycopg.Connection
) -> None:
    make(connection, config.schema, 4)
    old = f"horsies migrations of {config.schema}"
    other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (old,))
    async with anyio.create_task_group() as group:
        group.start_soon(open_and_close, config)
        await anyio.to_thread.run_sync(partial(other.execute, read_sql(f"migrations/{migrations()[5]}", config.schema)))
        other.execute(record_sql(5, config.schema).encode())
        other.commit()
    assert version(connection, config.schema) == newest_version()


async def test_an_upgrade_goes_through_a_transaction_pooler(
    config: AppConfig, connection: psycopg.Connection, pgbouncer: PgBouncer
) -> None:
    make(connection, config.schema, 2)
    await open_and_close(AppConfig(url=pgbouncer.url, schema=config.schema))
    assert version(connection, config.schema) == newest_version()
    assert all(indexes(connection, config.schema).values())
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    await until(lambda: connection.execute(query).fetchone() == (0,))


async def test_rows_that_break_a_new_constraint_leave_it_unvalidated(
    config: AppConfig,
    connection: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_and_close(config)
    connection.execute(INSERT.format(config.schema).encode())
    added = add_migration(monkeypatch, BROKEN)
    await open_and_close(config)
    assert version(connection, config.schema) == added
    query = "SELECT conname, convalidated FROM pg_constraint WHERE conname IN ('tasks_short', 'tasks_long') ORDER BY 1"
    assert connection.execute(query).fetchall() == [("tasks_long", True), ("tasks_short", False)]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    find = re.search(r"SELECT .*? WHERE NOT \(.*?\)(?=, mend)", warning)
    assert find is not None
    assert len(connection.execute(find[0].encode()).fetchall()) == 1
    assert "VALIDATE CONSTRAINT tasks_short" in warning


async def test_a_step_that_fails_is_named(
    config: AppConfig, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_and_close(config)
    before = version(connection, config.schema)
    add_migration(monkeypatch, "-- step: impossible\nALTER TABLE {schema}.nowhere ADD COLUMN a int;")
    with pytest.raises(HorsiesError, match=r"HRS-218[\s\S]*of_a_test.sql, step 'impossible'"):
        await open_and_close(config)
    assert version(connection, config.schema) == before


@pytest.mark.parametrize(("readable_from", "opens"), [(1, True), (newest_version(), True), (999, False), (None, False)])
async def test_a_newer_schema_opens_if_it_says_that_this_version_can_use_it(
    readable_from: int | None,
    opens: bool,
    config: AppConfig,
    connection: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await open_and_close(config)
    query = f"INSERT INTO {config.schema}.migrations (version, readable_from) VALUES (998, %s), (999, %s)"
    connection.execute(query.encode(), (1, readable_from))
    if opens:
        with caplog.at_level(logging.INFO, "horsies"):
            await open_and_close(config)
        assert len([record for record in caplog.records if "version 999" in record.getMessage()]) == 1
    else:
        with pytest.raises(HorsiesError, match="HRS-218"):
            await open_and_close(config)
    assert version(connection, config.schema) == 999


@pytest.fixture
def role(connection: psycopg.Connection, schema: str) -> Iterator[str]:
    """A role that owns nothing."""
    connection.execute(f"CREATE ROLE {schema}_role LOGIN")
    yield f"{schema}_role"
    connection.execute(f"DROP OWNED BY {schema}_role; DROP ROLE {schema}_role".encode())


def as_role(config: AppConfig, role: str) -> AppConfig:
    url = psycopg.conninfo.make_conninfo(config.url.replace("postgres:@", "@"), user=role)
    parts = psycopg.conninfo.conninfo_to_dict(url)
    host, port = parts.get("host", ""), parts.get("port", "5432")
    url = f"postgresql://{role}@/{parts.get('dbname', 'postgres')}?host={host}&port={port}"
    return AppConfig.for_database_url(url, schema=config.schema)


async def test_a_role_that_may_only_read_and_write_opens_what_is_up_to_date(
    config: AppConfig, connection: psycopg.Connection, role: str
) -> None:
    await open_and_close(config)
    granted = f"GRANT USAGE ON SCHEMA {config.schema} TO {role}; GRANT SELECT ON {config.schema}.migrations TO {role}"
    connection.execute(granted.encode())
    await open_and_close(as_role(config, role))


@pytest.mark.parametrize("there", [0, 4])
async def test_a_role_that_may_not_change_the_schema_is_told_what_to_run(
    there: int, config: AppConfig, connection: psycopg.Connection, role: str
) -> None:
    if there:
        make(connection, config.schema, there)
        connection.execute(f"GRANT USAGE ON SCHEMA {config.schema} TO {role}")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {config.schema} TO {role}")
    with pytest.raises(HorsiesError, match=r"HRS-218[\s\S]*horsies migrate --sql"):
        await open_and_close(as_role(config, role))


PSQL = shutil.which("psql")
FACTORY = horsies_brokers()["postgresql"]
assert isinstance(FACTORY, Migrating)


def psql(config: AppConfig, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    assert PSQL is not None
    return subprocess.run([PSQL, "-q", *options, config.url], input=script, capture_output=True, text=True)


needs_psql = pytest.mark.skipif(PSQL is None, reason="psql is not installed here")
both_ways = pytest.mark.parametrize("options", [("-v", "ON_ERROR_STOP=1"), ()], ids=["stops", "goes on"])


@needs_psql
@both_ways
@pytest.mark.parametrize("there", range(newest_version()))
async def test_a_printed_script_leads_from_any_version_to_the_newest(
    there: int, options: tuple[str, ...], config: AppConfig, connection: psycopg.Connection
) -> None:
    if there:
        make(connection, config.schema, there)
    done = psql(config, await FACTORY.upgrade_sql(config, print), *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert version(connection, config.schema) == newest_version()
    before = connection.execute(f"SELECT * FROM {config.schema}.migrations").fetchall()
    await open_and_close(config)
    assert connection.execute(f"SELECT * FROM {config.schema}.migrations").fetchall() == before


@needs_psql
@both_ways
@pytest.mark.parametrize(("there", "printed_at"), [(4, 5), (5, 4), (0, 4), (4, 0), (newest_version(), 0)])
async def test_a_printed_script_changes_nothing_at_another_version(
    there: int, printed_at: int, options: tuple[str, ...], config: AppConfig, connection: psycopg.Connection
) -> None:
    if there:
        make(connection, config.schema, there)
    tables = "SELECT relname, relnatts FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace WHERE nspname = %s"
    before = connection.execute(tables, (config.schema,)).fetchall()
    done = psql(config, upgrade_sql(config.schema, printed_at), *options)
    assert "ERROR" in done.stderr
    assert connection.execute(tables, (config.schema,)).fetchall() == before
    if there:
        assert version(connection, config.schema) == there


@needs_psql
@both_ways
async def test_a_printed_script_that_fails_on_its_way_changes_nothing(
    options: tuple[str, ...], config: AppConfig, connection: psycopg.Connection
) -> None:
    make(connection, config.schema, 4)
    connection.execute(f"CREATE VIEW {config.schema}.workflows AS SELECT 1 AS a")
    done = psql(config, await FACTORY.upgrade_sql(config, print), *options)
    assert "ERROR" in done.stderr
    assert version(connection, config.schema) == 4
    assert "tasks_of_workflow" not in indexes(connection, config.schema)


@needs_psql
async def test_a_printed_script_leaves_a_constraint_unvalidated_that_rows_break(
    config: AppConfig, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_and_close(config)
    connection.execute(INSERT.format(config.schema).encode())
    added = add_migration(monkeypatch, BROKEN)
    done = psql(config, await FACTORY.upgrade_sql(config, print))
    assert done.returncode == 0
    assert "tasks_short, which stays unvalidated" in done.stderr
    assert version(connection, config.schema) == added
    (problem,) = (await FACTORY.schema_state(config)).problems
    assert "tasks_short" in problem


async def test_nothing_is_printed_to_run_when_the_schema_is_up_to_date(config: AppConfig) -> None:
    await open_and_close(config)
    script = await FACTORY.upgrade_sql(config, print)
    assert "nothing to do" in script
    assert all(line.startswith("--") for line in script.splitlines())


async def test_the_whole_schema_is_printed_without_a_database(schema: str) -> None:
    said: list[str] = []
    nowhere = AppConfig.for_database_url("postgresql://me:s3cret@127.0.0.1:1/app", schema=schema)
    assert await FACTORY.upgrade_sql(nowhere, said.append) == FACTORY.schema_sql(nowhere)
    assert len(said) == 1
    assert "HRS-211" in said[0]
    assert "s3cret" not in said[0]


async def test_the_state_names_what_is_missing_and_what_is_broken(
    config: AppConfig, connection: psycopg.Connection
) -> None:
    state = await FACTORY.schema_state(config)
    assert (state.version, state.is_usable, state.missing) == (0, False, tuple(migrations().values()))
    make(connection, config.schema, 5)
    state = await FACTORY.schema_state(config)
    assert (state.version, state.readable_from, state.is_usable) == (5, 5, False)
    assert state.missing == tuple(migrations()[number] for number in migrations() if number > 5)
    await FACTORY.migrate(config, print)
    state = await FACTORY.schema_state(config)
    assert (state.version, state.newest, state.is_usable) == (newest_version(), newest_version(), True)
    assert (state.missing, state.problems) == ((), ())
    connection.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", (f"{config.schema}.tasks_done",)
    )
    (problem,) = (await FACTORY.schema_state(config)).problems
    assert "REINDEX INDEX CONCURRENTLY" in problem


@pytest.mark.parametrize(("there", "step"), [(2, "ended tasks"), (4, "columns of tasks")])
async def test_migrating_apart_gives_up_on_what_does_not_end(
    there: int,
    step: str,
    config: AppConfig,
    connection: psycopg.Connection,
    other: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrating, "PATIENCE", 0.5)
    make(connection, config.schema, there)
    other.execute(INSERT.format(config.schema).encode())
    with pytest.raises(HorsiesError) as caught:
        await FACTORY.migrate(config, print)
    assert caught.value.code == "HRS-211"
    assert f"'{step}' waits for process {other.info.backend_pid} " in str(caught.value)
    other.rollback()
    await FACTORY.migrate(config, print)
    assert version(connection, config.schema) == newest_version()
    assert all(indexes(connection, config.schema).values())


async def test_migrating_apart_waits_longer_than_an_opening(
    config: AppConfig, connection: psycopg.Connection, other: psycopg.Connection
) -> None:
    make(connection, config.schema, 4)
    other.execute(f"SELECT count(*) FROM {config.schema}.tasks")
    hasty = AppConfig.for_database_url(config.url, schema=config.schema, pool=PoolConfig(timeout=0.5))
    said: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(FACTORY.migrate, hasty, said.append)
        await anyio.sleep(1)  # more than pool.timeout
        await until(lambda: any(f"process {other.info.backend_pid} " in sentence for sentence in said))
        other.rollback()
    assert version(connection, config.schema) == newest_version()


@pytest.mark.parametrize("number", range(1, newest_version() + 1))
def test_each_step_keeps_to_the_rules(number: int) -> None:
    for step in steps(migrations()[number], "horsies"):
        statements = [part for part in re.sub(r"--.*", "", step.sql).split(";") if part.strip()]
        if step.kind:
            assert len(statements) == 1, step
        made = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\S+)", step.sql))
        locked = set(re.findall(r"(?:ALTER TABLE|INDEX [\w ]+? ON) (\S+)", step.sql)) - made
        assert len(locked) <= 1, step
    if number >= 7:
        found = re.search(r"^-- readable_from: (\d+)$", read_sql(f"migrations/{migrations()[number]}", "horsies"), re.M)
        assert found is not None
        assert 7 <= int(found[1]) <= number


def test_a_file_without_steps_is_one_step() -> None:
    (step,) = steps(migrations()[4], "horsies")
    assert isinstance(step, Step)
    assert (step.name, step.kind) == ("schedules", "")
