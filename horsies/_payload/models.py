"""Models of pydantic as plain data and back. pydantic itself need not be installed.

A model is written under the keys that it is read by: its serialization aliases, as long as validation knows those, too;
where it does not, the names of the fields. A field that its caller did not set, and that has its default, is left out,
so that it comes back as one that is not set. That is done where the default is a plain value, or an empty collection:
what a factory makes might differ in another process, so it is written, and counts as set there. Other forms (`Form`)
are tried if a value does not come back from this one.

Models are read without `strict`: in plain data a date is text, and what comes out is compared with what went in.
"""

from __future__ import annotations

import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from .annotations import Aliases, alias_of, followed
from .equality import is_same
from .lowering import CodecError, has_walk, is_pydantic

_EMPTY = (list, dict, set, frozenset, tuple, str, bytes, int, float, bool)
"""Factories that make the same everywhere."""


class Form(enum.Enum):
    """How models are written: the first form that comes back as it went in is taken."""

    UNSET_LEFT_OUT = enum.auto()
    WHOLE = enum.auto()
    """With all fields, for validators and unions that tell models apart by them."""
    RAW = enum.auto()
    """The fields as they are, for serializers whose text no validator reads."""


_form: ContextVar[Form] = ContextVar("horsies_form_of_models", default=Form.UNSET_LEFT_OUT)


@contextmanager
def written_as(form: Form) -> Iterator[None]:
    """While entered, `dump` writes models in this form."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


@dataclass(frozen=True, slots=True)
class _Shape:
    """The facts about a class that decide how it is written.

    Attributes:
        by_alias: it is read by the aliases that it is written under, with everything inside.
        droppable: the defaults of fields that may be left out.
        tags: those of them that have one value only, by which unions tell models apart.
        nested: the fields in which there can be other models, and whether one of several.
        names: of its fields and theirs, and their aliases.
    """

    by_alias: bool
    droppable: Mapping[str, Callable[[], Any]]
    tags: frozenset[str]
    nested: Mapping[str, bool]
    names: frozenset[str]


def dump(value: Any) -> Any:
    """The part of a model that is to be made plain."""
    form = _form.get()
    cls: Any = type(value)
    left_out = {} if form is Form.WHOLE else _left_out(value, is_one_of_several=False)
    if form is Form.RAW and "root" not in cls.model_fields:
        fields = cls.model_fields.items()
        kept = [name for name, field in fields if not field.exclude and left_out.get(name) is not True]
        return {name: getattr(value, name) for name in kept} | (value.model_extra or {})
    return value.model_dump(
        mode="python",
        by_alias=_shape_of(cls).by_alias,
        round_trip=True,
        warnings="none",
        exclude=left_out or None,
    )


def names_of(cls: Any) -> frozenset[str]:
    """The names and aliases of its fields, which may be told."""
    return _shape_of(cls).names


def load(cls: Any, data: Any) -> Any:
    """The model that `dump` was given.

    Raises:
        CodecError: `data` does not validate, with the fields, and never a value.
        Exception: whatever a validator raises.
    """
    shape = _shape_of(cls)
    by_alias: dict[str, Any] = {}
    by_name: dict[str, Any] = {"by_alias": False, "by_name": True} if _knows_names(cls) else by_alias
    first, second = (by_alias, by_name) if shape.by_alias else (by_name, by_alias)
    try:
        return cls.model_validate(data, strict=False, **first)
    except ValueError as error:
        refusal = error
    try:  # one that was written raw, or by a version that knew only aliases
        return cls.model_validate(data, strict=False, **second)
    except ValueError:
        raise CodecError(f"it does not validate as {cls.__name__}{_refusals(refusal, shape.names)}") from None


@functools.cache
def _knows_names(cls: Any) -> bool:
    """Whether this pydantic can read a model by the names of its fields."""
    return "by_name" in inspect.signature(cls.model_validate).parameters


def problem_with_model(cls: Any) -> str | None:
    """Why values of `cls` can never be sent; None: some can."""
    try:
        cls.model_rebuild()
    except Exception as error:  # an annotation may be anything
        return f"{cls.__qualname__} is not complete: {type(error).__name__}; see its model_rebuild()"
    if not _shape_of(cls).by_alias and not _knows_names(cls):
        return (
            f"{cls.__qualname__} is written under other aliases than it is read by, which needs pydantic 2.11; "
            "give its fields one alias each, or none"
        )
    return _problem(cls, frozenset())


def _problem(cls: Any, within: frozenset[Any]) -> str | None:
    decorators = cls.__pydantic_decorators__
    if cls in within or decorators.model_serializers:
        return None
    serialized = {name for one in decorators.field_serializers.values() for name in one.info.fields}
    for name, field in cls.model_fields.items():
        if not field.is_required() or name in serialized or "*" in serialized:
            continue
        where = f"field {name!r} of {cls.__qualname__}"
        if field.exclude:
            return f"{where} is required, and left out of every dump (exclude=True); give it a default, or send it"
        if _has_schema_of_its_own(field.metadata):
            continue
        reason = _unsendable(field.annotation, within | {cls})
        if reason is not None:
            return f"{where}: {reason}"
    return None


def _is_typed_dict(cls: type) -> bool:
    return issubclass(cls, dict) and hasattr(cls, "__total__")  # that of typing_extensions is one too


def _has_schema_of_its_own(metadata: Any) -> bool:
    return any(hasattr(one, "__get_pydantic_core_schema__") for one in metadata)


def _unsendable(annotation: Any, within: frozenset[Any]) -> str | None:
    """Why no value of a required field can be sent, but for empty collections; None: it may be."""
    if (alias := alias_of(annotation)) is not None:
        if alias in within:
            return None
        within |= {alias}
    annotation = followed(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return None if _has_schema_of_its_own(arguments[1:]) else _unsendable(arguments[0], within)
    if origin in (Union, types.UnionType):
        reasons = [_unsendable(arm, within) for arm in arguments]
        return None if None in reasons else reasons[0]
    if origin in (list, set, frozenset, tuple):
        return next((reason for arm in arguments if arm is not ... and (reason := _unsendable(arm, within))), None)
    if origin is dict:
        if arguments[0] is int or arguments[0] is float:
            return "a dict whose keys are not str cannot be sent; use str keys, or a list of pairs"
        return _unsendable(arguments[1], within)
    cls = origin or annotation
    if not isinstance(cls, type) or _is_typed_dict(cls) or cls is object or annotation is Any:
        return None
    if is_pydantic(cls):
        return _problem(cls, within)
    if hasattr(cls, "get_secret_value"):
        return f"a {cls.__name__} is not stored; send where the secret is kept"
    if inspect.isabstract(cls) and cls.__name__ != "Callable":
        return None
    if hasattr(cls, "__get_pydantic_core_schema__") or has_walk(cls):
        return None
    return f"{cls.__name__} has no plain form; take a type that has, or give the field a serializer"


def _left_out(value: Any, *, is_one_of_several: bool) -> Any:
    """For `exclude` of a dump: the fields that are not set, of `value` and of the models inside.

    Args:
        is_one_of_several: it is told apart from other models by its fields: by its tags, or else by all of them.
    """
    cls: Any = type(value)
    shape, found = _shape_of(cls), dict[Any, Any]()
    for name, default in shape.droppable.items():
        needed = is_one_of_several and (name in shape.tags or not shape.tags)
        if name not in value.model_fields_set and not needed and is_same(getattr(value, name), default()):
            found[name] = True
    for name, several in shape.nested.items():
        if name not in found and (inner := _left_out_inside(getattr(value, name), several)):
            found[name] = inner
    return found.get("root", {}) if "root" in shape.nested else found


def _left_out_inside(value: Any, is_one_of_several: bool) -> Any:
    if is_pydantic(type(value)):
        return _left_out(value, is_one_of_several=is_one_of_several)
    if isinstance(value, (list, tuple)):
        items: Any = enumerate(value)
    elif isinstance(value, dict):
        items = value.items()
    else:
        return None
    return {key: inner for key, item in items if (inner := _left_out_inside(item, is_one_of_several))}


@functools.cache
def _shape_of(cls: Any) -> _Shape:
    inside = {name: set(_models_in(field.annotation)) for name, field in cls.model_fields.items()}
    classes = {cls}
    for found in inside.values():
        classes |= found
    left = list(classes - {cls})
    while left:
        for field in _fields_of(left.pop()).values():
            more = set(_models_in(field.annotation)) - classes
            classes |= more
            left += more
    names: set[str] = set()
    for one in classes:
        for name, field in _fields_of(one).items():
            names |= {name, *_keys(field.validation_alias), *filter(None, [field.serialization_alias])}
    return _Shape(
        by_alias=all(map(_is_read_as_written, classes)),
        droppable={name: default for name, one in cls.model_fields.items() if (default := _default_of(one))},
        tags=frozenset(name for name, field in cls.model_fields.items() if _is_tag(field.annotation)),
        nested={name: len(found) > 1 for name, found in inside.items() if found},
        names=frozenset(names),
    )


def _fields_of(cls: Any) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = cls.model_fields if is_pydantic(cls) else cls.__pydantic_fields__
    return fields


def _models_in(annotation: Any, within: Aliases = frozenset()) -> Iterator[Any]:
    """The models and dataclasses of pydantic that an annotation names."""
    if (alias := alias_of(annotation)) is not None:
        if alias in within:
            return
        within |= {alias}
    annotation = followed(annotation)
    if isinstance(annotation, type) and (is_pydantic(annotation) or hasattr(annotation, "__pydantic_fields__")):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models_in(argument, within)


def _is_read_as_written(cls: Any) -> bool:
    config = cls.model_config if is_pydantic(cls) else cls.__pydantic_config__
    by_alias = config.get("validate_by_alias", True)
    by_name = config.get("populate_by_name") or config.get("validate_by_name") or not by_alias
    for name, field in _fields_of(cls).items():
        keys = set(_keys(field.validation_alias)) if by_alias else set()
        if by_name or field.validation_alias is None:
            keys.add(name)
        if (field.serialization_alias or name) not in keys:
            return False
    return True


def _keys(alias: Any) -> Iterator[str]:
    """The keys of the data itself, not of what is inside, that a validation alias is read from."""
    if isinstance(alias, str):
        yield alias
    for choice in getattr(alias, "choices", ()):
        yield from _keys(choice)
    match list(getattr(alias, "path", ())):
        case [str() as key]:
            yield key


def _is_tag(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Literal and len(typing.get_args(annotation)) == 1


def _default_of(field: Any) -> Callable[[], Any] | None:
    if field.is_required():
        return None
    if field.default_factory is None:
        return lambda: field.default
    made: Callable[[], Any] | None = field.default_factory if field.default_factory in _EMPTY else None
    return made


def _refusals(error: ValueError, names: frozenset[str]) -> str:
    """The fields that pydantic refuses, and by which of its rules: no values. Keys of dicts are not told."""
    try:
        # It is pydantic's, which need not be installed.
        errors = error.errors(include_url=False, include_context=False, include_input=False)  # type: ignore[attr-defined]
        shown = [f"{_path(one['loc'], names)} ({one['type']})" for one in errors[:3]]
    except Exception:  # a validator of the caller's may have raised an error of another library
        return ""
    more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
    return f": {', '.join(shown)}{more}"


def _path(loc: tuple[Any, ...], names: frozenset[str]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" if part in names else "[...]" for part in loc]
    return "".join(parts).removeprefix(".") or "the whole"
