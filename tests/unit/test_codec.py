"""What goes in comes out equal, or is refused."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from codec_samples import (
    PARIS,
    SERIALIZERS,
    Adding,
    Attrs,
    Box,
    Cat,
    Colour,
    Counting,
    Cow,
    Derived,
    DictAndMore,
    Dog,
    Inner,
    Key,
    Level,
    Mixed,
    Model,
    Moment,
    Name,
    Named,
    NoEquality,
    Opaque,
    Partial,
    Picky,
    Point,
    Point3,
    Renamed,
    Rich,
    Rights,
    Row,
    Secret,
    Struct,
    Text,
    TextOrBytes,
    Tree,
    Typed,
    WithInitVar,
    Zone,
)

from horsies._payload.codec import CodecError, codec_for

ROUND_TRIPS: list[tuple[Any, Any]] = [
    (str, "é\0\n"),
    (int, 2**63 - 1),
    (int, -(2**63)),
    (float, 0.1),
    (float, 5e-324),
    (float, -0.0),
    (bool, True),
    (None, None),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (dict[str, list[int]], {"b": [1], "a": []}),
    (dict[Literal["a", "b"], int], {"b": 1}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[()], ()),
    (tuple, (1, "a", None)),
    (set[str], {"b", "a", "ccc", "dd"}),
    (set, {1, "a", None, b"b", 2.5}),
    (set[int | str], {1, "a", -1, "bb", 300}),
    (set[float], {3.0, 1.5}),
    (set[tuple[int, str]], {(1, "b"), (1, "a"), (-1, "")}),
    (set[Key], {Key(1), Key(-1), Key(300)}),
    (set[frozenset[str]], {frozenset({"a", "b"}), frozenset()}),
    (dict[str, set[Colour | None]], {"x": {Colour.RED, None}}),
    (frozenset[int], frozenset({2, 10, -1})),
    (Sequence[int], [1]),
    (Mapping[str, int], {"a": 1}),
    (Literal["a", 1, None], 1),
    (Literal[True], True),
    (Colour, Colour.CRIMSON),
    (Name, Name.A),
    (Level, Level.HIGH),
    (Rights, Rights.READ | Rights.WRITE),
    (Rights, Rights(0)),
    (Point, Point(1, 2.5)),
    (Tree, Tree(1, [Tree(2, [])])),
    (Derived, Derived(1, 5)),
    (Picky, Picky(1)),
    (Box[list[set[int]]], Box([{300, 1, -1}])),
    (Box, Box({"a": [1.5]})),
    (Struct, Struct(datetime(2024, 1, 1, tzinfo=UTC), {"x", "yy"})),
    (Renamed, Renamed()),
    (Renamed, Renamed(2, [3], 4)),
    (Row, Row(1, {300, 1})),
    (Dog, Dog(1)),
    (Attrs, Attrs(Decimal("1.10"), 2, 3)),
    (Typed, {"a": 1}),
    (Typed, {"a": 1, "b": ""}),
    (Partial, {}),
    (Named, Named(1, "x")),
    (Model, Model(n=1, when=datetime(2024, 1, 1, tzinfo=UTC))),
    (Model | None, None),
    (
        Rich,
        Rich(
            inner=Inner(names={"b", "a"}, extra=[1]),
            byAlias=2,
            number=True,
            url="http://x.y/z",
            address="1.2.3.4",
            point=Point(1),
            raw=b"\xff",
            anything={"a": 1},
        ),
    ),
    (datetime, datetime(2024, 1, 1, 12, 30, 0, 123456)),
    (datetime, datetime(2024, 1, 1, tzinfo=UTC)),
    (datetime, datetime(2024, 1, 1, tzinfo=timezone(timedelta(seconds=1, microseconds=5)))),
    (datetime, datetime.min),
    (datetime, datetime.max.replace(tzinfo=UTC)),
    (date, date.min),
    (date, date.max),
    (time, time(1, 2, 3, 4)),
    (time, time(23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-5, minutes=-30)))),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (timedelta, timedelta.max),
    (timedelta, timedelta.min),
    (UUID, UUID(int=5)),
    (Decimal, Decimal("1E+10")),
    (Decimal, Decimal("-0.00")),
    (Decimal, Decimal("0." + "1" * 60)),
    (Any, {"a": [1, "x", None, 1.5, b"y", True]}),
    (dict[str, object], {"a": [1, b"x"]}),
    (dict, {"$bytes": "not bytes", "$$bytes": b"bytes"}),
    (list, [[], {}]),
    (Annotated[int, msgspec.Meta(gt=3)], 4),
]

UNIONS: list[tuple[Any, list[Any]]] = [
    (int | None, [1, None]),
    (int | str, [5, "5"]),
    (int | float | bool, [1, 1.0, True, 0, -0.0, False]),
    (list[int] | dict[str, int], [[1], {"a": 1}]),
    (Literal["a"] | int, ["a", 1]),
    (Colour | int | None, [Colour.RED, 1, None]),
    (Level | str, [Level.HIGH, "3"]),
    (datetime | int | None, [datetime(2024, 1, 1), 1, None]),
    (Decimal | float, [Decimal("1.5"), 1.5]),
    (Decimal | int, [Decimal(1), 1]),
    (Point | list[int] | None, [Point(1), [1], None]),
    (Cat | Cow, [Cat(1), Cow(1)]),
    (str | bytes, ["x", b"x"]),
    (bytes | UUID | int | None, [b"x", UUID(int=1), 1, None]),
    (list[str | bytes], [["x", b"x"]]),
    (dict[str, set[str | bytes | None]], [{"a": {"x", b"x", None}}]),
    (Box[bytes | date], [Box(b""), Box(date.max)]),
    (Model | int | None, [Model(n=1, when=datetime(2024, 1, 1)), 1, None]),
    (list[Model | str], [[Model(n=1, when=datetime(2024, 1, 1)), "x"]]),
]


def kinds_in(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value), [kinds_in(item) for item in value]
    return (type(value), kinds_in([value[key] for key in sorted(value)])) if isinstance(value, dict) else type(value)


@pytest.mark.parametrize("serializer", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("annotation", "value"), [*ROUND_TRIPS, *((union, value) for union, values in UNIONS for value in values)]
)
def test_round_trips(annotation: Any, value: Any, serializer: str) -> None:
    codec, through = codec_for(annotation), SERIALIZERS[serializer]
    plain = codec.lower(value)
    back = codec.lift(through.loads(through.dumps(plain)))
    assert back == value
    assert kinds_in(back) == kinds_in(value)
    assert through.dumps(codec.lower(back)) == through.dumps(plain)


REFUSALS: list[tuple[Any, Any]] = [
    (int, True),
    (int, "1"),
    (int, 1.0),
    (int, 2**63),
    (int, Level.HIGH),
    (list[int], [1, 2**63]),
    (list[int], [-(2**63) - 1, 1]),
    (float, float("nan")),
    (float, float("inf")),
    (float, True),
    (float, 2**53 + 1),
    (str, "\ud800"),
    (str, b"a"),
    (str, Text("SECRET")),
    (str, Name.A),
    (list[str], ["a", "\ud800"]),
    (bytes, bytearray(b"a")),
    (bool, 1),
    (list[int], (1, 2)),
    (list[int], deque([1])),
    (list[int], range(3)),
    (list[int], ["SECRET"]),
    (Sequence[int], (1,)),
    (tuple[int, str], [1, "a"]),
    (tuple[int, str], Named(1, "x")),
    (Named, (1, "x")),
    (set[int], [1]),
    (set[int], {1, 2.5}),
    (set[int], frozenset({1})),
    (set[list[int]], [[1]]),
    (dict[str, int], OrderedDict(a=1)),
    (dict[str, int], defaultdict(int, a=1)),
    (dict[str, int], Counter("a")),
    (dict[str, int], {Text("a"): 1}),
    (dict[Literal["a"], int], {"SECRET": 1}),
    (Point, Point3(1, 2.0, 3)),
    (Point, {"x": 1}),
    (Point, Point("SECRET")),
    (Point, Point(1, True)),
    (Counting, Counting(1)),
    (DictAndMore, DictAndMore(1)),
    (Literal["a"], "SECRET"),
    (Literal[1], True),
    (Literal[1], 1.0),
    (Colour, "SECRET"),
    (Colour, "red"),
    (Level, 3),
    (Typed, {"a": "SECRET"}),
    (Typed, {"a": 1, "SECRET": 2}),
    (Model, {"n": 1}),
    (Model, Model.model_construct(n="SECRET", when=datetime(2024, 1, 1))),
    (Adding, Adding(n=1)),
    (Secret, Secret(password="SECRET")),
    (Inner, Inner(extra=(1,))),
    (Any, (1, 2)),
    (Any, namedtuple("Pair", "a b")(1, 2)),
    (Any, {1: 2}),
    (Any, [float("nan")]),
    (Any, {"a": 2**64}),
    (Any, Point(1)),
    (Any, Level.HIGH),
    (Any, date(2024, 1, 1)),
    (Any, object()),
    (Any, {1, 2}),
    (Any, [(1,)]),
    (dict, {"\ud800": 1}),
    (list, [object()]),
    (dict[str, object], {"a": (1,)}),
    (datetime, datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))),
    (datetime, datetime(2024, 1, 1, tzinfo=Zone(fails=True))),
    (datetime, datetime(2024, 1, 1, tzinfo=Zone(fails=False))),
    (datetime, Moment(2024, 1, 1)),
    (datetime, date(2024, 1, 1)),
    (date, datetime(2024, 1, 1)),
    (time, time(1, 2, tzinfo=PARIS)),
    (time, time(1, 2, tzinfo=timezone(timedelta(seconds=61)))),
    (timedelta, 5),
    (UUID, str(UUID(int=1))),
    (Decimal, Decimal("NaN")),
    (Decimal, Decimal("sNaN")),
    (Decimal, Decimal("-Infinity")),
    (Decimal, 1),
    (Decimal, 1.5),
    (str | bytes, 5),
    (int | float, True),
    (Annotated[str, msgspec.Meta(pattern="^a")], "SECRET"),
]


@pytest.mark.parametrize(("annotation", "value"), REFUSALS)
def test_refusals_never_show_the_value(annotation: Any, value: Any) -> None:
    with pytest.raises(CodecError) as caught:
        codec_for(annotation).lower(value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("n", [13, 14])
def test_what_a_class_says_of_its_values_is_not_repeated(n: int) -> None:
    with pytest.raises(CodecError) as caught:
        codec_for(Picky).lift({"x": n})
    assert "SECRET" not in str(caught.value)


def test_a_private_attribute_of_a_model_is_not_lost_in_silence() -> None:
    noted = Rich(inner=Inner(), byAlias=1)
    assert codec_for(Rich).lower(noted)
    noted._note = "SECRET"
    with pytest.raises(CodecError):
        codec_for(Rich).lower(noted)


def test_deep_nesting_is_refused_not_a_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    endless: list[Any] = []
    endless.append(endless)
    for value in (deep, endless):
        with pytest.raises(CodecError):
            codec_for(Any).lower(value)
        with pytest.raises(CodecError):
            codec_for(Any).lift(value)


@pytest.mark.parametrize("value", [(1,), {1: 2}, 2**64, float("nan"), datetime(2024, 1, 1), object(), [{1}], {"a": 1j}])
def test_a_serializer_that_gives_back_more_than_builtins_is_not_believed(value: Any) -> None:
    for annotation in (Any, object, list[Any], dict[str, object], Box):
        with pytest.raises(CodecError):
            codec_for(annotation).lift([value] if annotation == list[Any] else {"value": value})


def test_an_int_for_a_float_gives_the_bytes_of_the_float() -> None:
    lower = codec_for(float).lower
    assert type(lower(1)) is float
    assert lower(1) == lower(1.0)
    assert type(codec_for(list[float]).lower([1])[0]) is float
    assert type(codec_for(float | bytes | str).lower(1)) is float
    assert repr(codec_for(set[float]).lower({3, 1.5, 200})) == repr(codec_for(set[float]).lower({3.0, 1.5, 200.0}))


def test_equal_values_in_equal_form() -> None:
    assert codec_for(set[int]).lower({3, 1, 2}) == codec_for(set[int]).lower({2, 3, 1})
    assert list(codec_for(dict[str, int]).lower({"b": 1, "a": 2})) == ["a", "b"]
    assert list(codec_for(Renamed).lower(Renamed())) == ["aFirst", "zLast"]
    assert list(codec_for(Dog).lower(Dog(1))) == ["a", "kind"]
    assert codec_for(set[int | str]).lower({"a", 1, -1, 200}) == [1, "a", 200, -1]
    paris = datetime(2024, 7, 1, 14, 0, tzinfo=PARIS)
    assert codec_for(datetime).lower(paris) == codec_for(datetime).lower(paris.astimezone(UTC))
    assert codec_for(Model).lower(Model(n=1, when=paris)) == codec_for(Model).lower(
        Model(n=1, when=paris.astimezone(UTC))
    )


def test_the_repeated_hour_of_autumn_is_not_refused() -> None:
    hours = {datetime(2024, 10, 27, 2, 30, tzinfo=PARIS, fold=fold) for fold in (0, 1)}
    assert codec_for(set[datetime]).lift(codec_for(set[datetime]).lower(hours)) == {h.astimezone(UTC) for h in hours}
    for local in hours:
        back = codec_for(datetime).lift(codec_for(datetime).lower(local))
        assert back == local.astimezone(UTC)


def test_a_dataclass_without_equality_is_compared_by_its_fields() -> None:
    codec = codec_for(set[NoEquality])
    assert sorted(item.x for item in codec.lift(codec.lower({NoEquality(1), NoEquality(2)}))) == [1, 2]


@pytest.mark.parametrize(
    "annotation",
    [
        *(Opaque, list[Opaque], dict[int, str], dict[str | None, int], dict[Literal[1], int], Mixed, WithInitVar),
        *(deque[int], OrderedDict[str, int], range, bytearray, memoryview, msgspec.Raw, msgspec.msgpack.Ext),
        *(Opaque | bytes | str, Callable[[int], str], list["Unknown"]),  # noqa: F821  # that is what is wrong
    ],
)
def test_annotations_without_a_codec(annotation: Any) -> None:
    with pytest.raises(TypeError):
        codec_for(annotation)


@pytest.mark.parametrize(
    "union",
    [
        *(str | UUID, Decimal | str, date | datetime, timedelta | str, Colour | str, Level | int, Colour | Name),
        *(Point | Tree, Point | dict[str, int], Cat | Point, Model | Inner, Model | Point, Cat | Struct),
        *(set[int] | list[int], tuple[int, ...] | list[int], list[int] | list[str], Named | list[int]),
        *(list[str | UUID], dict[str, str | bytes | UUID], TextOrBytes),
    ],
)
def test_unions_that_cannot_be_told_apart_say_what_to_do(union: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot be told apart .* take one of"):
        codec_for(union)


@pytest.mark.parametrize("text", [b'{"$bytes":"eA==","b":1}', b'{"$bytes":5}', b'{"$bytes":"?"}', b'{"$bytes":null}'])
def test_json_that_only_looks_like_bytes_is_refused(text: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        SERIALIZERS["json"].loads(text)
