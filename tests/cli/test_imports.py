"""Locators whose module cannot be imported or has no application: one message, with file and line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from horsies import HorsiesError
from horsies.cli.locate import load_app

from .shell import Shell, both_loops, once

APP = 'from horsies import *\napp = Horsies(AppConfig.for_database_url("sqlite://:memory:"))\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def refused(locator: str, code: str) -> HorsiesError:
    with pytest.raises(HorsiesError) as caught:
        load_app(locator)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize(
    ("source", "expected", "line"),
    [
        ("import nosuch_package\n", "ModuleNotFoundError: No module named 'nosuch_package'", 1),
        ("\n\n1 / 0\n", "ZeroDivisionError: division by zero", 3),
        ("\nimport json\n\njson.loads('{')\n", "JSONDecodeError", 4),
        ("\nx = (\n", "SyntaxError: '(' was never closed", 2),
        ("\ncompile('x = (', 'nowhere', 'exec')\n", "SyntaxError", 2),
        ("import sys\nsys.exit(0)\n", "it ends the program with SystemExit: 0", 2),
        ("import sys\nsys.exit()\n", "it ends the program with SystemExit", 2),
        ("raise GeneratorExit\n", "GeneratorExit", 1),
        ("import asyncio\nraise asyncio.CancelledError\n", "CancelledError", 2),
        ("class Odd(BaseException):\n    def __str__(self): 1 / 0\nraise Odd\n", "Odd", 3),
        ("def __getattr__(name):\n    raise SystemExit(0)\n", "it ends the program with SystemExit: 0", 2),
        ("raise ValueError('x' * 100_000)\n", "ValueError: xxx", 1),
    ],
)
def test_an_import_that_fails_names_the_file_and_the_line(folder: Path, source: str, expected: str, line: int) -> None:
    (folder / "failing.py").write_text(source)
    error = refused("failing:app", "HRS-210")
    assert f"cannot import 'failing': {expected}" in error.message
    assert len(error.message) < 5_000
    assert error.notes[0] == f"at {folder / 'failing.py'}, line {line}"
    assert "Traceback" not in str(error)


def test_the_innermost_line_of_the_users_code_is_named(folder: Path) -> None:
    (folder / "outer.py").write_text("\nimport inner\n")
    (folder / "inner.py").write_text("\n\nimport json\njson.loads('')\n")
    assert refused("outer:app", "HRS-210").notes[0] == f"at {folder / 'inner.py'}, line 4"


def test_a_declaration_that_is_refused_names_its_line(folder: Path) -> None:
    (folder / "wrong.py").write_text(f"{APP}Cron('60 * * * *')\n")
    error = refused("wrong:app", "HRS-205")
    assert error.__notes__ == [f"at {folder / 'wrong.py'}, line 3"]


def test_a_circular_import_is_called_one(folder: Path) -> None:
    (folder / "one.py").write_text(f"from two import b\n{APP}a = 1\n")
    (folder / "two.py").write_text("from one import a\nb = 2\n")
    error = refused("one:app", "HRS-210")
    chain = f"{folder / 'one.py'}, line 1 -> {folder / 'two.py'}, line 1"
    assert f"it is a circular import: {chain}" in error.notes


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("import json\njson.lods('1')\n", "loads"),
        ("from json import dmps\n", "dumps"),
        ("import wares\nwares.sels\n", "sells"),
        ("from wares import sels\n", "sells"),
        ("import ware\n", "wares"),
    ],
)
def test_a_name_that_is_not_there_suggests_the_nearest(folder: Path, source: str, meant: str) -> None:
    (folder / "wares.py").write_text("sells = 1\n")
    (folder / "failing.py").write_text(source)
    assert f"the nearest name there is {meant!r}" in refused("failing:app", "HRS-210").notes


def test_an_interrupt_stays_an_interrupt(folder: Path) -> None:
    (folder / "interrupted.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_app("interrupted:app")


def test_a_module_that_is_not_there_suggests_the_nearest(folder: Path) -> None:
    (folder / "warehouse").mkdir()
    (folder / "warehouse" / "__init__.py").touch()
    (folder / "warehouse" / "tasks.py").write_text(APP)
    notes = refused("warehose.tasks:app", "HRS-210").notes
    assert any(str(folder) in note and "PYTHONPATH" in note for note in notes)
    assert "the nearest name there is 'warehouse'" in notes
    notes = refused("warehouse.task:app", "HRS-210").notes
    assert f"looked in module 'warehouse' ({folder / 'warehouse' / '__init__.py'})" in notes
    assert "the nearest name there is 'tasks'" in notes
    assert "not the path of a file" in refused("warehouse.py:app", "HRS-210").notes[0]
    assert load_app("warehouse.tasks:app").tasks == {}


@pytest.mark.parametrize("locator", ["./shop:app", "folder/shop.py:app", ".shop:app", "shop", ":app", "shop:"])
def test_what_is_no_locator(folder: Path, locator: str) -> None:
    refused(locator, "HRS-207")


def test_an_attribute_that_is_not_there_shows_the_file_and_what_is_there(folder: Path) -> None:
    (folder / "depot.py").write_text(f"{APP}application = app\ndel app\n")
    (folder / "empty.py").write_text("settings = 1\n")
    error = refused("depot:app", "HRS-207")
    assert error.message == f"module 'depot' ({folder / 'depot.py'}) has no 'app'"
    assert error.notes == ("its applications: depot:application",)
    assert refused("empty:setings", "HRS-207").notes == ("the nearest name there is 'settings'",)
    error = refused("empty:settings", "HRS-207")
    assert error.message == "empty:settings is a int, not a Horsies application"
    assert error.notes == (f"it is in module 'empty' ({folder / 'empty.py'})",)


def test_a_module_that_hides_behind_another_is_pointed_out(folder: Path) -> None:
    (folder / "statistics.py").write_text(APP)
    import statistics

    error = refused("statistics:app", "HRS-207")
    assert str(statistics.__file__) in error.message
    assert error.notes[0].startswith(f"{folder / 'statistics.py'} was not imported: another module of that name")


@once
@pytest.mark.parametrize(
    "command",
    ["check", "worker", "scheduler", "migrate", "migrate --sql", "queue list", "schedule list", "workflow list"],
)
def test_a_module_that_ends_the_program_is_no_success(shell: Shell, command: str) -> None:
    (shell.folder / "ending.py").write_text("import sys\nfrom shop import app\nsys.exit(0)\n")
    done = shell.run(*command.split(), "ending:app")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HRS-210" in done.stderr
    assert "ending.py, line 3" in done.stderr
    assert "Traceback" not in done.stderr


@once
@both_loops
def test_an_interrupted_import_ends_as_a_shell_has_it(shell: Shell, backend: str) -> None:
    (shell.folder / "interrupted.py").write_text("raise KeyboardInterrupt\n")
    done = shell.run("worker", "interrupted:app", "--backend", backend)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")


PLUGIN = """
import importlib.metadata, sys
from shop import app

class Ending:
    name, group, value = "ending", "horsies", "ending"
    def load(self):
        sys.exit(0)

class Distribution:
    entry_points = [Ending()]
    metadata = {"name": "ending"}
    version = "1"

importlib.metadata.distributions = lambda: [Distribution()]
"""


@once
def test_a_plugin_that_ends_the_program_is_no_success(shell: Shell) -> None:
    (shell.folder / "plugged.py").write_text(PLUGIN)
    done = shell.run("check", "plugged:app")
    assert (done.returncode, done.stdout) == (1, "")
    assert "HRS-217" in done.stderr
    assert "SystemExit: 0" in done.stderr
