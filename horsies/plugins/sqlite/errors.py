"""From what sqlite3 raises to what horsies promises. SQLite's messages name tables and columns, never values."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from horsies.abc import BrokerError

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_RETRYABLE = (
    *_BUSY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,  # also the journal, where the process is out of file descriptors
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,  # too many open the database just now
    sqlite3.SQLITE_INTERRUPT,
)


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise what fails in the block as `BrokerError`; `action` says what was being done."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None)
        if name is None and isinstance(error, sqlite3.OperationalError):
            # Python's module refuses a text that it has read, and quotes it.
            raise BrokerError(f"{action}: a stored text that is no UTF-8", code="SQLITE_MISMATCH") from None
        raise BrokerError(
            f"{action}: {name or type(error).__name__}: {error}", retryable=_primary(error) in _RETRYABLE, code=name
        ) from None
    except OverflowError:
        raise BrokerError(f"{action}: a value is larger than SQLite takes", code="SQLITE_TOOBIG") from None
    except UnicodeError:
        raise BrokerError(f"{action}: a text that is no UTF-8", code="SQLITE_MISMATCH") from None
    except MemoryError:
        raise BrokerError(f"{action}: the client is out of memory", retryable=True, code="SQLITE_NOMEM") from None


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection held the lock; nothing has been written."""
    return _primary(error) in _BUSY


def _primary(error: sqlite3.Error) -> int | None:
    """The primary result code: the low byte of the extended one. None for what Python's module itself refuses."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
