"""Whether a value came back as it went in.

`==` alone would let `1`, `1.0` and `True` pass for each other, and a tuple's subclass for the tuple.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast

from .lowering import DEEPEST, SCALARS, CodecError, are_checked_scalars, check_keys, fields_of, is_pydantic


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether `value` is what `plain` makes: plain builtins, in range. Dicts may be in any order."""
    try:
        if (check := SCALARS.get(type(value))) is not None:
            check(value)
            return True
        if depth > DEEPEST:
            return False
        if type(value) is dict:
            check_keys(value)
            value = list(value.values())
        return type(value) is list and (are_checked_scalars(value) or all(is_plain(item, depth + 1) for item in value))
    except CodecError:
        return False


def is_same(a: Any, b: Any) -> bool:
    """Whether `b` is `a` again: equal and of the same types throughout, `a` being something that `plain` accepts.

    An int may have become the float that it equals, because Python takes one for the other. Aware instants are compared
    in UTC: `==` denies them in the hour that a zone repeats.
    """
    kind = type(a)
    if kind is not type(b):
        return kind is int and type(b) is float and a == b
    if kind in SCALARS:
        return bool(a == b)
    if isinstance(a, (list, tuple)):
        return _are_same_scalars(a, b) or (len(a) == len(b) and all(map(is_same, a, b)))
    if kind is dict:
        return a.keys() == b.keys() and all(is_same(value, b[key]) for key, value in a.items())
    if kind is set or kind is frozenset:
        if _are_same_scalars(a, b):
            return True
        found = {item: item for item in b}
        return len(a) == len(b) and all(
            (item in found and is_same(item, found[item])) or any(is_same(item, other) for other in b) for item in a
        )
    if kind is datetime:
        return (a == b) if a.tzinfo is None or b.tzinfo is None else bool(a.astimezone(UTC) == b.astimezone(UTC))
    fields = fields_of(cast(Any, kind))
    if fields is None:
        return bool(a == b)
    if is_pydantic(kind) and not _is_same_beside_fields(a, b):
        return False
    return all(is_same(getattr(a, name), getattr(b, name)) for name, _ in fields)


def _is_same_beside_fields(a: Any, b: Any) -> bool:
    """Whether two pydantic models agree in what no field holds."""
    return is_same(a.__pydantic_extra__, b.__pydantic_extra__) and bool(
        a.__pydantic_private__ == b.__pydantic_private__
    )


def first_difference(a: Any, b: Any, path: str = "") -> tuple[str, Any, Any]:
    """Where two values that are not the same differ first, by the names of fields, and what is there."""
    if type(a) is type(b):
        for step, one, other in _parts(a, b):
            if not is_same(one, other):
                return first_difference(one, other, path + step)
    return path, a, b


def _parts(a: Any, b: Any) -> Iterable[tuple[str, Any, Any]]:
    """The parts that two values of one class have both. Keys of dicts are not told: they may be secret."""
    if type(a) is dict:
        return [("[...]", value, b[key]) for key, value in a.items() if key in b]
    if isinstance(a, (list, tuple)):
        steps = [f".{name}" for name in getattr(a, "_fields", ())] or ["[...]"] * len(a)
        return list(zip(steps, a, b, strict=False))
    fields = fields_of(cast(Any, type(a)))
    return [(f".{name}", getattr(a, name), getattr(b, name)) for name, _ in fields or ()]


def beside_fields(a: Any, b: Any) -> str:
    """What is to be said of two models whose fields are the same, for a message."""
    if type(a) is not type(b) or not is_pydantic(type(a)) or _is_same_beside_fields(a, b):
        return ""
    return ": its private attributes or its extra values differ"


def _are_same_scalars(a: Any, b: Any) -> bool:
    """The quick way for many numbers or names of one kind: no Python code for each."""
    kinds = set(map(type, a))
    return len(kinds) == 1 and kinds <= SCALARS.keys() and kinds == set(map(type, b)) and bool(a == b)
