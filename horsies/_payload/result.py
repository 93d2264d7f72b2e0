"""Results as bytes: a value with the name of its serializer, or an error with everything it carries."""

from __future__ import annotations

import reprlib
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
        return _encode_error(result.error)
    if serializer is None:
        raise CodecError("there is no serializer for a value")
    plain = (codec or plain_codec()).lower(result.value)
    try:
        data = serializer.dumps(plain)
    except Exception as error:
        raise CodecError(f"serializer {tag!r} refuses the value: {type(error).__name__}") from None
    return _encoder.encode((VERSION, True, tag, data))


def decode_result(
    data: bytes, codec: Codec[Any] | None, serializers: Mapping[str, Serializer]
) -> Ok[Any] | Err[TaskError]:
    """The result that `encode_result` wrote.

    Raises:
        ValueError: it cannot be read, or does not fit the return type.
    """
    try:
        fields = _decoder.decode(data)
        if not isinstance(fields, list) or len(fields) < 2 or _encoder.encode(fields) != data:
            raise ValueError("the stored result cannot be read")
        version, is_ok, *rest = fields
        if type(version) is not int or version != VERSION:
            raise ValueError(f"the result is not of version {VERSION}")
        if is_ok is not True:
            return Err(_error_of(rest, data))
        tag, body = rest
        if not isinstance(body, bytes):
            raise ValueError("the stored result cannot be read")
        serializer = serializers.get(tag)
    except (msgspec.MsgspecError, TypeError, HorsiesError, RecursionError, CodecError, OverflowError) as error:
        raise ValueError("the stored result cannot be read") from error
    if serializer is None:
        raise ValueError(f"serializer {reprlib.repr(tag)} is not installed here")
    try:
        plain = serializer.loads(body)
    except Exception as error:
        raise ValueError(f"the serializer cannot read the stored result: {type(error).__name__}") from error
    try:
        return Ok((codec or plain_codec()).lift(plain))
    except CodecError as error:
        raise ValueError(f"the stored result does not fit the return type: {error}") from error


def _encode_error(error: TaskError) -> bytes:
    cause = None if error.cause is None else (error.cause.type, error.cause.message, error.cause.traceback)
    data = plain_codec().lower(error.data)
    return _encoder.encode(
        (
            VERSION,
            False,
            _unicode(error.code),
            isinstance(error.code, TaskErrorCode),
            _unicode(error.message),
            data,
            None if cause is None else tuple(map(_unicode, cause)),
        )
    )


def _unicode(text: object) -> str:
    """What an error says may be no text, or hold lone surrogates; losing those is better than losing the failure."""
    try:
        exact = str.__str__(text) if isinstance(text, str) else str(text)  # an enum's own str() is not its text
        return exact.encode("utf-8", "backslashreplace").decode()
    except Exception as error:
        raise CodecError(f"the text of an error cannot be made: {type(error).__name__}") from None


def _error_of(fields: list[Any], data: bytes) -> TaskError:
    """Raises: ValueError, TypeError, HorsiesError, CodecError: `data` is not what `_encode_error` writes."""
    code, is_builtin, message, value, cause = fields
    if is_builtin:
        error = TaskError(TaskErrorCode(code), message, data=value)
        error._cause = None if cause is None else ErrorCause(*cause)
    else:
        error = TaskError(code, message, data=value)
    if _encode_error(error) != data:
        raise ValueError("the stored result cannot be read")
    return error
