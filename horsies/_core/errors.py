"""The exceptions of horsies.

Plain classes with read-only attributes: equal by value, and safe to copy, pickle and raise. Values that an exception
must carry through `pickle` live in `__dict__`, which `BaseException` restores by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from .codes import TaskErrorCode, is_user_code


class ComparableError(Exception):
    """An exception that compares by what it says."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.args == other.args and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class HorsiesError(ComparableError):
    """A definition, configuration or start-up problem. Raised, never returned: the program has to change.

    Args:
        code: `HRS-` and three digits; the page about errors lists them all.
        message: what is wrong.
        notes: the place of the problem, and what to do.
    """

    def __init__(self, code: str, message: str, notes: Sequence[str] = ()) -> None:
        super().__init__(code, message, tuple(notes))
        self._problems: tuple[HorsiesError, ...] = ()

    @classmethod
    def of(cls, problems: Sequence[HorsiesError]) -> HorsiesError:
        """One error for `problems` (at least one), which shows them all."""
        if len(problems) == 1:
            return problems[0]
        error = cls(problems[0].code, f"{len(problems)} problems", [str(problem) for problem in problems])
        error._problems = tuple(problems)
        return error

    @property
    def code(self) -> str:
        """For example `HRS-203`."""
        code: str = self.args[0]
        return code

    @property
    def message(self) -> str:
        """Sentence that says what is wrong."""
        message: str = self.args[1]
        return message

    @property
    def notes(self) -> tuple[str, ...]:
        """The place of the problem, and what to do. Empty if the message says all of it."""
        notes: tuple[str, ...] = self.args[2]
        return notes

    @property
    def problems(self) -> tuple[HorsiesError, ...]:
        """Every problem that was found together with this one; just this one if it is the only one."""
        return self._problems or (self,)

    def __str__(self) -> str:
        return "\n  ".join([f"[{self.code}] {self.message}", *(note.replace("\n", "\n  ") for note in self.notes)])


def raise_all(problems: Sequence[HorsiesError]) -> None:
    """Raise one `HorsiesError` for `problems`; do nothing when there are none."""
    if problems:
        raise HorsiesError.of(problems)


@dataclass(frozen=True, slots=True)
class ErrorCause:
    """The exception behind an UNHANDLED_ERROR, as text, because the class may not exist where it is read.

    Of a text longer than 64 KiB the beginning and the end are stored, with how much is missing in between.
    """

    type: str
    """Name of the class of the exception, without its module."""
    message: str
    """Text of the exception."""
    traceback: str
    """Traceback as Python prints it, with the exceptions that led to this one."""


class TaskError(ComparableError):
    """A task failed. Return it in `Err`, or raise it; both mean the same.

    Args:
        code: upper snake case, chosen by you, for example `RATE_LIMITED`; built-in codes are `TaskErrorCode`.
        message: for people; 64 KiB of it are stored.
        data: plain builtins that travel with the error.

    Raises:
        HorsiesError: HRS-212 when `code` is not upper snake case, or is the name of a built-in code.
    """

    def __init__(self, code: str, message: str = "", *, data: Any = None) -> None:
        if not isinstance(code, TaskErrorCode) and not is_user_code(code):
            raise HorsiesError(
                "HRS-212",
                f"{code!r} cannot be the code of a TaskError",
                ["a code is upper snake case, such as RATE_LIMITED, and not one of horsies' own"],
            )
        super().__init__(code, message)
        self._data = data
        self._cause: ErrorCause | None = None

    @classmethod
    def caused_by(cls, code: TaskErrorCode, message: str, cause: ErrorCause | None) -> TaskError:
        """A built-in error with the exception that led to it."""
        error = cls(code, message)
        error._cause = cause
        return error

    @property
    def code(self) -> str:
        """A `TaskErrorCode`, or the user's own string."""
        code: str = self.args[0]
        return code

    @property
    def message(self) -> str:
        """Text for people; empty if there is none."""
        message: str = self.args[1]
        return message

    @property
    def data(self) -> Any:
        """Plain builtins that travel with the error, or None."""
        return self._data

    @property
    def cause(self) -> ErrorCause | None:
        """The exception behind it, for built-in codes that have one."""
        return self._cause

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else str(self.code)


class BrokerError(ComparableError):
    """The broker or its database failed. Brokers raise it; the public API returns it in `Err`.

    Args:
        message: what failed.
        retryable: the error passes by itself.
        code: the SQLSTATE, if the database gave one.
        lost: the connection was lost. Default: True for a retryable error without a code.
    """

    def __init__(
        self, message: str, *, retryable: bool = False, code: str | None = None, lost: bool | None = None
    ) -> None:
        super().__init__(message)
        self._retryable = retryable
        self._code = code
        self._lost = retryable and code is None if lost is None else lost

    @property
    def message(self) -> str:
        """Sentence that says what failed."""
        message: str = self.args[0]
        return message

    @property
    def retryable(self) -> bool:
        """True if the error passes by itself (connection lost, server starting or full, serialization failure).

        False if a person must act, for example after a missing table or a missing permission.
        """
        return self._retryable

    @property
    def locked(self) -> bool:
        """True if another transaction held a lock on the rows for too long (SQLSTATE 55P03)."""
        return self._code == "55P03"

    @property
    def lost(self) -> bool:
        """True if the connection was lost, so that the database may be away. False if the database answered."""
        return self._lost

    @property
    def code(self) -> str | None:
        """SQLSTATE of the error, or None if the database gave none."""
        return self._code


def reject(code: str, message: str, *notes: str) -> NoReturn:
    """Raise one `HorsiesError`."""
    raise HorsiesError(code, message, notes)
