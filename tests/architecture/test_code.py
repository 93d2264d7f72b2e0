"""What the import contracts cannot say about the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import horsies
from horsies import hookspecs

PACKAGE = Path(horsies.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 500


def imported_by(module: Path) -> Iterator[tuple[str, str]]:
    """Each absolute import of `module`, wherever it stands: what is imported, and how it is written."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "import") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module), "from"


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestModule:
    def test_knows_no_event_loop_by_name(self, module: Path) -> None:
        allowed = {"trio"} if module.is_relative_to(PACKAGE / "testing") else set[str]()
        assert {top(name) for name, _ in imported_by(module)} & ({"asyncio", "trio", "uvloop"} - allowed) == set()

    def test_names_anyio_in_full(self, module: Path) -> None:
        assert not [name for name, form in imported_by(module) if form == "from" and top(name) == "anyio"]

    def test_is_short_enough_to_be_read(self, module: Path) -> None:
        assert len(module.read_text().splitlines()) <= LONGEST


def test_the_modules_are_found() -> None:
    names = {str(path.relative_to(PACKAGE)) for path in MODULES}
    assert {"__init__.py", "_core/result.py", "plugins/postgres/driver/connection.py"} <= names


PRIVATE = {
    "plugins/postgres/driver/connection.py": {"_autocommit", "_connect_gen", "_pipeline"},
    "plugins/postgres/driver/overrides.py": {"_communicate_gen", "_enqueue_sync", "_exit_gen", "_fetch_gen"},
    "testing/_simulation/scheduler.py": {
        "_ALLOW_DETERMINISTIC_SCHEDULING",
        "_cancel_status",
        "_parent",
        "_r",
        "_scope",
    },
}
"""What is private to a library and used all the same; `horsies.plugins.postgres.driver.overrides` says why."""
PUBLIC_ALL_THE_SAME = {"_asdict", "_exit", "_fields", "_replace"}
"""Of namedtuples, and of the module os."""


def private_names(source: str) -> set[str]:
    """The private attributes that `source` gets, sets or defines."""
    tree = list(ast.walk(ast.parse(source)))
    got = {node.attr for node in tree if isinstance(node, ast.Attribute)}
    defined = {node.name for node in tree if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    return {name for name in got | defined if name.startswith("_") and not name.endswith("__")}


def own_names(source: str) -> set[str]:
    """The private attributes that `source` makes: what it defines, sets on an object or declares in a class."""
    made = set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            made.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # __slots__
            made.add(node.value)
    return made


def test_nothing_private_of_a_library_is_used_but_what_is_listed() -> None:
    """A class derived from psycopg's takes its private names for its own: they count as psycopg's."""
    sources = {str(path.relative_to(PACKAGE)): path.read_text() for path in MODULES}
    own = set[str]().union(*map(own_names, sources.values()))
    driver = Path(psycopg.__file__).parent
    of_driver = set[str]().union(*(private_names(path.read_text()) for path in driver.rglob("*.py")))
    used = {}
    for name, source in sources.items():
        derives = name in ("plugins/postgres/driver/connection.py", "plugins/postgres/driver/overrides.py")
        listed = PRIVATE.get(name, set())
        foreign = {
            attribute
            for attribute in private_names(source)
            if attribute not in own or attribute in listed or (derives and attribute in of_driver)
        }
        if foreign - PUBLIC_ALL_THE_SAME:
            used[name] = foreign - PUBLIC_ALL_THE_SAME
    assert used == PRIVATE


def hooks() -> list[str]:
    return [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")]


def test_every_hook_carries_the_prefix() -> None:
    assert hooks() != []
    assert [name for name in hooks() if not name.startswith("horsies_")] == []
