"""Unions that msgspec refuses although plain builtins tell their members apart.

msgspec takes bytes for a kind of text, as in JSON, and knows nothing of the classes it is taught. Here bytes stay
bytes, and a class is read from one kind of plain value. So a union is read by the kind of what arrives: `str | bytes`
is `str` for text and `bytes` for bytes, `Model | int` is `Model` for a dict and `int` for an int. Members of one kind
are left to msgspec: what it cannot tell apart (`str | UUID`, two dataclasses) has no codec.

Only annotations can be rewritten so, and the arguments of generics in them. The fields of a class are msgspec's.
"""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Set
from typing import Annotated, Any, ClassVar, Union, cast

import msgspec
import msgspec.inspect as inspect

from .annotations import Aliases, alias_of, followed

PLAIN_KINDS: Set[type] = frozenset[type]({bool, int, float, str, bytes, list, dict, type(None)})


class _AnythingGoes(type):
    """msgspec checks what a hook returns; the hook has already chosen."""

    def __instancecheck__(cls, instance: object) -> bool:
        return True


class Either(metaclass=_AnythingGoes):
    """A union as a class for msgspec's hook. `members`: what to read from each kind of plain value."""

    members: ClassVar[dict[type, Any]]


def told_apart(annotation: Any, within: Aliases = frozenset()) -> Any:
    """`annotation` with an `Either` for each union that msgspec would refuse.

    Names are followed to what they stand for. An alias inside of itself, as in `type Json = dict[str, Json] | ...`,
    becomes Any.

    Raises:
        TypeError: a union that cannot be told apart, and what to do.
        Exception: whatever evaluating an alias brings.
    """
    if (alias := alias_of(annotation)) is not None:
        if alias in within:
            return Any
        within |= {alias}
    annotation = followed(annotation)
    inner = functools.partial(told_apart, within=within)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return Annotated[inner(arguments[0]), *annotation.__metadata__]
    if origin in (Union, types.UnionType):
        return _union(tuple(map(inner, arguments)), annotation)
    if arguments and isinstance(origin, type):
        return cast(Any, origin)[tuple(map(inner, arguments))]
    return annotation


def _union(members: tuple[Any, ...], annotation: Any) -> Any:
    union = functools.reduce(operator.or_, members)
    if _refusal(union) is None:
        return union
    by_kind: dict[type, Any] = {}
    for kind in PLAIN_KINDS:
        readers = tuple(member for member in members if kind in _kinds(inspect.type_info(member)))
        if readers:
            by_kind[kind] = functools.reduce(operator.or_, readers)
            if (refusal := _refusal(by_kind[kind])) is not None:
                raise TypeError(refusal)
    return _AnythingGoes(_name(annotation), (Either,), {"members": by_kind})


def explained(refusal: str) -> str:
    """msgspec's reason for having no codec, with a way out where it is about a union."""
    if "union" not in refusal.partition(" - type")[0]:
        return refusal
    return (
        f"a union that cannot be told apart once it is plain data: {refusal}; take one of its members, "
        "or msgspec.Struct classes declared with tag=True, or a dataclass with a field for each member"
    )


def _refusal(annotation: Any) -> str | None:
    try:
        msgspec.msgpack.Decoder(annotation)
    except TypeError as error:
        return str(error)
    return None


def _name(annotation: Any) -> str:
    return " | ".join(getattr(member, "__name__", str(member)) for member in typing.get_args(annotation))


def _kinds(info: Any) -> Set[type]:
    """The kinds of plain values that msgspec, or its hook, reads a type from."""
    match info:
        case inspect.Metadata():
            return _kinds(info.type)
        case inspect.UnionType():
            return {kind for member in info.types for kind in _kinds(member)}
        case inspect.LiteralType():
            return {type(value) for value in info.values}
        case inspect.EnumType():
            return {type(member.value) for member in info.cls}
        case inspect.CustomType():
            return _kinds_of_class(info.cls)
        case inspect.StructType(array_like=True):
            return {list}
        case _:
            return _KINDS.get(type(info), PLAIN_KINDS)


def _kinds_of_class(cls: Any) -> Set[type]:
    if isinstance(cls, _AnythingGoes):
        return frozenset(cast(type[Either], cls).members)
    is_keyed = hasattr(cls, "model_fields") and "root" not in cls.model_fields
    return {dict} if is_keyed else PLAIN_KINDS


_KINDS: dict[type, Set[type]] = {
    inspect.NoneType: {type(None)},
    inspect.BoolType: {bool},
    inspect.IntType: {int},
    inspect.FloatType: {int, float},
    inspect.BytesType: {bytes},
    inspect.StrType: {str},
    inspect.DateTimeType: {str},
    inspect.DateType: {str},
    inspect.TimeType: {str},
    inspect.TimeDeltaType: {str},
    inspect.UUIDType: {str},
    inspect.DecimalType: {str},
    inspect.ListType: {list},
    inspect.SetType: {list},
    inspect.FrozenSetType: {list},
    inspect.TupleType: {list},
    inspect.VarTupleType: {list},
    inspect.NamedTupleType: {list},
    inspect.DictType: {dict},
    inspect.TypedDictType: {dict},
    inspect.DataclassType: {dict},
    inspect.StructType: {dict},
}
