"""Typed values to plain builtins and back, losing nothing.

msgspec knows the types; this module adds what a queue needs on top: one canonical form for equal values (`plain`), a
refusal wherever something would come out other than it went in (`same`), and unions that need no tag (`unions`). Every
value is lowered, lifted again and compared before it is accepted. No message here ever shows a value.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
import msgspec.inspect

from ..abc import Plain
from .equality import beside_fields, first_difference, is_plain, is_same
from .lowering import SCALARS, is_pydantic, plain
from .lowering import CodecError as CodecError
from .models import Form, load, problem_with_model, written_as
from .unions import Either, explained, told_apart

T = TypeVar("T")

_SAFE_MESSAGE = re.compile(r"(Expected `|Object missing required field)")
_WIDENING = (msgspec.inspect.FloatType, msgspec.inspect.CustomType)
"""Where an int may have become the float that it equals, which is then what is written."""
_UNCHECKED = (msgspec.inspect.AnyType, msgspec.inspect.CustomType)
"""Where msgspec looks at nothing, so that whatever a serializer gives back would reach the task."""
_PATH = re.compile(r" - at (`key` in )?`\$?(.*)`\Z")


class Codec(Generic[T]):
    """The codec of one annotation; made by `codec_for`."""

    def __init__(self, annotation: Any, parts: Sequence[Any]) -> None:
        self._annotation = annotation
        self._widens = any(isinstance(part, _WIDENING) for part in parts)
        self._models = [
            part.cls for part in parts if isinstance(part, msgspec.inspect.CustomType) and is_pydantic(part.cls)
        ]
        self._takes_anything = any(isinstance(part, _UNCHECKED) for part in parts)
        self._exact = annotation if isinstance(annotation, type) and annotation in SCALARS else None

    def refusal(self) -> str | None:
        """Why no value can ever be sent; None: some can, as far as is known."""
        return next(filter(None, map(problem_with_model, self._models)), None)

    def lower(self, value: T) -> Plain:
        """`value` as plain builtins, equal values in equal form.

        Raises:
            CodecError: it does not fit the annotation, or would not come out equal.
        """
        if type(value) is self._exact:
            SCALARS[self._exact](value)
            return cast(Plain, value)
        try:
            return self._lowered(value) if not self._models else self._lowered_with_models(value)
        except CodecError:
            raise
        except RecursionError:
            raise CodecError("it is nested too deeply") from None
        except Exception:  # a property, a time zone or a validator of a foreign class may do anything
            raise CodecError(f"{type(value).__name__} holds something that cannot be sent") from None

    def _lowered(self, value: T) -> Plain:
        lowered = plain(value)
        typed = _convert(lowered, self._annotation)
        if not is_same(value, typed):
            raise CodecError(_difference(value, typed))
        return plain(typed) if self._widens else lowered

    def _lowered_with_models(self, value: T) -> Plain:
        refusal: CodecError | None = None
        for form in Form:
            try:
                with written_as(form):
                    return self._lowered(value)
            except CodecError as error:
                refusal = refusal or error
        assert refusal is not None, "there are forms"
        raise refusal

    def lift(self, data: Plain) -> T:
        """The value that `lower` made `data` of.

        Raises:
            CodecError: `data` does not fit the annotation.
        """
        if self._takes_anything and not is_plain(data):
            raise CodecError("it is not made of plain builtins")
        return cast(T, _convert(data, self._annotation))


@functools.cache
def plain_codec() -> Codec[Any]:
    """The codec of plain builtins, for what has no annotation."""
    return Codec(Any, [msgspec.inspect.AnyType()])


def codec_for(annotation: Any) -> Codec[Any]:
    """The codec of `annotation`.

    Raises:
        TypeError: there is none, and why.
    """
    if annotation is object:
        return plain_codec()
    try:
        annotation = told_apart(annotation)
        info = msgspec.inspect.type_info(annotation)
        msgspec.msgpack.Decoder(annotation)
    except Exception as error:  # whatever evaluating the annotations of a class's fields brings
        raise TypeError(explained(str(error))) from None
    parts = list(_parts(info, set()))
    for problem in filter(None, map(_problem, parts)):
        raise TypeError(problem)
    return Codec(annotation, parts)


def _parts(info: Any, seen: set[int]) -> Iterator[Any]:
    """A type and all the types in it."""
    if id(info) in seen:
        return
    seen.add(id(info))
    yield info
    inner = [getattr(info, name, None) for name in ("type", "item_type", "key_type", "value_type")]
    inner += [*getattr(info, "types", ()), *getattr(info, "item_types", ())]
    inner += [field.type for field in getattr(info, "fields", ())]
    if isinstance(info, msgspec.inspect.CustomType) and issubclass(info.cls, Either):
        inner += map(msgspec.inspect.type_info, info.cls.members.values())
    for part in inner:
        if isinstance(part, msgspec.inspect.Type):
            yield from _parts(part, seen)


def _problem(part: Any) -> str | None:
    """What makes a type unusable."""
    match part:
        case msgspec.inspect.CustomType(cls=cls) if not (cls is object or is_pydantic(cls) or issubclass(cls, Either)):
            return f"{cls.__qualname__} has no codec; use a dataclass, a msgspec.Struct or builtins"
        case msgspec.inspect.ByteArrayType() | msgspec.inspect.MemoryViewType():
            return "bytearray and memoryview have no codec; use bytes"
        case msgspec.inspect.RawType() | msgspec.inspect.ExtType():
            return "msgspec.Raw and msgspec.msgpack.Ext have no codec; use bytes"
        case msgspec.inspect.DictType(key_type=key) if not _is_text(key):
            return "a dict whose keys are not str cannot be sent; use str keys, or a list of pairs"
    return None


def _is_text(key: Any) -> bool:
    """Whether the keys of a dict type are str, or decided by each dict."""
    match key:
        case msgspec.inspect.Metadata():
            return _is_text(key.type)
        case msgspec.inspect.LiteralType():
            return all(isinstance(value, str) for value in key.values)
        case _:
            return isinstance(key, (msgspec.inspect.StrType, msgspec.inspect.AnyType))


def _convert(data: Plain, annotation: Any) -> Any:
    try:
        return msgspec.convert(data, annotation, strict=True, dec_hook=_dec_hook)
    except CodecError:
        raise
    except msgspec.ValidationError as error:
        raise CodecError(_without_value(error)) from None
    except RecursionError:
        raise CodecError("it is nested too deeply") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a class's own checks may raise anything
        raise CodecError(f"its class refuses it: {type(error).__name__}") from None


def _dec_hook(cls: type, data: Any) -> Any:
    if cls is object:
        return data
    if issubclass(cls, Either):
        member = cls.members.get(type(data))
        if member is None:
            raise CodecError(f"it is not one of {cls.__name__}")
        return _convert(data, member)
    if is_pydantic(cls):
        return load(cls, data)
    raise NotImplementedError  # how msgspec is told that the type is not known here either


def _difference(value: object, typed: object) -> str:
    path, went_in, came_out = first_difference(value, typed)
    went, came = _two_names(type(went_in), type(came_out))
    same = went == came
    inside = f"{went} would not come out of the queue as it went in" if same else f"{went} would come out as {came}"
    if path:
        return f"{type(value).__name__} would not come out of the queue as it went in: {inside} at {path}"
    if same:
        return f"{inside}{beside_fields(went_in, came_out)}"
    return f"{went} would come out of the queue as {came}"


def _two_names(one: type, other: type) -> tuple[str, str]:
    """The names of two classes, with their modules where the names are the same."""
    if one is other or one.__name__ != other.__name__:
        return one.__name__, other.__name__
    return f"{one.__module__}.{one.__qualname__}", f"{other.__module__}.{other.__qualname__}"


def _without_value(error: msgspec.ValidationError) -> str:
    """msgspec's message where it names types only; some of its messages quote the value, or a class's own words."""
    message = str(error)
    is_safe = _SAFE_MESSAGE.match(message) and error.__cause__ is None
    what = _PATH.sub("", message).replace("`", "") if is_safe else "not one of the values its type allows"
    in_key, path = found.groups() if (found := _PATH.search(message)) else (None, "")
    return what + (" in a key" if in_key else "") + (f" at {path}" if path else "")
