"""Which failures pass by themselves, when psycopg does not know an SQLSTATE for them; and that no value is told."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest

from horsies.abc import BrokerError
from horsies.plugins.postgres.driver.errors import broker_error, translated

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


@pytest.mark.parametrize("kind", [psycopg.DataError, psycopg.errors.InvalidTextRepresentation])
def test_a_failure_of_a_value_is_told_by_its_code_from_a_lost_connection(kind: type[psycopg.Error]) -> None:
    error = broker_error("claim", kind("hunter2"))
    assert error.code is not None
    assert error.code.startswith("22")
    assert not error.lost
    assert "hunter2" not in error.message


def test_a_text_that_cannot_be_decoded_is_a_failure_of_a_value() -> None:
    with pytest.raises(BrokerError) as raised, translated("claim"):
        b"hunter2\xff".decode()
    assert (raised.value.code, raised.value.retryable) == ("22000", False)
    assert "hunter2" not in raised.value.message


def test_a_client_without_memory_fails_as_a_server_without_memory_does() -> None:
    with pytest.raises(BrokerError) as raised, translated("finish"):
        raise MemoryError
    assert (raised.value.code, raised.value.retryable, raised.value.lost) == ("53200", True, False)


def failure(postgres_url: str, run: Callable[[psycopg.Connection], object]) -> BrokerError:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        try:
            with translated("claim", connection):
                run(connection)
        except BrokerError as error:
            return error
    raise AssertionError("it did not fail")


def sit_in_a_transaction(connection: psycopg.Connection) -> None:
    connection.execute("SET idle_in_transaction_session_timeout = 50")
    connection.execute("BEGIN")
    time.sleep(0.3)
    connection.execute("SELECT 1")


def fail_and_close(connection: psycopg.Connection) -> None:
    try:
        connection.execute("SELECT 1 / 0")
    finally:
        connection.close()


@pytest.mark.parametrize("run", [sit_in_a_transaction, fail_and_close])
def test_what_ends_the_connection_is_a_lost_one_whatever_its_code(
    postgres_url: str, run: Callable[[psycopg.Connection], object]
) -> None:
    """FATAL 25P03 says so itself, and an ERROR counts too if the connection is dead afterwards."""
    error = failure(postgres_url, run)
    assert (error.retryable, error.lost) == (True, True)


@pytest.mark.parametrize(
    ("code", "passes"),
    [("58030", True), ("57P05", True), ("53100", True), ("42501", False), ("54000", False), ("P0001", False)],
)
def test_an_error_that_leaves_the_connection_alive_goes_by_its_code(postgres_url: str, code: str, passes: bool) -> None:
    statement = f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{code}'; END $$"
    error = failure(postgres_url, lambda connection: connection.execute(statement.encode()))
    assert (error.code, error.retryable, error.lost) == (code, passes, False)
