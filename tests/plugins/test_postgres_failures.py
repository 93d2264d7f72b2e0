"""Which failures pass by themselves, when psycopg does not know an SQLSTATE for them; and that no value is told."""

from __future__ import annotations

import psycopg
import pytest

from horsies.plugins.postgres.failures import broker_error

BROKEN = "server closed the connection unexpectedly"


@pytest.mark.parametrize("kind", [psycopg.OperationalError, psycopg.InterfaceError, psycopg.DatabaseError])
def test_a_connection_that_broke_is_worth_another_try(kind: type[psycopg.Error]) -> None:
    error = broker_error("enqueue", kind(f"{BROKEN}\n  while processing"))
    assert error.retryable
    assert error.message == f"enqueue: {kind.__name__}: {BROKEN}; while processing"


@pytest.mark.parametrize("kind", [psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError])
def test_a_value_that_cannot_be_sent_is_not_and_is_not_shown(kind: type[psycopg.Error]) -> None:
    error = broker_error("enqueue", kind("cannot adapt 'hunter2'"))
    assert not error.retryable
    assert "hunter2" not in error.message
