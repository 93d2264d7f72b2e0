"""What goes in comes out equal, or is refused."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest

from horsies._payload.codec import CodecError, codec_for
from horsies.plugins.serializers import horsies_serializers

SERIALIZERS = horsies_serializers()
PARIS = ZoneInfo("Europe/Paris")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Point:
    x: int
    y: float = 0.0


@dataclass
class Point3(Point):
    z: int = 0


@dataclass
class Tree:
    value: int
    children: list[Tree]


class Struct(msgspec.Struct):
    when: datetime
    names: set[str]


@attrs.define
class Attrs:
    amount: Decimal


class Typed(TypedDict):
    a: int


class Named(NamedTuple):
    a: int
    b: str


class Model(pydantic.BaseModel):
    n: int
    when: datetime


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (str, "é\0\n"),
    (int, 2**63 - 1),
    (int, -(2**63)),
    (float, 0.1),
    (float, 5e-324),
    (bool, True),
    (None, None),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (dict[str, list[int]], {"b": [1], "a": []}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (set[str], {"b", "a"}),
    (frozenset[int], frozenset({2, 10, -1})),
    (int | None, None),
    (int | str, "5"),
    (Literal["a", "b"], "b"),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (Point, Point(1, 2.5)),
    (Tree, Tree(1, [Tree(2, [])])),
    (Struct, Struct(datetime(2024, 1, 1, tzinfo=UTC), {"x"})),
    (Attrs, Attrs(Decimal("1.10"))),
    (Typed, {"a": 1}),
    (Named, Named(1, "x")),
    (Model, Model(n=1, when=datetime(2024, 1, 1, tzinfo=UTC))),
    (datetime, datetime(2024, 1, 1, 12, 30, 0, 123456)),
    (datetime, datetime(2024, 1, 1, tzinfo=UTC)),
    (date, date(2024, 2, 29)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (timedelta, timedelta.max),
    (UUID, UUID(int=5)),
    (Decimal, Decimal("1E+10")),
    (Any, {"a": [1, "x", None, 1.5, b"y", True]}),
    (dict, {"$bytes": "not bytes", "$$bytes": b"bytes"}),
    (list, [[], {}]),
]


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS)
def test_round_trips(annotation: Any, value: Any, serializer: str) -> None:
    codec, through = codec_for(annotation), SERIALIZERS[serializer]
    plain = codec.lower(value)
    back = codec.lift(through.loads(through.dumps(plain)))
    assert back == value
    assert type(back) is type(value)
    assert through.dumps(codec.lower(back)) == through.dumps(plain)


REFUSALS: list[tuple[Any, Any]] = [
    (int, True),
    (int, "1"),
    (int, 1.0),
    (int, 2**63),
    (float, float("nan")),
    (float, float("inf")),
    (str, "\ud800"),
    (str, b"a"),
    (bool, 1),
    (list[int], (1, 2)),
    (list[int], ["SECRET"]),
    (tuple[int, str], [1, "a"]),
    (set[int], [1]),
    (Point, Point3(1, 2.0, 3)),
    (Point, {"x": 1}),
    (Point, Point("SECRET")),  # type: ignore[arg-type]
    (Literal["a"], "SECRET"),
    (Colour, "SECRET"),
    (Typed, {"a": "SECRET"}),
    (Model, {"n": 1}),
    (Any, (1, 2)),
    (Any, {1: 2}),
    (Any, [float("nan")]),
    (Any, {"a": 2**64}),
    (Any, Point(1)),
    (Any, object()),
    (Any, {1, 2}),
    (dict, {"\ud800": 1}),
    (list, [object()]),
    (datetime, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSALS)
def test_refusals_never_show_the_value(annotation: Any, value: Any) -> None:
    with pytest.raises(CodecError) as caught:
        codec_for(annotation).lower(value)
    assert "SECRET" not in str(caught.value)


def test_deep_nesting_is_refused_not_a_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CodecError):
        codec_for(Any).lower(deep)


def test_an_int_for_a_float_gives_the_bytes_of_the_float() -> None:
    lower = codec_for(float).lower
    assert type(lower(1)) is float
    assert lower(1) == lower(1.0)
    assert type(codec_for(list[float]).lower([1])[0]) is float  # type: ignore[index]


def test_equal_values_in_equal_form() -> None:
    assert codec_for(set[int]).lower({3, 1, 2}) == codec_for(set[int]).lower({2, 3, 1})
    assert list(codec_for(dict[str, int]).lower({"b": 1, "a": 2})) == ["a", "b"]
    paris = datetime(2024, 7, 1, 14, 0, tzinfo=PARIS)
    assert codec_for(datetime).lower(paris) == codec_for(datetime).lower(paris.astimezone(UTC))


def test_the_repeated_hour_of_autumn_is_not_refused() -> None:
    for fold in (0, 1):
        local = datetime(2024, 10, 27, 2, 30, tzinfo=PARIS, fold=fold)
        back = codec_for(datetime).lift(codec_for(datetime).lower(local))
        assert back == local.astimezone(UTC)


class Opaque:
    pass


@pytest.mark.parametrize(
    "annotation", [Opaque, list[Opaque], dict[int, str], str | bytes, str | UUID, Point | Tree, set[int] | list[int]]
)
def test_annotations_without_a_codec(annotation: Any) -> None:
    with pytest.raises(TypeError):
        codec_for(annotation)
