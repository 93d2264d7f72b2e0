"""A result as an argument: what a task gets of another that may have failed.

The plain form holds the value in the form that its own codec gives it, so that a stored result can be made an argument
by who knows neither type: `{"ok": <value>}`, or `{"err": [code, built-in, message, data, cause]}`.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from .._core.errors import TaskError
from .._core.result import Err, Ok
from ..abc import Plain
from .codec import Codec, CodecError
from .lowering import plain
from .stored_result import error_fields, error_from


class ResultCodec:
    """The codec of a parameter annotated `TaskResult[T]`, given that of `T`."""

    def __init__(self, value_codec: Codec[Any]) -> None:
        self._value_codec = value_codec

    def lower(self, value: object) -> Plain:
        """`value` as plain builtins, nested no deeper than those of any codec.

        Raises:
            CodecError: it is neither an `Ok` nor an `Err` with a `TaskError`, or would not come out equal.
        """
        if type(value) is Ok:
            return plain(ok_argument(self._value_codec.lower(value.value)))
        if type(value) is not Err or type(value.error) is not TaskError:
            raise CodecError("it is neither an Ok nor an Err that holds a TaskError")
        lowered = plain(err_argument(value.error))
        if self.lift(lowered) != value:
            raise CodecError("the TaskError would not come out of the queue as it went in")
        return lowered

    def lift(self, data: Plain) -> Ok[Any] | Err[TaskError]:
        """The result that `lower` made `data` of.

        Raises:
            CodecError: `data` is no result, or its value does not fit the annotation.
        """
        match data:
            case {"ok": value, **others} if not others:
                return Ok(self._value_codec.lift(value))
            case {"err": fields, **others} if not others:
                try:
                    return Err(error_from(fields))
                except ValueError:
                    raise CodecError("it holds an error that cannot be read") from None
        raise CodecError("it is no result")


def ok_argument(value: Plain) -> Plain:
    """The plain form of `Ok`, given that of its value."""
    return {"ok": value}


def err_argument(error: TaskError) -> Plain:
    """The plain form of `Err`. Raises: CodecError, as `error_fields`."""
    return {"err": error_fields(error)}


def is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def value_of_result(annotation: Any) -> tuple[Any] | None:
    """The `T` of `Ok[T] | Err[TaskError]`, in a tuple because it may be None; None: `annotation` is something else."""
    if not is_union(annotation):
        return None
    arms = {typing.get_origin(arm) or arm: typing.get_args(arm) for arm in typing.get_args(annotation)}
    if len(typing.get_args(annotation)) != 2 or arms.keys() != {Ok, Err} or arms[Err] not in ((), (TaskError,)):
        return None
    return (arms[Ok] or (Any,))[0:1]
