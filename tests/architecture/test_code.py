"""What the import contracts cannot say about the code."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import horsies
from horsies import hookspecs

PACKAGE = Path(horsies.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 500

PROMISED = """
    Horsies AppConfig QueueConfig PayloadPolicy RecoveryConfig RetentionConfig ResilienceConfig PoolConfig WorkerConfig
    Runtime Worker task Task TaskFunction TaskHandle TaskContext TaskInfo AttemptInfo TaskStatus TaskSendOptions
    TaskSendPayload TaskSendError TaskSendErrorCode TaskSendResult TaskResult TaskError BrokerError HorsiesError
    RetryPolicy CancelOutcome Ok Err Result blocking hookimpl
"""


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
    assert {"__init__.py", "_core/result.py", "plugins/postgres/connection.py"} <= names


def test_every_promised_name_is_exported() -> None:
    assert set(PROMISED.split()) - set(horsies.__all__) == set()


def test_every_exported_name_exists_once() -> None:
    assert len(set(horsies.__all__)) == len(horsies.__all__)
    assert [name for name in horsies.__all__ if not hasattr(horsies, name)] == []


def test_nothing_public_is_left_out_of_all() -> None:
    public = {name for name, value in vars(horsies).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert public == set(horsies.__all__)


def hooks() -> list[str]:
    return [name for name, value in vars(hookspecs).items() if hasattr(value, f"{hookspecs.PROJECT}_spec")]


def test_every_hook_carries_the_prefix() -> None:
    assert hooks() != []
    assert [name for name in hooks() if not name.startswith("horsies_")] == []
