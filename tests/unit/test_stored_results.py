"""The bytes of results are fixed for ever, and what no worker writes is refused."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from horsies import Err, Ok, TaskError
from horsies._core.codes import TaskErrorCode
from horsies._core.errors import ErrorCause
from horsies._payload.codec import CodecError, codec_for
from horsies._payload.stored_result import decode_result, encode_result
from horsies.plugins.serializers import horsies_serializers

SERIALIZERS = horsies_serializers()


@dataclass
class Order:
    id: UUID
    lines: list[str]
    total: Decimal


def read_result(data: bytes) -> Any:
    return decode_result(data, None, SERIALIZERS)


class Code(str, enum.Enum):  # noqa: UP042 (its str() is not its text)
    BUSY = "RATE_LIMITED"


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        TaskError("MINE"),
        TaskError("MINE", "é\0", data={"a": [1, b"x", None]}),
        TaskError(TaskErrorCode.TASK_TIMEOUT, "late"),
        TaskError.caused_by(TaskErrorCode.UNHANDLED_ERROR, "m", ErrorCause("ValueError", "m", "traceback")),
    ],
)
def test_errors_come_out_as_they_went_in(error: TaskError) -> None:
    data = encode_result(Err(error), None, "", None)
    assert read_result(data) == Err(error)
    for at in range(len(data)):
        with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
            read_result(data[:at])


def test_what_an_error_says_is_kept_as_well_as_it_can_be() -> None:
    for error, kept in (
        (TaskError("MINE", "a\ud800"), TaskError("MINE", "a\\ud800")),
        (TaskError("MINE", ValueError("x")), TaskError("MINE", "x")),
        (TaskError(Code.BUSY), TaskError("RATE_LIMITED")),
    ):
        assert read_result(encode_result(Err(error), None, "", None)) == Err(kept)
    for lost in (TaskError("MINE", Unprintable()), TaskError("MINE", data=(1,)), TaskError("MINE", data=object())):
        with pytest.raises(CodecError):
            encode_result(Err(lost), None, "", None)


@pytest.mark.parametrize(
    "fields",
    [
        [2, False, "MINE", False, "", None, None],
        [1, False, "mine", False, "", None, None],
        [1, False, "TASK_TIMEOUT", False, "", None, None],
        [1, False, "NO_SUCH_CODE", True, "", None, None],
        [1, False, 5, False, "", None, None],
        [1, False, ["MINE"], False, "", None, None],
        [1, 0, "MINE", False, "", None, None],
        [1, False, "MINE", 0, "", None, None],
        [1, False, "MINE", False, 5, None, None],
        [1, False, "MINE", False, "", {1: 2}, None],
        [1, False, "MINE", False, "", {"b": 1, "a": 2}, None],
        [1, False, "MINE", False, "", 2**64 - 1, None],
        [1, False, "MINE", False, "", datetime(2024, 1, 1, tzinfo=UTC), None],
        [1, False, "MINE", False, "", msgspec.msgpack.Ext(5, b""), None],
        [1, False, "MINE", False, "", float("nan"), None],
        [1, False, "TASK_TIMEOUT", True, "", None, "abc"],
        [1, False, "TASK_TIMEOUT", True, "", None, ["a", "b"]],
        [1, False, "TASK_TIMEOUT", True, "", None, ["a", "b", 3]],
        [1, False, "MINE", False, ""],
        [1, False, "MINE", False, "", None, None, None],
        [1, True, "msgpack", b"\x01", None],
        [1, True, "msgpack"],
        [1, True, "msgpack", "\x01"],
        [1, True, "json", "1"],
        [1, True, "msgpack", b""],
        [1, True, "msgpack", b"\x91" * 100_000],
        [1, True, "msgpack", b"\xd6\xff\x00\x00\x00\x00"],
        [1, True, "pickle", b"\x01"],
        [1, True, ["msgpack"], b"\x01"],
        [1, True, {}, b"\x01"],
        [1.0, True, "msgpack", b"\x01"],
        [True, True, "msgpack", b"\x01"],
        [1, 1, "msgpack", b"\x01"],
        [1],
        [],
        {"a": 1, "b": 2, "c": 3},
        "abcd",
    ],
)
def test_what_no_worker_writes_is_refused(fields: Any) -> None:
    with pytest.raises(ValueError, match=r"result|serializer"):
        read_result(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("tag", SERIALIZERS)
def test_values_come_out_as_they_went_in(tag: str) -> None:
    codec = codec_for(Order | None)
    for value in (Order(UUID(int=1), ["a"], Decimal(1)), None):
        data = encode_result(Ok(value), codec, tag, SERIALIZERS[tag])
        assert decode_result(data, codec, SERIALIZERS) == Ok(value)
        with pytest.raises(ValueError, match="result"):
            read_result(b"\x94\xd3" + (1).to_bytes(8, "big") + data[2:])
    with pytest.raises(CodecError):
        encode_result(Ok((1,)), None, tag, SERIALIZERS[tag])


@pytest.mark.parametrize("text", ["x" * 10**6, "é" * 10**6, "€x" * 500_000], ids=["ascii", "two", "three"])
def test_long_texts_of_an_error_lose_their_middle(text: str) -> None:
    text = f"BEGIN{text}END"
    error = TaskError.caused_by(TaskErrorCode.UNHANDLED_ERROR, text, ErrorCause("ValueError", text, text))
    stored = read_result(encode_result(Err(error), None, "", None))
    assert isinstance(stored, Err)
    cause = stored.error.cause
    assert cause is not None
    for kept in (stored.error.message, cause.message, cause.traceback):
        assert len(kept.encode()) <= 64 * 1024
        assert kept.startswith("BEGIN")
        assert kept.endswith("END")
        cut = int(kept.split("\n... ")[1].split()[0])
        assert len(kept) - len(f"\n... {cut} characters were cut out here ...\n") + cut == len(text)
    # A result that is stored again, as where a task takes it as an argument, stays as it is.
    assert read_result(encode_result(stored, None, "", None)) == stored


def test_the_data_of_an_error_stays_whole_and_so_does_what_was_stored_before() -> None:
    error = TaskError("MINE", "short", data="x" * 10**6)
    assert read_result(encode_result(Err(error), None, "", None)) == Err(error)
    old = [1, False, "MINE", False, "x" * 10**6, None, None]
    assert read_result(msgspec.msgpack.encode(old)) == Err(TaskError("MINE", "x" * 10**6))
