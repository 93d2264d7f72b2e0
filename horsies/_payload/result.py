"""Results as bytes: a value with the name of its serializer, or an error with everything it carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from .._core.codes import TaskErrorCode
from .._core.errors import ErrorCause, HorsiesError, TaskError
from .._core.result import Err, Ok
from ..abc import Serializer
from .codec import Codec, CodecError, plain_codec

VERSION = 1
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def encode_result(
    result: Ok[Any] | Err[TaskError], codec: Codec[Any] | None, tag: str, serializer: Serializer | None
) -> bytes:
    """The bytes of `result`.

    Args:
        result: how a task ended.
        codec: of the task's return type; None: plain builtins.
        tag: the name of `serializer`, stored beside what it writes; neither is needed for an `Err`.

    Raises:
        CodecError: the value, or the error's data, does not fit or cannot be written.
    """
    if isinstance(result, Err):
        error = result.error
        cause = None if error.cause is None else (error.cause.type, error.cause.message, error.cause.traceback)
        fields = (str(error.code), isinstance(error.code, TaskErrorCode), error.message)
        try:
            return _encoder.encode((VERSION, False, *fields, plain_codec().lower(error.data), cause))
        except UnicodeEncodeError:
            fields, cause = _cleaned(fields), None if cause is None else _cleaned(cause)
            return _encoder.encode((VERSION, False, *fields, plain_codec().lower(error.data), cause))
    if serializer is None:
        raise CodecError("there is no serializer for a value")
    plain = (codec or plain_codec()).lower(result.value)
    try:
        data = serializer.dumps(plain)
    except Exception as error:
        raise CodecError(f"serializer {tag!r} refuses the value: {type(error).__name__}") from error
    return _encoder.encode((VERSION, True, tag, data))


def decode_result(
    data: bytes, codec: Codec[Any] | None, serializers: Mapping[str, Serializer]
) -> Ok[Any] | Err[TaskError]:
    """The result that `encode_result` wrote.

    Raises:
        ValueError: it cannot be read, or does not fit the return type.
    """
    try:
        version, is_ok, *rest = _decoder.decode(data)
        if version != VERSION:
            raise ValueError(f"the result is of version {version!r}, not {VERSION}")
        if not is_ok:
            return Err(_error_of(*rest))
        tag, body = rest
        if tag not in serializers:
            raise ValueError(f"serializer {tag!r} is not installed here")
        plain = serializers[tag].loads(body)
    except (msgspec.MsgspecError, TypeError, HorsiesError) as error:
        raise ValueError("the stored result cannot be read") from error
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the serializer cannot read the stored result: {type(error).__name__}") from error
    try:
        return Ok((codec or plain_codec()).lift(plain))
    except CodecError as error:
        raise ValueError(f"the stored result does not fit the return type: {error}") from error


def _cleaned(texts: tuple[Any, ...]) -> tuple[Any, ...]:
    """An exception's own text may hold lone surrogates; losing them is better than losing the failure."""
    return tuple(t.encode("utf-8", "backslashreplace").decode() if isinstance(t, str) else t for t in texts)


def _error_of(code: str, is_builtin: bool, message: str, data: Any, cause: list[str] | None) -> TaskError:
    if not is_builtin:
        return TaskError(code, message, data=data)
    error = TaskError(TaskErrorCode(code), message, data=data)
    if cause is not None:
        error._cause = ErrorCause(*cause)
    return error
