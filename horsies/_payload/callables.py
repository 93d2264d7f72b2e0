"""The function beneath the decorators, partials and objects that a declared one may be wrapped in."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .._core.errors import HorsiesError

_DEEPEST = 100
"""Layers; an object that answers to every attribute has no innermost one."""
# Both take any function here: only the code of what they make is looked at.
_MAKES_MANAGERS = (contextlib.contextmanager(iter).__code__, contextlib.asynccontextmanager(iter).__code__)  # type: ignore[arg-type]
_BOUND_LATER = (classmethod, property, functools.partialmethod)


@dataclass(frozen=True, slots=True)
class Callee:
    """A function that has been looked at.

    Attributes:
        fn: what is called.
        body: the innermost function, whose annotations and globals count.
        is_async: a call gives an awaitable.
        wraps_async: it is a plain function around an async one: a call may give an awaitable.
        signature: the parameters of a call.
        fixed: those of them that a partial has given a value.
    """

    fn: Callable[..., Any]
    body: Any
    is_async: bool
    wraps_async: bool
    signature: inspect.Signature
    fixed: frozenset[str]


def is_bound_later(value: object) -> bool:
    """Whether it stands in a class for what can be called only through the class."""
    return isinstance(value, _BOUND_LATER)


def look_at(fn: Any) -> Callee:
    """Find out what `fn` is.

    Raises:
        HorsiesError: HRS-105 for what cannot be called as it shows, HRS-101 for what gives no result.
    """
    place = place_of(fn)
    if is_bound_later(fn):
        what = f"{place} is a {type(fn).__name__}, which can be called only through its class"
        raise HorsiesError("HRS-105", what, ["declare the bound method below the class, or a function"])
    if isinstance(fn, type):
        raise HorsiesError("HRS-105", f"{place} is a class", ["declare a function that makes one and returns it"])
    if isinstance(fn, staticmethod):
        fn = fn.__func__
    layers = list(_layers(fn))
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        raise HorsiesError("HRS-105", f"{place} is not a function with a signature") from None
    if (problem := _problem(fn, layers, signature)) is not None:
        code, what, remedy = problem
        raise HorsiesError(code, f"{place} {what}", [remedy])
    is_async = _is_async(fn)
    return Callee(
        fn=fn,
        body=layers[-1],
        is_async=is_async,
        wraps_async=not is_async and any(map(_is_async, layers)),
        signature=signature,
        fixed=frozenset(fn.keywords) if isinstance(fn, functools.partial) else frozenset(),
    )


def place_of(fn: Any) -> str:
    """Where `fn` is, for messages."""
    body = list(_layers(fn))[-1]
    code = getattr(body, "__code__", None)
    name = getattr(fn, "__qualname__", None) or getattr(body, "__qualname__", None) or type(fn).__name__
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def _layers(fn: Any) -> Iterator[Any]:
    """`fn` and what it wraps, down to the innermost."""
    for _ in range(_DEEPEST):
        yield fn
        inner = _inside(fn)
        if inner is None:
            return
        fn = inner


def _inside(fn: Any) -> Any:
    if isinstance(fn, functools.partial):
        return fn.func
    if isinstance(fn, functools.partialmethod):
        return fn.func
    if isinstance(fn, (staticmethod, classmethod)):
        return fn.__func__
    wrapped = getattr(fn, "__wrapped__", None)
    if wrapped is not None:
        return wrapped
    return _call_of(fn)


def _call_of(fn: Any) -> Any:
    """The `__call__` of an object that is none of Python's own callables."""
    call = inspect.getattr_static(type(fn), "__call__", None)
    return call if isinstance(call, types.FunctionType) else None


def _own(fn: Any) -> Any:
    """The code that runs first when `fn` is called, as far as that can be asked what it is."""
    while isinstance(fn, (functools.partial, staticmethod)):
        fn = fn.func if isinstance(fn, functools.partial) else fn.__func__
    call = _call_of(fn)
    return fn if call is None or inspect.iscoroutinefunction(fn) else call


def _is_async(fn: Any) -> bool:
    return inspect.iscoroutinefunction(_own(fn))


def _problem(fn: Any, layers: list[Any], signature: inspect.Signature) -> tuple[str, str, str] | None:
    own = _own(fn)
    if inspect.isgeneratorfunction(own) or inspect.isasyncgenfunction(own):
        return "HRS-101", "is a generator", "return a list"
    code = getattr(own, "__code__", None)
    if code in _MAKES_MANAGERS:
        return "HRS-101", "makes a context manager, and nothing enters it", "enter it inside of a task"
    if hasattr(fn, "cache_info") and not _is_async(fn) and any(map(_is_async, layers)):
        what = "keeps the coroutine of its first call, which can be awaited once"
        return "HRS-101", what, "cache inside of the async function, with a cache that knows async functions"
    if isinstance(own, types.FunctionType) and not _takes(own, fn, signature):
        what = "wraps a function whose parameters it does not take"
        return "HRS-105", what, "let the wrapper take (*args, **kwargs) and pass them on, or leave out functools.wraps"
    return None


def _takes(own: types.FunctionType, fn: Any, shown: inspect.Signature) -> bool:
    """Whether the outermost function takes a call as its signature shows it, which may be that of what it wraps."""
    if own is not fn or not (hasattr(own, "__wrapped__") or hasattr(own, "__signature__")):
        return True
    bare = types.FunctionType(own.__code__, own.__globals__, own.__name__, own.__defaults__, own.__closure__)
    bare.__kwdefaults__ = own.__kwdefaults__
    parameters = shown.parameters.values()
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    by_place = [one for one in parameters if one.kind is one.POSITIONAL_ONLY]
    by_name = {one.name: None for one in parameters if one not in by_place and one.kind not in open_ended}
    first = next(iter(parameters), None)
    if not by_place and first is not None and first.name in by_name and first.kind is not first.KEYWORD_ONLY:
        # The context comes by place, and any other argument can.
        by_name_but_first = {name: None for name in by_name if name != first.name}
        return _binds(bare, (None,), by_name_but_first) or _binds(bare, (), by_name)
    return _binds(bare, (None,) * len(by_place), by_name)


def _binds(fn: Callable[..., Any], args: tuple[None, ...], kwargs: dict[str, None]) -> bool:
    try:
        inspect.signature(fn).bind(*args, **kwargs)
    except TypeError:
        return False
    return True
