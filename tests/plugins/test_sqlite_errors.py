"""Which failures of SQLite pass by themselves, and that Python's own refusals are failures like any other."""

from __future__ import annotations

import sqlite3

import pytest

from horsies.abc import BrokerError
from horsies.plugins.sqlite.errors import translated


def failure(error: BaseException) -> BrokerError:
    with pytest.raises(BrokerError) as raised, translated("finish"):
        raise error
    return raised.value


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("SQLITE_BUSY", True),
        ("SQLITE_LOCKED", True),
        ("SQLITE_FULL", True),
        ("SQLITE_IOERR_WRITE", True),
        ("SQLITE_CANTOPEN", True),
        ("SQLITE_NOMEM", True),
        ("SQLITE_READONLY", False),
        ("SQLITE_CORRUPT", False),
        ("SQLITE_CONSTRAINT_TRIGGER", False),
        ("SQLITE_TOOBIG", False),
    ],
)
def test_what_the_environment_causes_passes(name: str, passes: bool) -> None:
    error = sqlite3.OperationalError("why")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, name), name
    told = failure(error)
    assert (told.code, told.retryable, told.lost) == (name, passes, False)


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("SELECT ?", 2**70),
        ("SELECT ?", "hunter2\ud800"),
        ("SELECT CAST(? AS text)", b"hunter2\xff"),
    ],
)
def test_a_value_that_python_cannot_pass_is_refused_and_not_shown(statement: str, value: object) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(BrokerError) as raised, translated("finish"):
        connection.execute(statement, (value,)).fetchall()
    connection.close()
    assert not raised.value.retryable
    assert raised.value.code is not None
    assert "hunter2" not in raised.value.message


def test_a_client_without_memory_fails_as_sqlite_without_memory_does() -> None:
    told = failure(MemoryError())
    assert (told.code, told.retryable, told.lost) == ("SQLITE_NOMEM", True, False)
