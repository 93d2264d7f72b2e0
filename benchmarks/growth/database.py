"""Where the tasks of a benchmark stand, and how a million of them get there."""

from __future__ import annotations

import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from horsies import AppConfig, Horsies, Runtime
from horsies.testing.postgres import embedded_postgres

ENVELOPE = b"." * 200

# The ids grow with the time of the send, as those of real tasks do: where rows stand in the index of ids depends on it.
POSTGRES = """
INSERT INTO {schema}.tasks
    (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha, finished_at, result)
SELECT
    (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - {rows} + n), 12, '0')
        || '70008' || substr(md5(n::text), 1, 15))::uuid,
    {phase}, '{status}', {queue}, {priority}, now() + {due} * interval '1 second' + n * interval '1 us', {good_until},
    now(), 'nobody', convert_to(repeat('.', 200), 'UTF8'), sha256(n::text::bytea), {finished_at}, {result}
FROM generate_series(1, {rows}) AS n
"""
SQLITE = """
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {rows})
INSERT INTO tasks
    (id, phase, status, queue, priority, due_at, good_until, sent_at, task_name, envelope, sha, finished_at, result)
SELECT
    printf('%08x-%04x-7000-8000-', ({now} / 1000 - {rows} + n) >> 16, ({now} / 1000 - {rows} + n) & 65535)
        || lower(hex(randomblob(6))),
    {phase}, '{status}', {queue}, {priority}, {now} + {due} * 1000000 + n, {good_until},
    {now}, 'nobody', zeroblob(200), randomblob(32), {finished_at}, {result}
FROM numbers
"""


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Rows to put straight into the table, the n-th of them `due` seconds and n microseconds from now."""

    rows: int
    phase: int = 1
    priority: int = 50
    due: int = -100
    expired: bool = False
    queues: int = 1


class Place:
    """A database with room for any number of states, each in tables of its own."""

    def __init__(self, url: str, folder: Path | None) -> None:
        self._url = url
        self._folder = folder
        self.is_postgres = folder is None

    def config(self, name: str) -> AppConfig:
        """Where the state `name` stands."""
        if self._folder is None:
            return AppConfig(url=self._url, schema=f"horsies_growth_{name}")
        return AppConfig(url=f"sqlite:///{self._folder / name}.db")

    def clear(self, name: str) -> None:
        if self._folder is None:
            self.run(f"DROP SCHEMA IF EXISTS horsies_growth_{name} CASCADE")

    def fill(self, name: str, fill: Fill) -> None:
        """Carry out `fill`; without it nothing else is known of the rows than what is there to be claimed."""
        done = fill.phase == 3
        given = {
            "rows": fill.rows,
            "phase": fill.phase,
            "status": "COMPLETED" if done else "PENDING",
            "queue": f"'queue' || (n % {fill.queues})",
            "priority": fill.priority,
            "due": fill.due,
        }
        if self._folder is None:
            good_until = "now() - interval '1 second'" if fill.expired else "NULL"
            ended = {"finished_at": "now() + n * interval '1 us'", "result": "'\\x01'"}
            schema = self.config(name).schema
            self.run(POSTGRES.format(schema=schema, good_until=good_until, **_if(done, ended), **given))
            return
        now = time.time_ns() // 1000
        good_until = str(now - 1_000_000) if fill.expired else "NULL"
        ended = {"finished_at": f"{now} + n", "result": "x'01'"}
        connection = sqlite3.connect(self._folder / f"{name}.db")
        with connection:
            connection.execute(SQLITE.format(now=now, good_until=good_until, **_if(done, ended), **given))
        connection.close()

    def run(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements of Postgres, each by itself; the rows of the last one."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def autovacuum(self, name: str, *, on: bool) -> None:
        if self._folder is None:
            self.run(f"ALTER TABLE horsies_growth_{name}.tasks SET (autovacuum_enabled = {on})")

    def vacuum(self, name: str) -> None:
        """What autovacuum comes to in the end: the dead removed, the statistics new."""
        if self._folder is None:
            self.run(f"VACUUM (ANALYZE) horsies_growth_{name}.tasks")

    def version(self) -> str:
        if self._folder is None:
            ((found,),) = self.run("SELECT current_setting('server_version')")
            return f"PostgreSQL {found}"
        return f"SQLite {sqlite3.sqlite_version}"


def _if(done: bool, ended: dict[str, str]) -> dict[str, str]:
    return ended if done else dict.fromkeys(ended, "NULL")


@contextmanager
def open_place(db: str) -> Iterator[Place]:
    """An embedded Postgres for "", files of their own for "sqlite", or the database of a URL."""
    if db == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield Place("", Path(folder))
    elif re.match(r"postgres", db):
        yield Place(db, None)
    else:
        with embedded_postgres() as url:
            yield Place(url, None)


def runtime(place: Place, name: str) -> Runtime:
    """A runtime on empty tables made for the state `name`."""
    place.clear(name)
    return Runtime(Horsies(place.config(name)))
