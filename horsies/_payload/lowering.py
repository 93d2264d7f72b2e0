"""The walk that makes plain builtins of typed values.

Equal values come out in equal form: dict keys sorted, sets sorted by the msgpack of each element, aware instants in
UTC. The walk goes by the exact class of each value. A subclass of a builtin has something its base has not, so it is
refused rather than flattened.

Known losses, which `==` does not see either: the `fold` of a naive datetime, the zone's name of an aware one, the order
of a dict's keys, attributes of an object beyond its fields, and, where `models` cannot tell, whether a field was set.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, cast
from uuid import UUID

import msgspec

from ..abc import Plain

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
DEEPEST = 200
"""Levels of nesting. A fixed bound, because Python's own depends on how deep the caller stands: what a sender could
write, a worker could fail to read."""

canonical: Callable[[Plain], bytes] = msgspec.msgpack.Encoder().encode
"""The bytes that sets are sorted by."""


UNDECODABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""The errors of decoding stored bytes. Text that is not UTF-8 is a ValueError, a map as a key a TypeError, and deep
nesting a RecursionError."""


class CodecError(Exception):
    """A value does not fit its type, or cannot be written without loss. The message never shows the value.

    Args:
        what: is wrong.
        path: where, by the names of fields, as in `.items.name`.
    """

    def __init__(self, what: str, path: str = "") -> None:
        super().__init__(f"{what} at {path}" if path else what)
        self._what = what
        self._path = path

    def within(self, step: str) -> CodecError:
        """The same, of what holds it there."""
        return CodecError(self._what, step + self._path)


def plain(value: Any, depth: int = 0) -> Plain:
    """`value` as plain builtins, equal values in equal form.

    Raises:
        CodecError: it holds something that has no plain form.
        Exception: whatever a property, a time zone or a validator of a foreign class raises.
    """
    kind: Any = type(value)
    check = SCALARS.get(kind)
    if check is not None:
        check(value)
        return cast(Plain, value)
    if depth > DEEPEST:
        raise CodecError(f"it is nested more than {DEEPEST} levels deep")
    return _walk_of(kind)(value, depth + 1)


def is_pydantic(cls: Any) -> bool:
    """Whether `cls` is a pydantic model; pydantic itself need not be installed."""
    return isinstance(cls, type) and hasattr(cls, "model_validate") and hasattr(cls, "model_dump")


def _text(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CodecError("text holds a lone surrogate, which is no Unicode") from None


def _check_int(value: int) -> None:
    if not INT_MIN <= value <= INT_MAX:
        raise CodecError("an int does not fit 64 bits")


def _check_float(value: float) -> None:
    if not math.isfinite(value):
        raise CodecError("a float is not finite")


def _pass(value: object) -> None:
    """Nothing can be wrong with it."""


SCALARS: dict[Any, Callable[[Any], None]] = {
    int: _check_int,
    float: _check_float,
    str: _text,
    bytes: _pass,
    bool: _pass,
    type(None): _pass,
}
"""The plain types that hold no others, and what can be wrong with a value of each."""

Fields: TypeAlias = tuple[tuple[str, str], ...]
_Walk: TypeAlias = Callable[[Any, int], Plain]


def are_checked_scalars(values: Collection[Any]) -> bool:
    """Whether `values` are all scalars, checked without Python code for each: the quick way for long lists.

    Raises:
        CodecError: they are, and one is out of range.
    """
    kinds = set(map(type, values))
    if kinds == {int}:
        _check_int(min(values))
        _check_int(max(values))
    elif kinds == {str}:
        _text("".join(values))
    else:
        return kinds <= {bytes, bool, type(None)}
    return True


def check_keys(value: dict[Any, Any]) -> None:
    """Raises: CodecError: they are not all Unicode text."""
    if not set(map(type, value)) <= {str}:
        raise CodecError("a dict has keys that are not str")
    _text("".join(value))


def _items(value: Any, depth: int) -> list[Plain]:
    return list(value) if are_checked_scalars(value) else [plain(item, depth) for item in value]


def _dict(value: Any, depth: int) -> Plain:
    check_keys(value)
    return {key: plain(value[key], depth) for key in sorted(value)}


def _set(value: Any, depth: int) -> Plain:
    return sorted(_items(value, depth), key=canonical)


def _datetime(value: datetime, depth: int) -> Plain:
    if value.tzinfo is None:
        return value.isoformat(timespec="microseconds")
    if value.utcoffset() is None:
        raise CodecError("a datetime has a time zone that does not know its offset")
    try:
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    except OverflowError:
        raise CodecError("an instant is beyond the calendar once it is in UTC") from None


def _time(value: time, depth: int) -> Plain:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise CodecError("a time has a time zone whose offset depends on the date")
    return cast(Plain, msgspec.to_builtins(value))


def _decimal(value: Decimal, depth: int) -> Plain:
    if not value.is_finite():
        raise CodecError("a Decimal is not finite")
    return str(value)


def _as_msgspec(value: Any, depth: int) -> Plain:
    return cast(Plain, msgspec.to_builtins(value))


def _as_text(value: Any, depth: int) -> Plain:
    return str(value)


def _enum(value: Any, depth: int) -> Plain:
    return plain(value.value, depth)


def _pydantic(value: Any, depth: int) -> Plain:
    from .models import dump, names_of  # which compares values, which takes this module

    data = dump(value)
    if type(data) is not dict or "root" in type(value).model_fields:
        return plain(data, depth)
    check_keys(data)
    return _fields(sorted(data.items()), depth, names_of(type(value)))


def _fields(parts: Iterable[tuple[str, Any]], depth: int, names: Collection[str] | None = None) -> dict[str, Plain]:
    """The parts of an object by their keys. One that is wrong is named, if it is in `names`; None: all may be."""
    found: dict[str, Plain] = {}
    for key, part in parts:
        try:
            found[key] = plain(part, depth)
        except CodecError as error:
            raise error.within(f".{key}" if names is None or key in names else "[...]") from None
    return found


_WALKS: dict[type, _Walk] = {
    list: _items,
    tuple: _items,
    dict: _dict,
    set: _set,
    frozenset: _set,
    datetime: _datetime,
    date: _as_msgspec,
    time: _time,
    timedelta: _as_msgspec,
    UUID: _as_msgspec,
    Decimal: _decimal,
}
_AS_TEXT = {"ipaddress", "pathlib", "pydantic", "pydantic_core", "zoneinfo"}
"""Where the classes come from that pydantic makes of text. One that does not come back equal from its text, such as a
`SecretStr`, is refused by the comparison."""


@functools.cache
def _walk_of(cls: Any) -> _Walk:
    """How values of exactly `cls` are made plain."""
    if cls in _WALKS:
        return _WALKS[cls]
    if issubclass(cls, enum.Enum):
        return _enum
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return _items
    for base in (*SCALARS, *_WALKS):
        if issubclass(cls, base):
            raise CodecError(f"{cls.__name__} would come out as {base.__name__}; pass one")
    if is_pydantic(cls):
        return _pydantic
    fields = fields_of(cls)
    if fields is not None:
        return _struct_walk(cls, fields) if issubclass(cls, msgspec.Struct) else _object_walk(fields, {})
    if cls.__module__.partition(".")[0] in _AS_TEXT:
        return _as_text
    raise CodecError(f"{cls.__name__} cannot be sent")


def has_walk(cls: type) -> bool:
    """Whether values of exactly `cls` have a plain form."""
    try:
        _walk_of(cls)
    except CodecError:
        return cls in SCALARS
    return True


def _object_walk(fields: Fields, tag: dict[str, str | int]) -> _Walk:
    ordered = sorted(fields, key=lambda field: field[1])

    def walk(value: Any, depth: int) -> dict[str, Plain]:
        parts = [(key, getattr(value, name)) for name, key in ordered]
        return _fields([one for one in parts if one[1] is not msgspec.UNSET], depth)

    def tagged_walk(value: Any, depth: int) -> Plain:
        return dict(sorted({**walk(value, depth), **tag}.items()))

    return tagged_walk if tag else walk


def _struct_walk(cls: type[msgspec.Struct], fields: Fields) -> _Walk:
    config = cls.__struct_config__
    tag = {} if config.tag is None else {str(config.tag_field): config.tag}
    if not config.array_like:
        return _object_walk(fields, tag)

    def walk(value: Any, depth: int) -> Plain:
        return [*tag.values(), *(plain(getattr(value, name), depth) for name, _ in fields)]

    return walk


@functools.cache
def fields_of(cls: Any) -> Fields | None:
    """The attributes that make up a value of `cls`, each with its key in the plain form; None: `cls` has no fields."""
    if issubclass(cls, msgspec.Struct):
        return tuple(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    if dataclasses.is_dataclass(cls):
        return tuple((field.name, field.name) for field in dataclasses.fields(cls))
    if hasattr(cls, "__attrs_attrs__"):
        return tuple((attribute.name, attribute.name) for attribute in cls.__attrs_attrs__)
    return tuple((name, name) for name in cls.model_fields) if is_pydantic(cls) else None
