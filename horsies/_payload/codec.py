"""Typed values to plain builtins and back, losing nothing.

msgspec knows the types; this module adds what a queue needs on top: one canonical form for equal values, and a refusal
wherever something would come out other than it went in. Every value is lowered, lifted again and compared before it is
accepted. No message here ever shows a value.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast

import msgspec
import msgspec.inspect

from ..abc import Plain

T = TypeVar("T")

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
_SAFE_MESSAGE = re.compile(r"(Expected `|Object missing required field)")
_PATH = re.compile(r" - at `\$?(.*)`\Z")


class CodecError(Exception):
    """A value does not fit its type, or cannot be written without loss. The message never shows the value."""


class Codec(Generic[T]):
    """The codec of one annotation; made by `codec_for`."""

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._exact = annotation if annotation in _CHECKS else None

    def lower(self, value: T) -> Plain:
        """`value` as plain builtins, equal values in equal form.

        Raises:
            CodecError: it does not fit the annotation, or would not come out equal.
        """
        if type(value) is self._exact:
            _CHECKS[self._exact](value)
            return cast(Plain, value)
        try:
            typed = self._convert(_plain(_to_builtins(value)))
            if not _same(value, typed):
                raise CodecError(f"{type(value).__name__} would not come out of the queue as it went in")
            return _plain(_to_builtins(typed))
        except RecursionError:
            raise CodecError("it is nested too deeply") from None

    def lift(self, plain: Plain) -> T:
        """The value that `lower` made `plain` of.

        Raises:
            CodecError: `plain` does not fit the annotation.
        """
        try:
            return self._convert(plain)
        except RecursionError:
            raise CodecError("it is nested too deeply") from None

    def _convert(self, plain: Plain) -> T:
        try:
            return cast(T, msgspec.convert(plain, self._annotation, strict=True, dec_hook=_dec_hook))
        except msgspec.ValidationError as error:
            raise CodecError(_without_value(str(error))) from None


@functools.cache
def plain_codec() -> Codec[Any]:
    """The codec of plain builtins, for what has no annotation."""
    return Codec(Any)


def codec_for(annotation: Any) -> Codec[Any]:
    """The codec of `annotation`.

    Raises:
        TypeError: there is none, and why.
    """
    try:
        info = msgspec.inspect.type_info(annotation)
        msgspec.msgpack.Decoder(annotation)
    except (TypeError, NameError, AttributeError) as error:
        raise TypeError(str(error)) from None
    for problem in _problems(info, set()):
        raise TypeError(problem)
    return Codec(annotation)


def _problems(info: Any, seen: set[int]) -> Iterator[str]:
    """What makes a type unusable, through all its parts."""
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.CustomType) and not _is_pydantic(info.cls):
        yield f"{info.cls.__qualname__} has no codec; use a dataclass, a msgspec.Struct or builtins"
    if isinstance(info, msgspec.inspect.DictType) and not isinstance(
        info.key_type, (msgspec.inspect.StrType, msgspec.inspect.AnyType)
    ):
        yield "a dict whose keys are not str cannot be sent"
    for name in ("type", "item_type", "key_type", "value_type"):
        part = getattr(info, name, None)
        if isinstance(part, msgspec.inspect.Type):
            yield from _problems(part, seen)
    for name in ("types", "item_types"):
        for part in getattr(info, name, ()):
            yield from _problems(part, seen)
    for field in getattr(info, "fields", ()):
        yield from _problems(field.type, seen)


def _to_builtins(value: Any) -> Any:
    try:
        return msgspec.to_builtins(value, builtin_types=(bytes, datetime), order="deterministic", enc_hook=_enc_hook)
    except RecursionError:
        raise
    except (TypeError, ValueError, NotImplementedError, msgspec.MsgspecError):
        raise CodecError(f"{type(value).__name__} holds something that cannot be sent") from None


def _is_pydantic(cls: Any) -> bool:
    return isinstance(cls, type) and hasattr(cls, "model_validate") and hasattr(cls, "model_dump")


def _enc_hook(value: Any) -> Any:
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json")
    raise NotImplementedError


def _dec_hook(cls: type, plain: Any) -> Any:
    if _is_pydantic(cls):
        try:
            return cast(Any, cls).model_validate(plain)
        except ValueError:
            raise CodecError(f"it does not validate as {cls.__name__}") from None
    raise NotImplementedError


def _plain(value: Any) -> Plain:
    """What msgspec made of a value, checked, with lists for tuples and text for instants."""
    check = _CHECKS.get(type(value))
    if check is not None:
        check(value)
        return cast(Plain, value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise CodecError("a dict has keys that are not str")
        return {_text(key): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, datetime):
        try:
            instant = value if value.utcoffset() is None else value.astimezone(UTC)
        except OverflowError:
            raise CodecError("an instant is beyond the calendar once it is in UTC") from None
        return instant.isoformat(timespec="microseconds")
    raise CodecError(f"{type(value).__name__} cannot be sent")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CodecError("text holds a lone surrogate, which is no Unicode") from None
    return value


def _check_int(value: int) -> None:
    if not INT_MIN <= value <= INT_MAX:
        raise CodecError("an int does not fit 64 bits")


def _check_float(value: float) -> None:
    if not math.isfinite(value):
        raise CodecError("a float is not finite")


def _pass(value: object) -> None:
    """Nothing can be wrong with it."""


_CHECKS: dict[Any, Callable[[Any], Any]] = {
    int: _check_int,
    float: _check_float,
    str: _text,
    bytes: _pass,
    bool: _pass,
    type(None): _pass,
}


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal; aware instants by the instant, which `==` denies in a repeated hour."""
    try:
        if a == b:
            return True
    except Exception:  # a foreign __eq__ may do anything
        return False
    if isinstance(a, datetime) and isinstance(b, datetime):
        return a.utcoffset() is not None is not b.utcoffset() and a.astimezone(UTC) == b.astimezone(UTC)
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(_same(x, y) for y in b) for x in a)
    names = _field_names(a)
    return bool(names) and all(_same(getattr(a, name), getattr(b, name)) for name in names)


def _field_names(value: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    if hasattr(value, "__struct_fields__"):
        return tuple(value.__struct_fields__)
    if hasattr(value, "__attrs_attrs__"):
        return tuple(attribute.name for attribute in value.__attrs_attrs__)
    return tuple(getattr(type(value), "model_fields", ()))


def _without_value(message: str) -> str:
    """msgspec's message where it names types only; some of its messages quote the value."""
    path = _PATH.search(message)
    where = f" at {path[1]}" if path and path[1] else ""
    what = _PATH.sub("", message) if _SAFE_MESSAGE.match(message) else "not one of the values its type allows"
    return what.replace("`", "") + where
