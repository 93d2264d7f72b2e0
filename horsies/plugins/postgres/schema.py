"""The schema: its numbered migrations, which of them a database has, and the SQL that adds the others.

A file of `migrations/` is divided into steps by lines `-- step: name`. `upgrade` runs each step as one transaction, and
each can be repeated: a process may be killed after a step, and the next one begins with the file's first step. A step
locks at most one table that was there before, because its transaction holds the first lock while it waits for another.
Two kinds of steps are one statement each:

- `-- step: name (concurrently)`: `CREATE INDEX IF NOT EXISTS`, which `upgrade` runs CONCURRENTLY.
- `-- step: name (validate)`: `ALTER TABLE ... VALIDATE CONSTRAINT`, after a step that has added it as NOT VALID (with
  DROP CONSTRAINT IF EXISTS beside it, to be repeatable). If rows break the constraint, it stays unvalidated, with a
  warning.

A line `-- readable_from: N` says which version's code can still use the schema once the file is applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import psycopg

from horsies import HorsiesError

from .._sql.files import migrations_of, readable_from, without_comments
from .driver.connection import AnyioConnection
from .driver.session import Row
from .queries import quoted, read_sql

_STEP = re.compile(r"^-- step: ([^()\n]+?)(?: \((concurrently|validate)\))?$", re.MULTILINE)
_VALIDATE = re.compile(r"ALTER TABLE (\S+)\s+VALIDATE CONSTRAINT (\w+);")

SCRIPT_LOCK_WAIT = "2s"
"""How long a printed script waits for a lock: longer than `deadlock_timeout`, after which an autovacuum gives way."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a migration: what it is about, how it runs ("" is as a transaction), its SQL."""

    name: str
    kind: str
    sql: str


def migrations() -> dict[int, str]:
    """The file of each version, in order."""
    return migrations_of(__package__)


def newest_version() -> int:
    """The newest version that this code knows."""
    return max(migrations())


@cache
def steps(name: str, schema: str) -> tuple[Step, ...]:
    """The steps of the file `name`; one without a line `-- step:` is a single step."""
    text = read_sql(f"migrations/{name}", schema)
    head, *parts = _STEP.split(text)
    if not parts:
        return (Step(name.removesuffix(".sql")[4:].replace("_", " "), "", text),)
    if without_comments(head):
        raise ValueError(f"migrations/{name}: there are statements before the first step")
    titles, kinds, bodies = parts[::3], parts[1::3], parts[2::3]
    return tuple(Step(title, kind or "", sql) for title, kind, sql in zip(titles, kinds, bodies, strict=True))


def record_sql(number: int, schema: str) -> str:
    """What notes that migration `number` is applied."""
    oldest = readable_from(read_sql(f"migrations/{migrations()[number]}", schema))
    columns, values = ("version", f"{number}") if oldest is None else ("version, readable_from", f"{number}, {oldest}")
    return f"INSERT INTO {quoted(schema)}.migrations ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING;"


async def version_of(connection: AnyioConnection[Row], schema: str) -> int:
    """The newest migration applied, or 0 when there is no schema yet.

    Raises:
        HorsiesError: HRS-218, the schema is newer, and says that the code of this version cannot use it.
        psycopg.Error: the database failed.
    """
    newest = newest_version()
    version, readable_from = await versions_of(connection, schema, above=newest)
    if version > newest and readable_from > newest:
        raise HorsiesError(
            "HRS-218",
            f"schema {schema!r} is newer than this version of horsies",
            [
                f"it is at version {version} and can be used from version {readable_from} on; this horsies knows "
                f"versions up to {newest}",
                "upgrade horsies here, or use another schema",
            ],
        )
    return version


async def versions_of(connection: AnyioConnection[Row], schema: str, *, above: int = 0) -> tuple[int, int]:
    """The newest migration applied, and the oldest version whose code can use what those after `above` have left.

    Raises:
        HorsiesError: HRS-218, this role may not look.
    """
    # Not to_regclass(): it answers from the session's cache, which may be older than the lock that was waited for.
    if not await exists(
        connection, "SELECT FROM pg_catalog.pg_tables WHERE schemaname = %s AND tablename = 'migrations'", schema
    ):
        return 0, 0
    # As JSON, because the column is not there before version 7. A row without a number is readable by its own version.
    query = (
        "SELECT coalesce(max(version), 0),"
        " coalesce(max(coalesce((to_jsonb(m) ->> 'readable_from')::int, version)) FILTER (WHERE version > %s), 0)"
        f" FROM {quoted(schema)}.migrations AS m"
    )
    try:
        cursor = await connection.execute(query, (above,))
    except psycopg.errors.InsufficientPrivilege as error:
        raise HorsiesError(
            "HRS-218",
            f"schema {schema!r} is there, and this role may not use it",
            [
                str(error.diag.message_primary),
                "grant it USAGE on the schema and SELECT, INSERT, UPDATE and DELETE on the tables in it",
            ],
        ) from None
    ((version, readable_from),) = await cursor.fetchall()
    return int(version), int(readable_from)


async def exists(connection: AnyioConnection[Row], query: str, *parameters: object) -> bool:
    """Whether `query` has a row."""
    cursor = await connection.execute(query, parameters, prepare=False)
    return cursor.rowcount > 0


def first_sql(schema: str) -> str:
    """What makes the newest schema by all migrations, where `schema` itself exists and is empty."""
    parts = [
        # What the migrations stand on: it exists before the first of them and never changes by itself.
        f"CREATE TABLE {quoted(schema)}.migrations"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());",
        *(read_sql(f"migrations/{name}", schema) for name in migrations().values()),
        *(record_sql(number, schema) for number in migrations()),
    ]
    return "\n".join(parts)


def schema_sql(schema: str) -> str:
    """A script that makes the newest schema in an empty database, as `migrate` would leave it, or changes nothing."""
    records = "\n".join(record_sql(number, schema) for number in migrations())
    guard = (
        f"EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = '{schema}' AND tablename = 'migrations')",
        f"schema {schema} is not empty; print the statements again where its database can be reached",
    )
    return _script(f"Makes schema {schema}.", guard, f"{read_sql('sql/schema.sql', schema)}\n{records}", schema)


def upgrade_sql(schema: str, version: int) -> str:
    """A script that leads `schema` from `version` to the newest one, or changes nothing.

    If there is nothing to do, the schema is shown in comments.
    """
    if version == 0:
        return schema_sql(schema)
    newest = newest_version()
    if version >= newest:
        shown = "\n".join(f"-- {line}".rstrip() for line in read_sql("sql/schema.sql", schema).splitlines())
        return (
            f"-- Schema {schema} is up to date at version {version}: there is nothing to do. This is it:\n--\n{shown}\n"
        )
    body: list[str] = []
    for number, name in migrations().items():
        if number > version:
            body += [f"-- {name}: {step.name}\n\n{_printed(step)}" for step in steps(name, schema)]
            body.append(f"{record_sql(number, schema)}\n")
    guard = (
        f"(SELECT max(version) FROM {quoted(schema)}.migrations) IS DISTINCT FROM {version}",
        f"schema {schema} is not at version {version}; print the statements again",
    )
    about = (
        f"Leads schema {schema} from version {version} to version {newest}. Sends wait while its indexes are built; "
        "`horsies migrate` lets them pass."
    )
    return _script(about, guard, "\n".join(body), schema)


def _script(about: str, guard: tuple[str, str], body: str, schema: str) -> str:
    condition, refusal = guard
    return f"""\
-- {about}
-- One transaction: where a statement fails, nothing is changed.

BEGIN ISOLATION LEVEL READ COMMITTED;
SET LOCAL lock_timeout = '{SCRIPT_LOCK_WAIT}';
SET LOCAL client_min_messages = warning;
DO $horsies$
BEGIN
    PERFORM pg_advisory_xact_lock({lock_key(schema)}), pg_advisory_xact_lock({old_lock_key(schema)});
    IF {condition} THEN
        RAISE EXCEPTION '{refusal}';
    END IF;
END
$horsies$;

{body}
COMMIT;
"""


def _printed(step: Step) -> str:
    """`step` in a transaction with others: rows that break a constraint leave it unvalidated, as in `upgrade`."""
    sql = step.sql.strip() + "\n"
    if step.kind != "validate":
        return sql
    table, constraint = constraint_of(step)
    return f"""\
DO $horsies$
BEGIN
    {sql.strip()}
EXCEPTION WHEN integrity_constraint_violation THEN
    RAISE WARNING 'rows of {table} break constraint {constraint}, which stays unvalidated';
END
$horsies$;
"""


def constraint_of(step: Step) -> tuple[str, str]:
    """The table and the constraint of a step that validates."""
    match = _VALIDATE.search(step.sql)
    if match is None:
        raise ValueError(f"step {step.name!r} validates no constraint")
    return match[1], match[2]


def lock_key(schema: str) -> str:
    """The advisory lock of the process that migrates, as SQL."""
    return f"hashtextextended('horsies upgrade of {schema}', 0)"


def old_lock_key(schema: str) -> str:
    """The advisory lock of releases that know up to version 6. They wait for it with a snapshot, which an index that is
    built concurrently waits for: so it is held for one transaction at a time."""
    return f"hashtextextended('horsies migrations of {schema}', 0)"
