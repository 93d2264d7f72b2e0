"""Which value may stand where, and who may wait for whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NewType, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from horsies import (
    Err,
    Ok,
    TaskError,
)
from horsies._workflow.definition.cycles import cycles_in
from horsies._workflow.definition.type_compat import fits, result_fits


class Animal: ...


class Dog(Animal): ...


class Colour(StrEnum):
    RED = "red"


class Typed(TypedDict):
    a: int


@dataclass
class Point:
    x: int


T = TypeVar("T")
UserId = NewType("UserId", int)
FIT: list[tuple[Any, Any]] = [
    (int, int),
    (int, Any),
    (Any, int),
    (object, int),
    (int, object),
    (T, int),
    (int, float),
    (None, None),
    (None, int | None),
    (int, int | None),
    (int | None, None | int),
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (str, Literal["a"]),
    (Dog, Animal),
    (Dog | None, Animal | str | None),
    (Colour, str),
    (UserId, int),
    (int, UserId),
    (Annotated[int, msgspec.Meta(gt=0)], int),
    (list, list[int]),
    (list[int], list),
    (list[int], list[int]),
    (list[Dog], list[Animal]),
    (list[int], Sequence[float]),
    (list[Any], list[int]),
    (dict[str, int], dict[str, int | None]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, ...], tuple[int, int]),
    (Typed, dict[str, int]),
    (dict[str, int], Typed),
]
UNFIT: list[tuple[Any, Any]] = [
    (int, str),
    (float, int),
    (bool, int),
    (bool, float),
    (datetime, date),
    (int, None),
    (None, int),
    (int | None, int),
    (int | str, int | None),
    (Animal, Dog),
    (Point, Animal),
    (Point, dict[str, int]),
    (str, Colour),
    (Literal[1], str),
    (Literal["c"], Literal["a", "b"]),
    (Literal["1"], Literal[1]),
    (int, Literal["a"]),
    (list[int], list[str]),
    (list[int], set[int]),
    (list[int], Sequence[str]),
    (dict[str, int], dict[str, str]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int]),
    (tuple[int, ...], tuple[str, ...]),
    (UserId, str),
]


@pytest.mark.parametrize(("given", "wanted"), FIT)
def test_types_that_fit(given: Any, wanted: Any) -> None:
    assert fits(given, wanted)
    assert result_fits(given, Ok[wanted] | Err[TaskError])
    assert not result_fits(given, wanted)


@pytest.mark.parametrize(("given", "wanted"), UNFIT)
def test_types_that_do_not(given: Any, wanted: Any) -> None:
    assert not fits(given, wanted)
    assert not result_fits(given, Err[TaskError] | Ok[wanted])


def test_a_result_of_any_value_fits_what_does_not_say() -> None:
    assert result_fits(int, Ok | Err[TaskError])
    assert not result_fits(int, Ok[int] | Err[ValueError])


graphs = st.integers(1, 8).flatmap(
    lambda count: st.lists(st.lists(st.integers(0, count - 1), max_size=3), min_size=count, max_size=count)
)


@given(graphs)
def test_cycles_are_cycles_and_without_them_there_is_an_order(needs: list[list[int]]) -> None:
    cycles = cycles_in(needs)
    seen = [index for cycle in cycles for index in cycle]
    assert len(seen) == len(set(seen))
    for cycle in cycles:
        assert all(need in needs[index] for index, need in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    left = set(range(len(needs))) - set(seen)
    while left:
        free = {index for index in left if not set(needs[index]) & left}
        assert free != set()
        left -= free


def test_a_long_chain_is_no_cycle() -> None:
    chain = [[], *([index] for index in range(20_000))]
    assert cycles_in(chain) == []
    assert len(cycles_in([[20_000], *chain[1:]])[0]) == 20_001
