"""Bringing a database up to date: numbered files, applied in order and in one transaction by whoever comes first.

The newest file applied is the database's `user_version`; its `application_id` says that it is horsies' at all. A line
`-- readable_from: N` says which version's code can still use the database once the file is applied. The table
`migrations` keeps it.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Iterator

from horsies import HorsiesError
from horsies.abc import SchemaState

from .._sql.files import migrations_of, readable_from
from .queries import read_sql

APPLICATION_ID = 0x486F7273
"""`Hors` in ASCII."""

_logger = logging.getLogger("horsies.sqlite")


def migrations() -> dict[int, str]:
    """The file of each version, in order."""
    return migrations_of(__package__)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to this version's newest migration.

    Safe to run by any number of processes at once, and to run again. A newer database that this code can use is left
    alone.

    Raises:
        HorsiesError: HRS-218, the database is newer than this version of horsies can use, or belongs to something else.
        sqlite3.Error: the database failed.
    """
    newest = max(migrations())
    connection.execute("BEGIN")  # one snapshot: what says whose it is and what says how new it is belong together
    try:
        version = version_of(connection)
        if version > newest:
            _logger.info(
                "the database is at version %d and this horsies knows versions up to %d, which it can be used by",
                version,
                newest,
            )
        if version >= newest:
            return
    finally:
        connection.rollback()
    connection.execute("BEGIN IMMEDIATE")
    try:
        if (version := version_of(connection)) < newest:  # else another process was first
            for statement in statements(_changes(version)):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _changes(version: int) -> str:
    """What leads a database from `version` to the newest one."""
    parts = [read_sql(f"migrations/{name}") for number, name in migrations().items() if number > version]
    return "\n".join([*parts, _marks(version)])


def _marks(version: int) -> str:
    """What notes that the migrations after `version` are applied."""
    marks = [f"PRAGMA application_id = {APPLICATION_ID};", f"PRAGMA user_version = {max(migrations())};"]
    for number, name in migrations().items():
        if number > version and (oldest := readable_from(read_sql(f"migrations/{name}"))) is not None:
            marks.append(f"INSERT OR REPLACE INTO migrations (version, readable_from) VALUES ({number}, {oldest});")
    return "\n".join(marks) + "\n"


def version_of(connection: sqlite3.Connection) -> int:
    """The newest migration applied, or 0 in an empty database.

    Raises:
        HorsiesError: HRS-218, as for `migrate`.
    """
    ((owner,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    newest = max(migrations())
    if version > newest and (readable_from := _readable_from(connection, version)) > newest:
        raise HorsiesError(
            "HRS-218",
            "the database is newer than this version of horsies",
            [
                f"it is at version {version} and can be used from version {readable_from} on; this horsies knows "
                f"versions up to {newest}",
                "upgrade horsies here, or use another file",
            ],
        )
    if owner != APPLICATION_ID and (owner or version or tables):
        raise HorsiesError(
            "HRS-218",
            "the database is not one of horsies",
            ["it holds the tables of another program; give horsies a file of its own"],
        )
    return int(version)


def _readable_from(connection: sqlite3.Connection, version: int) -> int:
    """The oldest version whose code can use the database: a newer one that does not say so can be used by its own."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'").fetchall():
        return version
    query = "SELECT max(readable_from) FROM migrations WHERE version > ?"
    newest = max(migrations())
    ((found,),) = connection.execute(query, (newest if version > newest else 0,)).fetchall()
    return version if found is None else int(found)


def statements(script: str) -> Iterator[str]:
    """The statements of `script` one by one: `executescript` would commit the transaction they belong to."""
    statement = ""
    for part in re.split(r"(?<=;)", script):
        statement += part
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def schema_sql() -> str:
    """What makes the newest schema in an empty database, as `migrate` would leave it."""
    return f"{read_sql('sql/schema.sql')}\n{_marks(0)}"


def upgrade_sql(version: int) -> str:
    """A script for the shell `sqlite3` that leads a database from `version` to the newest one, or changes nothing.

    If there is nothing to do, the schema is shown in comments.
    """
    newest = max(migrations())
    if version >= newest:
        shown = "\n".join(f"-- {line}".rstrip() for line in read_sql("sql/schema.sql").splitlines())
        return f"-- The database is up to date at version {version}: there is nothing to do. This is it:\n--\n{shown}\n"
    if version == 0:
        about, body = "Makes the schema in an empty database.", schema_sql()
        holds, refusal = "(SELECT count(*) FROM sqlite_master) = 0", "the database is not empty"
    else:
        about, body = f"Leads the database from version {version} to version {newest}.", _changes(version)
        holds = (
            f"(SELECT user_version FROM pragma_user_version) = {version}"
            f" AND (SELECT application_id FROM pragma_application_id) = {APPLICATION_ID}"
        )
        refusal = f"the database is not at version {version}"
    return f"""\
-- {about}
-- One transaction: where a statement fails, the shell stops, and nothing is changed.

.bail on
BEGIN IMMEDIATE;
CREATE TEMP TABLE horsies_guard (holds INTEGER CONSTRAINT "{refusal}; print the statements again" CHECK (holds));
INSERT INTO horsies_guard SELECT {holds};
DROP TABLE temp.horsies_guard;

{body}
COMMIT;
"""


def state_of(connection: sqlite3.Connection) -> SchemaState:
    """See `horsies.abc.Migrating.schema_state`."""
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    return SchemaState(
        version=version,
        newest=max(migrations()),
        readable_from=_readable_from(connection, version),
        missing=tuple(name for number, name in migrations().items() if number > version),
    )
