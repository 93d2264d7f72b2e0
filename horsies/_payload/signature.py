"""What a task function takes and returns, read once at its declaration."""

from __future__ import annotations

import inspect
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .._core.errors import HorsiesError, raise_all
from .._core.result import Err, Ok
from ..abc import Plain, Serializer
from .annotations import followed
from .callables import Callee, look_at, place_of
from .codec import Codec, CodecError, codec_for, plain_codec
from .result_argument import ResultCodec, is_union, value_of_result


class ArgumentError(Exception):
    """Arguments do not fit the task. The message names the argument, never its value."""


class ParameterError(ArgumentError):
    """An argument has no parameter, or a parameter no argument: the sender knew another version of the task."""


class CorruptError(Exception):
    """Stored arguments cannot be read at all."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A task function's parameters (without its context) and return type."""

    is_async: bool
    wraps_async: bool
    """A plain function around an async one, whose call may give an awaitable."""
    takes_context: bool
    parameters: inspect.Signature
    codecs: dict[str, Codec[Any] | ResultCodec]
    return_codec: Codec[Any]
    annotations: dict[str, Any]
    """Of the parameters, resolved."""
    returns: Any
    """The `T` that a call results in; Any where the function does not say."""
    has_keyword_only: bool

    def encode(self, serializer: Serializer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The bytes of a call, defaults applied; the same call gives the same bytes however it is spelt.

        Raises:
            ArgumentError: the call does not fit, or cannot be written.
        """
        plain = self.lower(args, kwargs)
        try:
            return serializer.dumps(plain)
        except Exception as error:  # a plugin's serializer may raise anything
            raise ArgumentError(f"the serializer refuses the arguments: {type(error).__name__}") from None

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Plain]:
        """The arguments of a call as plain builtins, by name and in order, defaults applied.

        Raises:
            ArgumentError: the call does not fit.
        """
        arguments = self._bound(args, kwargs)
        plain = {}
        for name in sorted(arguments):
            try:
                plain[name] = self.codecs[name].lower(arguments[name])
            except CodecError as error:
                raise ArgumentError(f"argument {name!r}: {error}") from None
        return plain

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, Any]:
        if not kwargs and len(args) == len(self.codecs) and not self.has_keyword_only:
            # inspect takes ten times as long for the same
            return dict(zip(self.codecs, args, strict=True)) if args else {}
        try:
            bound = self.parameters.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"the call does not fit its parameters: {error}") from None
        bound.apply_defaults()
        return bound.arguments

    def decode(self, serializer: Serializer, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call that `encode` made `data` of, ready to be made.

        A parameter that has come since, with a default, is left to its default.

        Raises:
            CorruptError: the bytes cannot be read.
            ArgumentError: they are of other parameters or types.
        """
        return self.lift(load(serializer, data))

    def lift(self, plain: Mapping[str, Plain]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call that `lower` made `plain` of. Raises: ArgumentError, as `decode`."""
        if plain.keys() != self.codecs.keys():
            self.require_names(plain.keys())
        args, kwargs = [], {}
        for name, parameter in self.parameters.parameters.items():
            if name not in plain:
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    args.append(parameter.default)  # what stands behind it keeps its place
                continue
            try:
                value = self.codecs[name].lift(plain[name])
            except CodecError as error:
                raise ArgumentError(f"argument {name!r}: {error}") from None
            if parameter.kind is parameter.POSITIONAL_ONLY:
                args.append(value)
            else:
                kwargs[name] = value
        return tuple(args), kwargs

    def require_names(self, given: Set[str]) -> None:
        """Raise `ParameterError` unless arguments of the names `given` fit the parameters."""
        if unknown := given - self.codecs.keys():
            what = ", ".join(sorted(map(reprlib.repr, unknown)))
            raise ParameterError(f"the sender gave {what}, which this version of the task does not take")
        for name, parameter in self.parameters.parameters.items():
            if name not in given and parameter.default is parameter.empty:
                raise ParameterError(f"the sender did not give {name!r}, which this version of the task needs")


def load(serializer: Serializer, data: bytes) -> dict[str, Plain]:
    """The plain arguments that were stored. Raises: CorruptError."""
    try:
        plain = serializer.loads(data)
    except Exception as error:  # a plugin's serializer may raise anything
        raise CorruptError(f"the serializer cannot read the arguments: {type(error).__name__}") from None
    if not isinstance(plain, dict):
        raise CorruptError("the arguments are not what a send writes")
    return plain


def describe(
    fn: Callable[..., Any], *, context_type: type, context_name: str | None = None, result_type: type | None = None
) -> Signature:
    """Read the signature of a task function, or of another one that takes arguments as tasks do.

    Args:
        context_type: of a first parameter that is no argument.
        context_name: the name under which annotations mean it, where it is another one than its own.
        result_type: `fn` is no task: its first parameter is never an argument, and instead of `T` it returns a
            `result_type[T]`, which is not stored.

    Raises:
        HorsiesError: HRS-105 for parameters, HRS-101 for the return type, all of them at once.
    """
    callee = look_at(fn)
    place = place_of(fn)
    problems: list[HorsiesError] = []
    parameters = list(callee.signature.parameters.values())
    hints = _hints(callee, {context_name or context_type.__name__: context_type})
    takes_context = result_type is not None or (
        bool(parameters) and _is_context(hints.get(parameters[0].name), context_type)
    )
    codecs: dict[str, Codec[Any] | ResultCodec] = {}
    for parameter in parameters[1:] if takes_context else parameters:
        found = _parameter_problem(parameter, place, hints, codecs)
        if found is None:
            continue
        codecs.pop(parameter.name, None)
        if parameter.name not in callee.fixed:
            problems.append(found)
    return_codec, returns = plain_codec(), Any
    if "return" in hints and result_type is not None:
        returns = _inner_type(hints["return"], result_type)
    elif "return" in hints:
        try:
            returns = _value_type(hints["return"])
            return_codec = _codec(returns)
        except TypeError as error:
            problems.append(HorsiesError("HRS-101", f"the return type of {place} cannot be stored", [str(error)]))
    raise_all(problems)
    kept = [one for one in (parameters[1:] if takes_context else parameters) if one.name in codecs]
    return Signature(
        is_async=callee.is_async,
        wraps_async=callee.wraps_async,
        takes_context=takes_context,
        parameters=inspect.Signature(kept),
        codecs=codecs,
        return_codec=return_codec,
        annotations={name: hints[name] for name in codecs},
        returns=returns,
        has_keyword_only=any(parameter.kind is parameter.KEYWORD_ONLY for parameter in kept),
    )


def _parameter_problem(
    parameter: inspect.Parameter,
    place: str,
    hints: Mapping[str, Any],
    codecs: dict[str, Codec[Any] | ResultCodec],
) -> HorsiesError | None:
    """What is wrong with a parameter, whose codec is put into `codecs`."""
    what = f"parameter {parameter.name!r} of {place}"
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return HorsiesError("HRS-105", f"{what} is open-ended", ["take a list or a dict instead"])
    if parameter.name not in hints:
        return HorsiesError("HRS-105", f"{what} has no annotation", ["annotate it, if only with Any"])
    try:
        codec = codecs[parameter.name] = _parameter_codec(hints[parameter.name])
    except TypeError as error:
        return HorsiesError("HRS-105", f"{what} cannot be sent", [str(error)])
    if parameter.default is not parameter.empty and (misfit := _misfit(codec, parameter.default)):
        return HorsiesError("HRS-105", f"{what} has a default that cannot be sent", [misfit])
    return None


def _misfit(codec: Codec[Any] | ResultCodec, default: object) -> str | None:
    try:
        codec.lower(default)
    except CodecError as error:
        return f"{error}; a default is sent like an argument"
    return None


class _Unresolved:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def _hints(callee: Callee, names: Mapping[str, type]) -> dict[str, Any]:
    """The resolved annotations; one that cannot be resolved stands as `_Unresolved`, and spoils no other."""
    target = callee.body
    shown = callee.signature.parameters.values()
    annotations = {one.name: one.annotation for one in shown if one.annotation is not one.empty}
    annotations |= dict(getattr(target, "__annotations__", {}))
    known = {
        **names,
        **{one.__name__: one for one in getattr(target, "__type_params__", ())},
        **getattr(target, "__globals__", {}),
        **_nonlocals(target),
    }
    resolved = {}
    for name, annotation in annotations.items():
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            resolved.update(typing.get_type_hints(holder, globalns=known, include_extras=True))
        except Exception as error:  # evaluating an annotation runs what is written in it
            resolved[name] = _Unresolved(f"{type(error).__name__}: {error}")
    return resolved


def _nonlocals(fn: Callable[..., Any]) -> dict[str, Any]:
    """What `fn` sees of the functions around it, but for what has no value yet."""
    found = {}
    names = getattr(getattr(fn, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(fn, "__closure__", None) or (), strict=True):
        with suppress(ValueError):
            found[name] = cell.cell_contents
    return found


def _codec(annotation: Any) -> Codec[Any]:
    if isinstance(annotation, _Unresolved):
        raise TypeError(f"its annotation cannot be resolved ({annotation.reason}); import the name in the module")
    if annotation is object or annotation is Any:
        return plain_codec()
    codec = codec_for(annotation)
    if (refusal := codec.refusal()) is not None:
        raise TypeError(refusal)
    return codec


def _parameter_codec(annotation: Any) -> Codec[Any] | ResultCodec:
    value = value_of_result(_followed(annotation))
    return _codec(annotation) if value is None else ResultCodec(_codec(*value))


def _followed(annotation: Any) -> Any:
    """What `annotation` stands for. Raises: TypeError, it cannot be evaluated."""
    try:
        return followed(annotation)
    except Exception as error:  # evaluating an alias runs what is written in it
        raise TypeError(f"its annotation cannot be resolved ({type(error).__name__}: {error})") from None


def _is_context(annotation: Any, context_type: type) -> bool:
    with suppress(TypeError):
        annotation = _followed(annotation)
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    annotation = typing.get_origin(annotation) or annotation
    return isinstance(annotation, type) and issubclass(annotation, context_type)


def _value_type(annotation: Any) -> Any:
    """The `T` of `-> T`, `-> Ok[T]` or `-> Ok[T] | Err[TaskError]`. Raises: TypeError, it cannot be evaluated."""
    result = _followed(annotation)
    arms = typing.get_args(result) if is_union(result) else (result,)
    oks = [arm for arm in arms if (typing.get_origin(arm) or arm) is Ok]
    errs = [arm for arm in arms if (typing.get_origin(arm) or arm) is Err]
    if len(oks) + len(errs) < len(arms) or len(oks) > 1:
        return annotation
    if not oks:
        return type(None) if errs else annotation
    return (typing.get_args(oks[0]) or (Any,))[0]


def _inner_type(annotation: Any, result_type: type) -> Any:
    """The `T` of `-> result_type[T]`; None of `-> None`."""
    if annotation is type(None):
        return annotation
    return (typing.get_args(annotation) or (Any,))[0] if typing.get_origin(annotation) is result_type else Any
