"""From what psycopg raises to what horsies promises: no argument and no password in any of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from horsies.abc import BrokerError

_RETRYABLE_CLASSES = ("08", "53", "57")
_RETRYABLE = frozenset({"25006", "40001", "40003", "40P01", "55P03", "58000", "58030"})
"""Errors that pass although the connection lives on. Whatever ends a connection passes as well, by any code."""
_LOST_CLASS = "08"
_DATA_CLASS = "22"
_DATA = "22000"
_MEMORY = "53200"
_END = ("FATAL", "PANIC")


class FullNotifyQueueError(BrokerError):
    """The server refuses a commit because its NOTIFY queue is full. Without notices the same statement passes."""


class TooLargeError(psycopg.DataError):
    """A statement exceeds what Postgres takes in one message. The text holds no value."""


@contextmanager
def translated(action: str, connection: psycopg.BaseConnection[Any] | None = None) -> Iterator[None]:
    """Raise what fails in the block as `BrokerError`.

    Args:
        action: says what was being done.
        connection: runs the statements of the block. An error after which it is closed is a lost connection.
    """
    try:
        yield
    except TimeoutError:
        message = f"{action}: the database did not answer within resilience.statement_timeout"
        raise BrokerError(message, retryable=True, code="57014", lost=True) from None
    except psycopg.Error as error:
        raise broker_error(action, error, is_closed=connection is not None and connection.closed) from None
    except OSError as error:
        raise BrokerError(
            f"{action}: {type(error).__name__}: {error.strerror or error.errno}", retryable=True
        ) from None
    except UnicodeError:
        raise BrokerError(f"{action}: a text that the client cannot encode or decode", code=_DATA) from None
    except MemoryError:
        raise BrokerError(f"{action}: the client is out of memory", retryable=True, code=_MEMORY) from None


def broker_error(action: str, error: psycopg.Error, *, is_closed: bool = False) -> BrokerError:
    """`error` as a `BrokerError`.

    The chain is cut by the caller, because the original may quote values: its DETAIL does, and so does the message of
    every data exception (class 22), of which only the name is told. A value that psycopg itself refuses has the code
    22000, as the server would say.

    Args:
        is_closed: whether the connection cannot be used any more.
    """
    code = error.sqlstate
    name = type(error).__name__
    if code is None or isinstance(error, TooLargeError):
        # What libpq itself makes of a connection that breaks in the middle of an answer comes as the bare class.
        lost = is_closed or (
            isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
            or type(error) is psycopg.DatabaseError
        )
        told = lost or isinstance(error, TooLargeError)
        why = _one_line(error) if told else "a value that cannot be sent to the database"
        refused = _DATA if isinstance(error, psycopg.DataError) else None
        return BrokerError(f"{action}: {name}: {why}", retryable=lost, code=None if lost else refused)
    said = "" if code.startswith(_DATA_CLASS) else f": {error.diag.message_primary}"
    message = f"{action}: {name} ({code}){said}"
    if is_closed or code.startswith(_LOST_CLASS) or (error.diag.severity_nonlocalized or error.diag.severity) in _END:
        return BrokerError(message, retryable=True, code=code, lost=True)
    if is_about_notices(error):
        return FullNotifyQueueError(message, retryable=True, code=code)
    return BrokerError(message, retryable=code.startswith(_RETRYABLE_CLASSES) or code in _RETRYABLE, code=code)


def is_about_notices(error: psycopg.Error) -> bool:
    """Whether the NOTIFY queue is full.

    Other limits of the server have the same SQLSTATE. The server names the source file, whatever language it speaks;
    where a pooler leaves that out, trying the statement without its notices finds out.
    """
    return error.sqlstate == "54000" and (error.diag.source_file or "async.c").endswith("async.c")


def _one_line(error: psycopg.Error) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
