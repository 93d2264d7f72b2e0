"""Annotations that stand for others: `type X = ...`, type parameters, `NewType`, `Final`."""

from __future__ import annotations

import functools
import operator
import typing
from collections.abc import Set
from typing import Any, Final, TypeAlias, TypeVar

Aliases: TypeAlias = Set[Any]
"""The aliases that are being followed: one that comes again is recursive."""


def followed(annotation: Any) -> Any:
    """Follow the names that `annotation` goes by, up to the first that is none. Its parts are left as they are.

    A type variable stands for its bound or its constraints, else for Any. A recursive alias is not followed for ever
    because its parts are not.

    Raises:
        Exception: whatever evaluating an alias brings.
    """
    while True:
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if is_alias(annotation):
            annotation = annotation.__value__
        elif is_alias(origin):
            annotation = _filled(origin, arguments)
        elif hasattr(annotation, "__supertype__"):  # a NewType
            annotation = annotation.__supertype__
        elif origin is Final:
            annotation = arguments[0]
        elif isinstance(annotation, TypeVar):
            annotation = _of_variable(annotation)
        else:
            return annotation


def alias_of(annotation: Any) -> Any | None:
    """The alias that `annotation` is, perhaps with arguments; None: it is none."""
    if is_alias(annotation):
        return annotation
    origin = typing.get_origin(annotation)
    return origin if is_alias(origin) else None


def is_alias(annotation: Any) -> bool:
    """Whether it was made by `type X = ...`, or with typing_extensions before Python 3.12."""
    return type(annotation).__name__ == "TypeAliasType"


def _filled(alias: Any, arguments: tuple[Any, ...]) -> Any:
    """The value of a generic alias with `arguments` for its parameters."""
    given = dict(zip(alias.__type_params__, arguments, strict=False))
    value = alias.__value__
    if value in given:
        return given[value]
    parameters = getattr(value, "__parameters__", ())
    return value[tuple(given.get(one, one) for one in parameters)] if parameters else value


def _of_variable(variable: TypeVar) -> Any:
    if variable.__constraints__:
        return functools.reduce(operator.or_, variable.__constraints__)
    return Any if variable.__bound__ is None else variable.__bound__
