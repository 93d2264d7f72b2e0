"""The codec, for values that nobody thought of. HORSIES_DEEP=1 tries ten times as many."""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from horsies._payload.codec import CodecError, codec_for
from horsies._payload.lowering import DEEPEST, INT_MAX, INT_MIN
from horsies._payload.signature import ArgumentError, CorruptError, describe
from horsies.plugins.serializers import horsies_serializers

DEEP = os.environ.get("HORSIES_DEEP") == "1"
SERIALIZERS = horsies_serializers()
pytestmark = pytest.mark.timeout(0 if DEEP else 60)
T = TypeVar("T")


def tries(number: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=number * (10 if DEEP else 1), deadline=None, suppress_health_check=checks)


@dataclasses.dataclass(frozen=True)
class Data(Generic[T]):
    inner: T
    n: int = 1


class Struct(msgspec.Struct, Generic[T], frozen=True, rename="camel", omit_defaults=True):
    inner_part: T
    n: int = 1


class Tagged(msgspec.Struct, Generic[T], tag=True, array_like=True):
    inner: T


@attrs.frozen
class Attrs(Generic[T]):
    inner: T
    _private: int = 1


class Typed(TypedDict, Generic[T], total=False):
    inner: T
    n: int


class Named(NamedTuple, Generic[T]):
    inner: T
    n: int = 1


class Model(pydantic.BaseModel):
    when: datetime
    price: Decimal
    names: set[str]
    id: UUID = pydantic.Field(alias="ID")
    raw: bytes | None = None
    level: int | float | bool | str = 0


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"
    CRIMSON = "red"  # noqa: PIE796  # an alias on purpose


class Level(enum.IntEnum):
    LOW = -1
    HIGH = 300


class Right(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Kind:
    """An annotation, values for it, and the kind of plain value that they become."""

    annotation: Any
    values: st.SearchStrategy[Any] = dataclasses.field(repr=False)
    plain: type
    hashable: bool = True


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
keys = texts | st.sampled_from(["$bytes", "$$bytes", ""])
ints = st.integers(INT_MIN, INT_MAX) | st.integers(-2, 2)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
aware = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.timezones() | offsets)
models = st.builds(
    Model,
    when=aware,
    price=st.decimals(allow_nan=False, allow_infinity=False),
    names=st.sets(texts),
    ID=st.uuids(),
    raw=st.none() | st.binary(),
    level=ints | floats | st.booleans() | texts,
)
LEAVES = [
    Kind(str, texts, str),
    Kind(int, ints, int),
    Kind(float, floats, float),
    Kind(bool, st.booleans(), bool),
    Kind(None, st.none(), type(None)),
    Kind(bytes, st.binary(max_size=8), bytes),
    Kind(Literal["a", "b"], st.sampled_from(["a", "b"]), str),
    Kind(Colour, st.sampled_from(Colour), str),
    Kind(Level, st.sampled_from(Level), int),
    Kind(Right, st.integers(0, 3).map(Right), int),
    Kind(datetime, st.datetimes() | aware, str),
    Kind(date, st.dates(), str),
    Kind(time, st.times() | st.times(timezones=offsets), str),
    Kind(timedelta, st.timedeltas(), str),
    Kind(UUID, st.uuids(), str),
    Kind(Decimal, st.decimals(allow_nan=False, allow_infinity=False), str),
    Kind(Model, models, dict, hashable=False),
]


def few(kind: Kind) -> st.SearchStrategy[list[Any]]:
    return st.lists(kind.values, max_size=3)


def unlike(kinds: list[Kind]) -> Kind:
    """A union of those of `kinds` that differ in their plain values; the kind of a union is no single one."""
    members = list({kind.plain: kind for kind in kinds if kind.plain is not object}.values()) or kinds[:1]
    union = functools.reduce(operator.or_, (type(None) if k.annotation is None else k.annotation for k in members))
    values = st.one_of(*(member.values for member in members))
    return Kind(union, values, object, all(member.hashable for member in members))


def wrapped(inner: st.SearchStrategy[Kind]) -> st.SearchStrategy[Kind]:
    hashable = inner.map(lambda kind: kind if kind.hashable else LEAVES[0])  # a filter spends its time on reprs
    return st.one_of(
        inner.map(lambda k: Kind(list[k.annotation], few(k), list, False)),
        inner.map(lambda k: Kind(dict[str, k.annotation], st.dictionaries(keys, k.values, max_size=3), dict, False)),
        inner.map(lambda k: Kind(tuple[k.annotation, ...], few(k).map(tuple), list, k.hashable)),
        st.tuples(inner, inner).map(
            lambda k: Kind(
                tuple[k[0].annotation, k[1].annotation],
                st.tuples(k[0].values, k[1].values),
                list,
                k[0].hashable and k[1].hashable,
            )
        ),
        hashable.map(lambda k: Kind(set[k.annotation], few(k).map(set), list, False)),
        hashable.map(lambda k: Kind(frozenset[k.annotation], few(k).map(frozenset), list)),
        st.lists(inner, min_size=2, max_size=4).map(unlike),
        inner.map(lambda k: Kind(Data[k.annotation], st.builds(Data, k.values, ints), dict, k.hashable)),
        inner.map(lambda k: Kind(Struct[k.annotation], st.builds(Struct, k.values, ints), dict, k.hashable)),
        inner.map(lambda k: Kind(Tagged[k.annotation], st.builds(Tagged, k.values), list, False)),
        inner.map(lambda k: Kind(Attrs[k.annotation], st.builds(Attrs, k.values, ints), dict, k.hashable)),
        inner.map(lambda k: Kind(Named[k.annotation], st.builds(Named, k.values, ints), list, k.hashable)),
        inner.map(
            lambda k: Kind(
                Typed[k.annotation],
                st.fixed_dictionaries({}, optional={"inner": k.values, "n": ints}),
                dict,
                False,
            )
        ),
    )


leaves = st.sampled_from(LEAVES)
leaves |= st.lists(leaves, min_size=2, max_size=5, unique_by=lambda kind: kind.plain).map(unlike)
kinds = st.recursive(leaves, wrapped, max_leaves=5)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, Any]:
    """An annotation and a value for it."""
    kind = draw(kinds)
    return kind.annotation, draw(kind.values)


def described(value: Any) -> Any:
    """`value` with every type and every digit spelt out, so that nothing that differs compares equal."""
    name = type(value).__name__
    if isinstance(value, datetime) and value.tzinfo is not None:
        return name, value.astimezone(UTC).isoformat()
    if isinstance(value, (set, frozenset)):
        return name, sorted(map(repr, map(described, value)))
    if isinstance(value, (list, tuple)):
        return name, [described(item) for item in value]
    if isinstance(value, dict):
        return name, sorted((key, repr(described(item))) for key, item in value.items())
    if dataclasses.is_dataclass(value):
        return name, [described(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, msgspec.Struct):
        return name, [described(getattr(value, field)) for field in value.__struct_fields__]
    if attrs.has(type(value)):
        return name, [described(getattr(value, field.name)) for field in attrs.fields(type(value))]
    if isinstance(value, pydantic.BaseModel):
        return name, [described(getattr(value, field)) for field in type(value).model_fields]
    return name, repr(value.replace(fold=0) if isinstance(value, (datetime, time)) else value)


@given(cases())
@tries(400)
def test_what_goes_in_comes_out_and_is_written_alike(case: tuple[Any, Any]) -> None:
    annotation, value = case
    codec = codec_for(annotation)
    for serializer in SERIALIZERS.values():
        data = serializer.dumps(codec.lower(value))
        back = codec.lift(serializer.loads(data))
        assert described(back) == described(value)
        assert serializer.dumps(codec.lower(back)) == data


anything = st.recursive(
    st.none() | st.booleans() | ints | floats | texts | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@given(anything)
@tries(200)
def test_plain_builtins_come_out_as_they_went_in(value: Any) -> None:
    codec = codec_for(Any)
    for serializer in SERIALIZERS.values():
        back = codec.lift(serializer.loads(serializer.dumps(codec.lower(value))))
        assert described(back) == described(value)


@given(st.lists(st.tuples(keys, anything), unique_by=lambda pair: pair[0]), st.randoms(use_true_random=False))
@tries(50)
def test_the_order_in_which_a_dict_or_a_set_was_filled_does_not_show(pairs: list[Any], random: Any) -> None:
    shuffled = random.sample(pairs, len(pairs))
    assert repr(codec_for(Any).lower(dict(pairs))) == repr(codec_for(Any).lower(dict(shuffled)))
    names = codec_for(set[str | int | bytes | None])
    few = [item for pair in pairs for item in pair if type(item) in (str, int, bytes, type(None))]
    backwards = few[::-1]
    assert names.lower(set(few)) == names.lower(set(backwards))


@given(st.sets(ints | texts | st.binary(max_size=40) | st.none()))
@tries(50)
def test_sets_stand_in_the_order_of_their_bytes(value: set[Any]) -> None:
    lowered = codec_for(set[int | str | bytes | None]).lower(value)
    encoded = [msgspec.msgpack.encode(item) for item in lowered]
    assert encoded == sorted(encoded)


bad_leaves = st.sampled_from(
    [
        *(float("nan"), float("inf"), float("-inf"), 2**63, -(2**63) - 1, 10**400),
        *("\ud800", "a\udfffz", {"\ud800": 1}, {1: 1}, {None: 1}, {b"a": 1}, {True: 1}),
        *(object(), (1,), {1}, Decimal("NaN"), bytearray(b"x"), memoryview(b"x"), range(3), 1j),
    ]
)


@given(bad_leaves, st.lists(st.tuples(st.sampled_from(["list", "dict"]), anything), max_size=5))
@tries(100)
def test_what_has_no_plain_form_is_refused_wherever_it_stands(bad: Any, around: list[tuple[str, Any]]) -> None:
    for kind, neighbour in around:
        bad = [neighbour, bad] if kind == "list" else {"a": neighbour, "b": bad}
    with pytest.raises(CodecError):
        codec_for(Any).lower(bad)


@pytest.mark.parametrize("name", SERIALIZERS)
@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}], ids=["list", "dict"])
def test_nesting_has_one_bound_for_senders_and_workers(name: str, wrap: Callable[[Any], Any]) -> None:
    codec, serializer = codec_for(Any), SERIALIZERS[name]
    value: Any = 1
    for _ in range(DEEPEST + 1):
        value = wrap(value)
    assert codec.lift(serializer.loads(serializer.dumps(codec.lower(value)))) == value
    with pytest.raises(CodecError, match="nested"):
        codec.lower(wrap(value))


def call(a: int, b: Any, c: dict[str, list[datetime]], d: set[str], e: Model | None = None) -> None: ...


SIGNATURE = describe(call, context_type=complex)
CALL = (1, {"x": [b"", None]}, {"k": [datetime(2024, 1, 1, tzinfo=UTC)]}, {"s"})
STORED = {name: serializer.dumps(SIGNATURE.codecs["b"].lower({"a": 1})) for name, serializer in SERIALIZERS.items()}
hostile = st.one_of(
    st.binary(max_size=60),
    anything.map(msgspec.msgpack.encode),
    anything.map(lambda value: msgspec.json.encode(value)),
    st.integers(1, 100_000).map(lambda depth: b"\x91" * depth),
    st.integers(1, 100_000).map(lambda depth: b"[" * depth + b"]" * depth),
)


@given(hostile, st.sampled_from(sorted(SERIALIZERS)))
@tries(200)
@example(b"\xdd\xff\xff\xff\xff", "msgpack")  # a list of four thousand million items
@example(b"\xdf\xff\xff\xff\xff", "msgpack")
@example(b"\x91" * 100_000, "msgpack")
@example(b'{"a":' * 100_000, "json")
@example(b'{"a":{"$bytes":5}}', "json")
@example(b'{"a":1e400}', "json")
def test_hostile_arguments_are_refused(data: bytes, name: str) -> None:
    with pytest.raises((CorruptError, ArgumentError)):
        SIGNATURE.decode(SERIALIZERS[name], data)


@given(st.sampled_from(sorted(SERIALIZERS)), st.data())
@tries(200)
def test_edited_arguments_are_read_or_refused_but_nothing_else(name: str, data: st.DataObject) -> None:
    serializer = SERIALIZERS[name]
    written = SIGNATURE.encode(serializer, CALL, {})
    cut = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises((CorruptError, ArgumentError)):
        SIGNATURE.decode(serializer, written[:cut])
    edited = bytearray(written)
    edited[cut] = data.draw(st.integers(0, 255))
    assume(bytes(edited) != written)
    try:
        _, kwargs = SIGNATURE.decode(serializer, bytes(edited))
    except (CorruptError, ArgumentError):
        return
    assert SIGNATURE.encode(serializer, (), kwargs)  # it is a call that could have been sent


IN_ANOTHER_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_codec import ROUND_TRIPS
from horsies._payload.codec import codec_for
from horsies._payload.signature import describe
from horsies.plugins.serializers import horsies_serializers
def f(tags: set[str | int], names: dict[str, int], ratio: float) -> None: ...
for name, serializer in sorted(horsies_serializers().items()):
    for annotation, value in ROUND_TRIPS:
        print(serializer.dumps(codec_for(annotation).lower(value)).hex())
    call = ({"x", "yy", "zzz", "w", 1, 256}, {"b": 1, "a": 2})
    print(describe(f, context_type=int).encode(serializer, call, {"ratio": 1}).hex())
"""


def test_equal_values_give_equal_bytes_in_every_process() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS, str(Path(__file__).parents[1] / "unit")],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(outputs) == 1
