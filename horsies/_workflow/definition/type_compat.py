"""Whether what a task returns fits what another takes, by their annotations.

Only what cannot go well is denied. Where annotations do not tell, the worker sees when it reads the argument.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Set
from datetime import date, datetime
from typing import Annotated, Any, Literal

from ..._payload.result_argument import is_union, value_of_result

_NOT_READ: Set[tuple[Any, Any]] = {(bool, int), (bool, float), (datetime, date)}
"""Subclasses in Python whose plain form is not read as their base."""
_TAKEN_ALSO: Set[tuple[Any, Any]] = {(int, float)}


def fits(given: Any, wanted: Any) -> bool:
    """Whether a value annotated `given` may be passed where `wanted` is taken, as far as can be told."""
    given, wanted = _bare(given), _bare(wanted)
    if given == wanted or _says_nothing(given) or _says_nothing(wanted):
        return True
    if is_union(given):
        return all(fits(arm, wanted) for arm in typing.get_args(given))
    if is_union(wanted):
        return any(fits(given, arm) for arm in typing.get_args(wanted))
    if typing.get_origin(given) is Literal:
        return all(_literal_fits(value, wanted) for value in typing.get_args(given))
    if typing.get_origin(wanted) is Literal:
        return given in set(map(type, typing.get_args(wanted)))
    one, other = typing.get_origin(given) or given, typing.get_origin(wanted) or wanted
    return _class_fits(one, other) and _arguments_fit(one, other, typing.get_args(given), typing.get_args(wanted))


def result_fits(given: Any, wanted: Any) -> bool:
    """Whether the result of a task that returns `given` may be passed where `wanted` is taken."""
    value = value_of_result(wanted)
    return value is not None and fits(given, *value)


def shown(annotation: Any) -> str:
    """`annotation` for people."""
    value = value_of_result(annotation)
    if value is not None:
        return f"TaskResult[{shown(*value)}]"
    if is_union(annotation):
        return " | ".join(map(shown, typing.get_args(annotation)))
    return "None" if annotation is type(None) else inspect.formatannotation(annotation)


def _bare(annotation: Any) -> Any:
    """Without what does not change the values."""
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):  # a NewType
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12 on
            annotation = annotation.__value__
        else:
            return type(None) if annotation is None else annotation


def _says_nothing(annotation: Any) -> bool:
    return annotation is Any or annotation is object or isinstance(annotation, typing.TypeVar)


def _literal_fits(value: object, wanted: Any) -> bool:
    if typing.get_origin(wanted) is Literal:
        return any(type(value) is type(other) and value == other for other in typing.get_args(wanted))
    return fits(type(value), wanted)


def _class_fits(given: Any, wanted: Any) -> bool:
    if (given, wanted) in _NOT_READ:
        return False
    if (given, wanted) in _TAKEN_ALSO or typing.is_typeddict(given) or typing.is_typeddict(wanted):
        return True
    try:
        return issubclass(given, wanted)
    except TypeError:  # these are no classes that can be asked
        return True


def _arguments_fit(given: Any, wanted: Any, ones: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    if not ones or not others or not (given is wanted or wanted.__module__ == "collections.abc"):
        return True
    if given is wanted is tuple:
        return _items_fit(ones, others)
    return len(ones) != len(others) or all(map(fits, ones, others))


def _items_fit(ones: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Of two tuples, each of a fixed length or (its second argument being `...`) of any."""
    if ones[-1] is ... or others[-1] is ...:
        items = [item for item in others if item is not ...]
        return all(fits(one, other) for one in ones if one is not ... for other in items)
    return len(ones) == len(others) and all(map(fits, ones, others))
