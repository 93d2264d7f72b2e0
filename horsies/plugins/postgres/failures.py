"""From what psycopg raises to what horsies promises: no argument and no password in any of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from horsies.abc import BrokerError

_RETRYABLE_CLASSES = ("08", "53")
_RETRYABLE = frozenset({"25006", "40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03"})
_DATA_CLASS = "22"


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise what fails in the block as `BrokerError`; `action` says what was being done."""
    try:
        yield
    except TimeoutError:
        message = f"{action}: the database did not answer within resilience.statement_timeout"
        raise BrokerError(message, retryable=True, code="57014") from None
    except psycopg.Error as error:
        raise broker_error(action, error) from None
    except OSError as error:
        raise BrokerError(
            f"{action}: {type(error).__name__}: {error.strerror or error.errno}", retryable=True
        ) from None


def broker_error(action: str, error: psycopg.Error) -> BrokerError:
    """`error` as a `BrokerError`.

    The chain is cut by the caller, because the original may quote values: its DETAIL does, and so does the message of
    every data exception (class 22), of which only the name is told.
    """
    code = error.sqlstate
    name = type(error).__name__
    if code is None:
        # What libpq itself makes of a connection that breaks in the middle of an answer comes as the bare class.
        lost = (
            isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
            or type(error) is psycopg.DatabaseError
        )
        why = _one_line(error) if lost else "a value that cannot be sent to the database"
        return BrokerError(f"{action}: {name}: {why}", retryable=lost)
    said = "" if code.startswith(_DATA_CLASS) else f": {error.diag.message_primary}"
    return BrokerError(f"{action}: {name} ({code}){said}", retryable=is_retryable(code), code=code)


def is_retryable(sqlstate: str) -> bool:
    """Whether what `sqlstate` names passes by itself."""
    return sqlstate.startswith(_RETRYABLE_CLASSES) or sqlstate in _RETRYABLE


def _one_line(error: psycopg.Error) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
