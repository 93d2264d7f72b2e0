"""`Ok` and `Err`: how horsies answers where a failure is an ordinary outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeAlias, TypeVar

T = TypeVar("T")
U = TypeVar("U")
E = TypeVar("E")
F = TypeVar("F")
T_co = TypeVar("T_co", covariant=True)
E_co = TypeVar("E_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Ok(Generic[T_co]):
    """A success."""

    value: T_co
    """What came out."""

    def is_ok(self) -> bool:
        """Return True."""
        return True

    def is_err(self) -> bool:
        """Return False."""
        return False

    def unwrap(self) -> T_co:
        """Return `value`."""
        return self.value

    def unwrap_err(self) -> NoReturn:
        """Raise, because there is no error.

        Raises:
            ValueError: always.
        """
        raise ValueError("unwrap_err() on an Ok: there is no error to take out")

    def map(self, f: Callable[[T_co], U]) -> Ok[U]:
        """Return `Ok(f(value))`."""
        return Ok(f(self.value))

    def map_err(self, f: Callable[..., object]) -> Ok[T_co]:
        """Return this `Ok` as it is; `f` is not called."""
        return self


@dataclass(frozen=True, slots=True)
class Err(Generic[E_co]):
    """A failure."""

    error: E_co
    """Why it failed."""

    def is_ok(self) -> bool:
        """Return False."""
        return False

    def is_err(self) -> bool:
        """Return True."""
        return True

    def unwrap(self) -> NoReturn:
        """Raise the error.

        Raises:
            BaseException: `error` itself, if it is an exception.
            ValueError: `error` is not an exception.
        """
        if isinstance(self.error, BaseException):
            raise self.error
        raise ValueError(f"unwrap() on an Err that holds {type(self.error).__name__}, which is not an exception")

    def unwrap_err(self) -> E_co:
        """Return `error`."""
        return self.error

    def map(self, f: Callable[..., object]) -> Err[E_co]:
        """Return this `Err` as it is; `f` is not called."""
        return self

    def map_err(self, f: Callable[[E_co], F]) -> Err[F]:
        """Return `Err(f(error))`."""
        return Err(f(self.error))


Result: TypeAlias = Ok[T] | Err[E]
"""A success with a value of type `T`, or a failure with an error of type `E`."""
