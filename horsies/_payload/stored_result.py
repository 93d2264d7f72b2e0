"""Results as bytes: a value with the name of its serializer, or an error with everything it carries."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from .._core.codes import TaskErrorCode, is_user_code
from .._core.errors import ErrorCause, HorsiesError, TaskError
from .._core.result import Err, Ok
from ..abc import Plain, Serializer
from .codec import Codec, CodecError, plain_codec
from .equality import is_same
from .lowering import UNDECODABLE

VERSION = 1
UNREADABLE = "the stored result cannot be read"
TEXT_BYTES = 64 * 1024
"""Bytes of one text of an error that are stored. User code may put anything into a message."""
_MARK_BYTES = 64
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


def encode_result(
    result: Ok[Any] | Err[TaskError], codec: Codec[Any] | None, tag: str, serializer: Serializer | None
) -> bytes:
    """The bytes of `result`.

    Args:
        result: how a task ended. Texts of an error that are longer than `TEXT_BYTES` lose their middle.
        codec: of the task's return type; None: plain builtins.
        tag: the name of `serializer`, stored beside what it writes; neither is needed for an `Err`.

    Raises:
        CodecError: the value, or the error's data, does not fit or cannot be written.
    """
    if isinstance(result, Err):
        return _encoder.encode((VERSION, False, *_shortened(error_fields(result.error))))
    if serializer is None:
        raise CodecError("there is no serializer for a value")
    plain = (codec or plain_codec()).lower(result.value)
    try:
        data = serializer.dumps(plain)
    except Exception as error:  # a plugin's serializer may raise anything
        raise CodecError(f"serializer {tag!r} refuses the value: {type(error).__name__}") from None
    return _encoder.encode((VERSION, True, tag, data))


def decode_result(
    data: bytes, codec: Codec[Any] | None, serializers: Mapping[str, Serializer]
) -> Ok[Any] | Err[TaskError]:
    """The result that `encode_result` wrote.

    Raises:
        ValueError: it cannot be read, or does not fit the return type.
    """
    version, is_ok, *rest = _fields_of(data)
    if version != VERSION:
        raise ValueError(f"the stored result is of version {version}, not {VERSION}")
    if not is_ok:
        return Err(_error_of(rest, data))
    if [type(field) for field in rest] != [str, bytes]:
        raise ValueError(UNREADABLE)
    tag, body = rest
    serializer = serializers.get(tag)
    if serializer is None:
        raise ValueError(f"serializer {reprlib.repr(tag)} of the stored result is not installed here")
    try:
        plain = serializer.loads(body)
    except Exception as error:  # a plugin's serializer may raise anything
        raise ValueError(f"the serializer cannot read the stored result: {type(error).__name__}") from error
    try:
        return Ok((codec or plain_codec()).lift(plain))
    except CodecError as error:
        raise ValueError(f"the stored result does not fit the return type: {error}") from error


def _fields_of(data: bytes) -> list[Any]:
    """Raises: ValueError: `data` does not begin as a result does, or is no canonical msgpack."""
    try:
        fields = _decoder.decode(data)
        begins_well = isinstance(fields, list) and [type(field) for field in fields[:2]] == [int, bool]
        if begins_well and _encoder.encode(fields) == data:
            return cast(list[Any], fields)
    except UNDECODABLE as error:
        raise ValueError(UNREADABLE) from error
    raise ValueError(UNREADABLE)


def _encode_error(error: TaskError) -> bytes:
    return _encoder.encode((VERSION, False, *error_fields(error)))


def error_fields(error: TaskError) -> list[Plain]:
    """Everything that `error` carries, as plain builtins: code, whether it is a built-in one, message, data, cause.

    Raises:
        CodecError: its data is not made of plain builtins, or its text cannot be made.
    """
    code, cause = code_of(error), error.cause
    return [
        _unicode(code),
        isinstance(code, TaskErrorCode),
        _unicode(error.message),
        plain_codec().lower(error.data),
        None if cause is None else [*map(_unicode, (cause.type, cause.message, cause.traceback))],
    ]


def code_of(error: TaskError) -> str:
    """The code of `error`.

    Raises:
        CodecError: a class of the user's own gives `error` a code that an error cannot have.
    """
    code = error.code
    if isinstance(code, TaskErrorCode):
        return code
    if isinstance(code, str) and is_user_code(exact := str.__str__(code)):
        return exact
    raise CodecError(f"the code of its {type(error).__name__} is not upper snake case")


def error_from(fields: object) -> TaskError:
    """The error that `error_fields` was given.

    Raises:
        ValueError: `fields` are not what it makes.
    """
    try:
        code, is_builtin, message, value, cause = cast(list[Any], fields)
        error = TaskError(TaskErrorCode(code) if is_builtin else code, message, data=value)
        error._cause = None if cause is None else ErrorCause(*cause)
        if is_same(fields, error_fields(error)):
            return error
    except (ValueError, TypeError, HorsiesError, CodecError) as problem:
        raise ValueError(UNREADABLE) from problem
    raise ValueError(UNREADABLE)


def _shortened(fields: list[Plain]) -> list[Plain]:
    """The `fields` of an error, with every text short enough to be stored. The data is the user's and stays whole."""
    code, is_builtin, message, data, cause = fields
    texts: Plain = None if cause is None else [_shorten(text) for text in cast(list[str], cause)]
    return [code, is_builtin, _shorten(cast(str, message)), data, texts]


def _shorten(text: str) -> str:
    """The beginning and the end of `text`, `TEXT_BYTES` at most, with how much is missing in between."""
    data = text.encode()
    if len(data) <= TEXT_BYTES:
        return text
    half = (TEXT_BYTES - _MARK_BYTES) // 2
    begin, end = data[:half].decode(errors="ignore"), data[-half:].decode(errors="ignore")
    return f"{begin}\n... {len(text) - len(begin) - len(end)} characters were cut out here ...\n{end}"


def _unicode(text: object) -> str:
    """What an error says may be no text, or hold lone surrogates; losing those is better than losing the failure."""
    try:
        exact = str.__str__(text) if isinstance(text, str) else str(text)  # an enum's own str() is not its text
        return exact.encode("utf-8", "backslashreplace").decode()
    except Exception as error:  # str() of whatever user code put there may raise anything
        raise CodecError(f"the text of an error cannot be made: {type(error).__name__}") from None


def _error_of(fields: list[Any], data: bytes) -> TaskError:
    """Raises: ValueError: `data` is not what `_encode_error` writes."""
    error = error_from(fields)
    if _encode_error(error) != data:
        raise ValueError(UNREADABLE)
    return error
