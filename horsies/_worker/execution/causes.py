"""The text of an exception that user code raised, whatever its class does when it is read.

A `__str__`, a property or a `__getattribute__` of the class may raise anything. A property may also make a new cause
each time, so that the chain of causes has no end. So this module reads what the interpreter itself stored, and leaves
the description to `traceback` only if that is all there is to read.
"""

from __future__ import annotations

import traceback
from typing import Any

from ..._core.codes import TaskErrorCode
from ..._core.errors import ErrorCause, TaskError
from ..._core.result import Err
from ..._payload.codec import CodecError

MOST = 100
"""The largest number of exceptions, causes and members of groups together, that a traceback shows."""

_READ = ("__cause__", "__context__", "__notes__", "__suppress_context__", "__traceback__", "exceptions")
_COMPUTED = frozenset(("__getattribute__", *_READ))
"""A class that defines one of these names computes what `traceback` reads."""
_ORDINARY = (BaseException, BaseExceptionGroup, ExceptionGroup, object)
_stored: Any = BaseException.__dict__
_of_class: Any = type.__dict__
_members: Any = BaseExceptionGroup.__dict__["exceptions"]


def cause_of(error: BaseException) -> ErrorCause:
    """The type, message and traceback of `error`, without the frame that caught it."""
    frames = _stored["__traceback__"].__get__(error)
    name, message = _of_class["__qualname__"].__get__(type(error)), _message(error)
    return ErrorCause(name, message, _told(error, frames and frames.tb_next, name, message))


def unhandled(error: BaseException) -> Err[TaskError]:
    """UNHANDLED_ERROR with what `cause_of` tells of `error`."""
    name, cause = _of_class["__name__"].__get__(type(error)), cause_of(error)
    message = f"{name}: {cause.message}" if cause.message else name
    return Err(TaskError.caused_by(TaskErrorCode.UNHANDLED_ERROR, message, cause))


def unreadable(task: str, error: BaseException) -> Err[TaskError]:
    """RETURN_TYPE_MISMATCH: what `task` ended with cannot be written, because of `error`."""
    if issubclass(type(error), CodecError):
        return Err(TaskError(TaskErrorCode.RETURN_TYPE_MISMATCH, f"task {task!r}: {error}"))
    cause = cause_of(error)
    why = f"task {task!r}: what it ended with cannot be read: {cause.type}"
    return Err(TaskError.caused_by(TaskErrorCode.RETURN_TYPE_MISMATCH, why, cause))


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """The exceptions in a group, at any depth, and the exception itself if it is no group."""
    found, left = list[BaseException](), [error]
    while left:
        one = left.pop()
        if issubclass(type(one), BaseExceptionGroup):
            left += _members.__get__(one)
        else:
            found.append(one)
    return tuple(found)


def _message(error: BaseException) -> str:
    try:
        return str.__str__(str(error))  # a subclass of str may do anything where it is used
    except BaseException:  # an exception whose class cannot tell it must not take the worker along
        return ""


def _told(error: BaseException, frames: Any, name: str, message: str) -> str:
    try:
        if _is_ordinary(error):
            return "".join(traceback.format_exception(type(error), error, frames))
        lines = traceback.format_tb(frames)
    except BaseException:  # the loader of its source may raise anything too
        lines = []
    return "".join(["Traceback (most recent call last):\n", *lines, f"{name}: {message}\n"])


def _is_ordinary(error: BaseException) -> bool:
    """Whether no class computes what `traceback` reads of `error` and of what is behind it, and that has an end."""
    left, seen = [error], set[int]()
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        classes = _of_class["__mro__"].__get__(type(one))
        names = [_of_class["__dict__"].__get__(kind).keys() for kind in classes if kind not in _ORDINARY]
        if len(seen) > MOST or not all(map(_COMPUTED.isdisjoint, names)):
            return False
        if type(_stored["__dict__"].__get__(one).get("__notes__", [])) is not list:
            return False
        left += [_stored["__cause__"].__get__(one), _stored["__context__"].__get__(one)]
        left += _members.__get__(one) if issubclass(type(one), BaseExceptionGroup) else ()
    return True
