"""The SQLite file: its schema, its queries, and two processes on it."""

from __future__ import annotations

import logging
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from horsies import AppConfig, Horsies, HorsiesError, Ok, Runtime
from horsies.abc import Migrating, Topic
from horsies.plugins import sqlite
from horsies.plugins.sqlite import horsies_brokers
from horsies.plugins.sqlite.queries import named_queries, read_sql
from horsies.plugins.sqlite.schema import APPLICATION_ID, migrations, upgrade_sql

pytestmark = pytest.mark.anyio
PACKAGE = Path(sqlite.__file__).parent


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(HorsiesError, match=r"HRS-218[\s\S]*version 99"):
        async with Runtime(Horsies(AppConfig.for_database_url(f"sqlite:///{path}"))):
            pass


@pytest.mark.parametrize(("readable_from", "opens"), [(1, True), (max(migrations()), True), (99, False), (None, False)])
async def test_a_newer_schema_opens_if_it_says_that_this_version_can_use_it(
    readable_from: int | None, opens: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "newer.db"
    app = Horsies(AppConfig.for_database_url(f"sqlite:///{path}"))
    async with Runtime(app):
        pass
    with closing(sqlite3.connect(path)) as connection, connection:
        if readable_from is not None:
            connection.execute("INSERT INTO migrations VALUES (98, 1), (99, ?)", (readable_from,))
        connection.execute("PRAGMA user_version = 99")
    assert (await FACTORY.schema_state(app.config)).is_usable is opens
    if opens:
        with caplog.at_level(logging.INFO, "horsies"):
            async with Runtime(app):
                pass
        assert len([record for record in caplog.records if "version 99" in record.getMessage()]) == 1
    else:
        with pytest.raises(HorsiesError, match=r"HRS-218[\s\S]*version 99"):
            async with Runtime(app):
                pass
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


SHELL = shutil.which("sqlite3")
FACTORY = horsies_brokers()["sqlite"]
assert isinstance(FACTORY, Migrating)


def make(path: Path, version: int) -> None:
    """The database as a release that knew versions up to `version` has left it."""
    with closing(sqlite3.connect(path)) as connection:
        for number in range(1, version + 1):
            connection.executescript(read_sql(f"migrations/{migrations()[number]}"))
        connection.executescript(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}")


def shell(path: Path, script: str) -> subprocess.CompletedProcess[str]:
    assert SHELL is not None
    return subprocess.run([SHELL, str(path)], input=script, capture_output=True, text=True)


def structure(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return [
            connection.execute("PRAGMA user_version").fetchone(),
            connection.execute("SELECT type, name FROM sqlite_master ORDER BY 1, 2").fetchall(),
            connection.execute("SELECT name FROM pragma_table_info('tasks') ORDER BY 1").fetchall(),
        ]


needs_shell = pytest.mark.skipif(SHELL is None, reason="the shell of SQLite is not installed here")


@needs_shell
@pytest.mark.parametrize("there", range(max(migrations())))
async def test_a_printed_script_leads_from_any_version_to_the_newest(there: int, tmp_path: Path) -> None:
    printed, opened = tmp_path / "printed.db", tmp_path / "opened.db"
    if there:
        make(printed, there)
    config = AppConfig.for_database_url(f"sqlite:///{printed}")
    done = shell(printed, await FACTORY.upgrade_sql(config, print))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    await FACTORY.migrate(AppConfig.for_database_url(f"sqlite:///{opened}"), print)
    assert structure(printed) == structure(opened)
    await FACTORY.migrate(config, print)
    assert structure(printed) == structure(opened)


@needs_shell
@pytest.mark.parametrize(("there", "printed_at"), [(4, 5), (5, 4), (0, 4), (4, 0), (max(migrations()), 0)])
async def test_a_printed_script_changes_nothing_at_another_version(there: int, printed_at: int, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    make(path, there)
    before = structure(path)
    done = shell(path, upgrade_sql(printed_at))
    assert done.returncode != 0
    assert "print the statements again" in done.stderr
    assert structure(path) == before


async def test_the_state_says_what_is_missing_and_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    config = AppConfig.for_database_url(f"sqlite:///{path}")
    state = await FACTORY.schema_state(config)
    assert (state.version, state.is_usable, state.missing) == (0, False, tuple(migrations().values()))
    assert not path.exists()
    make(path, 5)
    state = await FACTORY.schema_state(config)
    assert (state.version, state.readable_from, state.is_usable) == (5, 5, False)
    await FACTORY.migrate(config, print)
    state = await FACTORY.schema_state(config)
    assert (state.version, state.is_usable, state.missing) == (max(migrations()), True, ())
    assert "nothing to do" in await FACTORY.upgrade_sql(config, print)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("this is no database, and long enough for SQLite to see it at once" * 20)
    with pytest.raises(HorsiesError, match="HRS-211"):
        async with Runtime(Horsies(AppConfig.for_database_url(f"sqlite:///{path}"))):
            pass
    assert path.read_text().startswith("this is no database")


def test_every_query_is_used_and_every_used_name_exists() -> None:
    code = "".join(path.read_text() for path in PACKAGE.glob("*.py"))
    assert set(re.findall(r"_sql\[\"([\w.]+)\"\]", code)) <= named_queries().keys()
    assert named_queries().keys() <= set(re.findall(r"\"([\w.]+)\"", code))


async def test_another_broker_on_the_file_is_noticed(tmp_path: Path) -> None:
    config = AppConfig.for_database_url(f"sqlite:///{tmp_path / 'shared.db'}")
    app = Horsies(config)

    @app.task
    async def add(a: int, b: int) -> int:
        return a + b

    async with Runtime(app) as sender, Runtime(app) as worker:
        worker.start_worker()
        with anyio.fail_after(4):  # well below the poll interval of 5 s: it is the file that tells
            for n in range(3):
                handle = (await add.handle(sender).send(n, 1)).unwrap()
                assert await handle.get() == Ok(n + 1)


async def test_a_change_between_two_receives_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    app = Horsies(AppConfig.for_database_url(f"sqlite:///{path}"))
    async with Runtime(app) as rt, rt._engine.broker.listen(Topic.WORK) as listener:
        for n in range(2):
            with closing(sqlite3.connect(path)) as other, other:
                other.execute("INSERT INTO workers (worker_id, seen_at) VALUES (?, 0)", (f"w{n}",))
            with anyio.fail_after(5):
                assert await listener.receive() == [""]


async def test_many_runtimes_open_an_empty_file_at_once(tmp_path: Path) -> None:
    app = Horsies(AppConfig.for_database_url(f"sqlite:///{tmp_path / 'empty.db'}"))

    async def open_one() -> None:
        async with Runtime(app):
            pass

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(open_one)
