"""Exceptions and values whose classes misbehave where they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from horsies import Err, TaskError


class Stray(BaseException):
    """What some libraries raise so that nobody catches it by accident."""


class MuteStr(Exception):
    def __str__(self) -> str:
        raise Stray("no text")

    __repr__ = __str__


class NumberStr(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # on purpose


class OddText(str):
    __slots__ = ()

    def __format__(self, spec: str) -> str:
        raise Stray("no format")

    encode = __format__  # type: ignore[assignment]


class OddStr(Exception):
    def __str__(self) -> str:
        return OddText("odd")


class Refusing(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise Stray(name)


class ComputedCause(Exception):
    """Has a cause, which has a cause, and so on without end."""

    @property
    def __cause__(self) -> BaseException:  # type: ignore[override]
        return ComputedCause("behind it")


class OddClass(Exception):
    @property
    def __class__(self) -> Any:
        raise Stray("no class")


class Meta(type):
    def __getattribute__(cls, name: str) -> Any:
        raise Stray(name)


class Nameless(Exception, metaclass=Meta):
    pass


class Notes(list[str]):
    def __iter__(self) -> Iterator[str]:
        while True:
            yield "without end"


class OddGroup(BaseExceptionGroup[BaseException]):
    def split(self, condition: Any) -> Any:
        raise Stray("cannot be divided")

    subgroup = split

    def derive(self, excs: Any) -> Any:
        raise Stray("cannot be made")


class OddCode(TaskError):
    code: ClassVar[Any] = "not a code \udc80"


class FailingCode(TaskError):
    @property
    def code(self) -> str:
        raise Stray("no code")


class FailingMessage(TaskError):
    @property
    def message(self) -> str:
        raise Stray("no message")


class Bag(list[int]):
    def __iter__(self) -> Iterator[int]:
        raise Stray("cannot be read")


@dataclass
class Closed:
    n: int = 1

    def __getattribute__(self, name: str) -> Any:
        if name == "n":
            raise SystemExit(3)
        return object.__getattribute__(self, name)


@dataclass
class Order:
    n: int
    is_broken: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.is_broken:
            raise Stray("out of its way")


def raising(make: Callable[[], BaseException]) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise make()

    return raise_it


def with_notes() -> Exception:
    error = ValueError("noted")
    error.__notes__ = Notes()
    return error


def in_a_circle() -> Exception:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    one.__context__ = one
    return one


def long_chain() -> Exception:
    error = ValueError("the first")
    for n in range(5_000):
        behind, error = error, ValueError(f"number {n}")
        error.__context__ = behind
    return error


def deep_group() -> BaseException:
    group: BaseException = ValueError("inmost")
    for _ in range(5_000):
        group = BaseExceptionGroup("group", [group])
    return group


def deepest() -> None:
    deepest()


FAILURES: dict[str, Callable[[], BaseException]] = {
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(1),
    "StopAsyncIteration": StopAsyncIteration,
    "SystemExit": lambda: SystemExit(3),
    "MemoryError": MemoryError,
    "a group of them": lambda: BaseExceptionGroup("all", [GeneratorExit(), Refusing(), MuteStr(), OddClass()]),
    "a group that cannot be divided": lambda: OddGroup("odd", [GeneratorExit(), ValueError()]),
    "a deep group": deep_group,
    "__str__ raises": MuteStr,
    "__str__ returns a number": NumberStr,
    "__str__ returns a subclass of str": OddStr,
    "__getattribute__ raises": Refusing,
    "__class__ raises": OddClass,
    "the class of its class raises": Nameless,
    "causes without end": ComputedCause,
    "causes in a circle": in_a_circle,
    "a long chain of causes": long_chain,
    "notes without end": with_notes,
    "no Unicode": lambda: ValueError("\ud800 and \udc80"),
    "no text for a database": lambda: ValueError("\0"),
    "megabytes of text": lambda: ValueError("x" * 3_000_000),
}
"""Each is UNHANDLED_ERROR."""

RESULTS: dict[str, Callable[[], Any]] = {
    "a code that is none": lambda: Err(OddCode("FINE")),
    "a code that raises": lambda: Err(FailingCode("FINE")),
    "a message that raises": lambda: Err(FailingMessage("FINE")),
    "data that raises": lambda: Err(TaskError("FINE", data=Bag([1]))),
    "a list that raises": lambda: Bag([1]),
    "a field that raises SystemExit": Closed,
}
"""Each is RETURN_TYPE_MISMATCH."""
