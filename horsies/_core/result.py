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
    """It worked; `value` is what came out."""

    value: T_co

    def is_ok(self) -> bool:
        return True

    def is_err(self) -> bool:
        return False

    def unwrap(self) -> T_co:
        return self.value

    def unwrap_err(self) -> NoReturn:
        """Raises: ValueError: always, because there is no error here."""
        raise ValueError("unwrap_err() on an Ok: there is no error to take out")

    def map(self, f: Callable[[T_co], U]) -> Ok[U]:
        return Ok(f(self.value))

    def map_err(self, f: Callable[..., object]) -> Ok[T_co]:
        return self


@dataclass(frozen=True, slots=True)
class Err(Generic[E_co]):
    """It did not work; `error` says why."""

    error: E_co

    def is_ok(self) -> bool:
        return False

    def is_err(self) -> bool:
        return True

    def unwrap(self) -> NoReturn:
        """Raises: the error itself; ValueError when it is not an exception."""
        if isinstance(self.error, BaseException):
            raise self.error
        raise ValueError(f"unwrap() on an Err that holds {type(self.error).__name__}, which is not an exception")

    def unwrap_err(self) -> E_co:
        return self.error

    def map(self, f: Callable[..., object]) -> Err[E_co]:
        return self

    def map_err(self, f: Callable[[E_co], F]) -> Err[F]:
        return Err(f(self.error))


Result: TypeAlias = Ok[T] | Err[E]
