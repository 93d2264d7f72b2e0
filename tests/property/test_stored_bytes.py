"""Stored bytes that were never written: each decoder answers with its documented error, however they are nested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horsies import AppConfig, Err, Horsies, Ok, TaskError, TaskSendPayload, WorkflowBuilder, WorkflowStartPayload
from horsies._core.status import NodeStatus, WorkflowStatus
from horsies._payload import envelope
from horsies._payload import stored_result as result
from horsies._payload.codec import codec_for
from horsies._payload.signature import ArgumentError, CorruptError
from horsies._workflow.advance.engine import NodeEnded
from horsies._workflow.advance.state import State
from horsies._workflow.advance.stored_workflow import encode_state, read_state
from horsies._workflow.advance.transition import _encode_signal, _read_signal
from horsies._workflow.definition import spec
from horsies._workflow.definition.validate import resolve
from horsies.plugins.serializers import JsonSerializer, MsgpackSerializer

pytestmark = pytest.mark.timeout(120)

SERIALIZERS: Mapping[str, Any] = {"msgpack": MsgpackSerializer(), "json": JsonSerializer()}
NOW = datetime(2026, 3, 1, tzinfo=UTC)
pack = msgspec.msgpack.Encoder().encode

app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))


@app.task
def take(value: Any, names: list[str], deep: dict[str, list[dict[str, Any]]]) -> None: ...


def one_node() -> bytes:
    builder = WorkflowBuilder("one")
    builder.task(take.node(1, ["a"], {"b": []}))
    return spec.encode(resolve(builder.build(), app))


@dataclass(frozen=True)
class Reader:
    """A decoder, something that it reads, and what else it may raise."""

    read: Callable[[bytes], object]
    data: bytes
    errors: tuple[type[Exception], ...] = (ValueError,)


ENVELOPE = envelope.encode(
    envelope.Envelope(
        task_id="018f3a3e-0000-7000-8000-000000000001",
        task_name="take",
        queue="default",
        priority=50,
        serializer="msgpack",
        arguments=pack({"value": 1}),
        sent_at=NOW,
        delay=timedelta(0),
        good_until=None,
        timeout=None,
        retry=None,
        unique_key=None,
        metadata=(),
    )
)
STATE = State(WorkflowStatus.RUNNING, [NodeStatus.ENQUEUED], [0], [0], [0], 1, {})
START = WorkflowStartPayload.seal("018f3a3e-0000-7000-8000-000000000002", b"s" * 32, "one", 1, one_node(), NOW, None)
PAYLOAD = TaskSendPayload(ENVELOPE, envelope.sha_of(ENVELOPE).hex())
VALUE = result.encode_result(Ok([1, "a"]), None, "msgpack", SERIALIZERS["msgpack"])
ERROR = result.encode_result(Err(TaskError("SOLD_OUT", "no more", data={"left": 0})), None, "", None)


def arguments(name: str, fields: dict[str, Any]) -> Reader:
    serializer = SERIALIZERS[name]

    def read(data: bytes) -> object:
        return take.signature.decode(serializer, data)

    return Reader(read, serializer.dumps(fields), (ArgumentError, CorruptError))


READERS = {
    "envelope": Reader(envelope.decode, ENVELOPE),
    "send payload": Reader(TaskSendPayload.from_bytes, PAYLOAD.to_bytes()),
    "start payload": Reader(WorkflowStartPayload.from_bytes, START.to_bytes()),
    "value": Reader(lambda data: result.decode_result(data, None, SERIALIZERS), VALUE),
    "typed value": Reader(lambda data: result.decode_result(data, codec_for(list[Any]), SERIALIZERS), VALUE),
    "error": Reader(lambda data: result.decode_result(data, None, {}), ERROR),
    "spec": Reader(spec.decode, one_node()),
    "state": Reader(read_state, encode_state(STATE)),
    "signal": Reader(_read_signal, _encode_signal(NodeEnded(0, 0, True))),
    "arguments": arguments("msgpack", {"value": 1, "names": ["a"], "deep": {"b": []}}),
    "arguments in JSON": arguments("json", {"value": 1, "names": ["a"], "deep": {"b": []}}),
}
each = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)

DEPTHS = (1, 3, 199, 200, 201, 202, 400, 900, 1_000, 1_024, 5_000, 100_000)
FORMS = {
    "lists": (b"\x91", b"\xc0"),
    "long lists": (b"\xdd\x00\x00\x00\x01", b"\xc0"),
    "maps": (b"\x81\xa1a", b"\xc0"),
    "maps as keys": (b"\x81", b"\xc0\xc0"),
    "lists without an end": (b"\x91", b""),
    "JSON lists": (b"[", b"1"),
    "JSON maps": (b'{"a":', b"1"),
    "JSON bytes": (b'{"$bytes":', b'"YQ=="'),
}


def nested(form: str, depth: int) -> bytes:
    begin, inner = FORMS[form]
    end = {b"[": b"]", b"{": b"}"}.get(begin[:1], b"")
    return begin * depth + inner + end * depth


def check(reader: Reader, data: bytes) -> None:
    with suppress(*reader.errors):
        reader.read(data)


@each
def test_what_was_written_is_read(reader: Reader) -> None:
    reader.read(reader.data)


@each
@pytest.mark.parametrize("form", FORMS)
def test_deep_nesting(reader: Reader, form: str) -> None:
    for depth in DEPTHS:
        check(reader, nested(form, depth))


def sealed_again(reader: Reader, data: bytes) -> bytes:
    """A payload with the SHA of what it holds now, so that its inside is looked at, too."""
    if reader is READERS["send payload"]:
        return TaskSendPayload(data, envelope.sha_of(data).hex()).to_bytes()
    if reader is READERS["start payload"]:
        return WorkflowStartPayload(data, envelope.sha_of(data).hex()).to_bytes()
    return data


def inside(reader: Reader) -> bytes:
    return {id(READERS["send payload"]): ENVELOPE, id(READERS["start payload"]): START.data}.get(
        id(reader), reader.data
    )


def with_field(data: bytes, number: int, field: bytes) -> bytes:
    """`data` with one of its fields replaced."""
    kind = dict[str, msgspec.Raw] if 0x80 <= data[0] <= 0x8F else list[msgspec.Raw]
    fields: Any = msgspec.msgpack.decode(data, type=kind)
    place = list(fields)[number % len(fields)] if isinstance(fields, dict) else number % len(fields)
    fields[place] = msgspec.Raw(field)
    return pack(fields)


@each
def test_deep_nesting_in_a_field(reader: Reader) -> None:
    data = inside(reader)
    if data[:1] == b"{":
        pytest.skip("JSON, which the arguments of the next test hold")
    for number in range(16):
        for form in ("lists", "maps", "maps as keys"):
            for depth in DEPTHS[:-1]:
                check(reader, sealed_again(reader, with_field(data, number, nested(form, depth))))


@pytest.mark.parametrize("name", ["value", "names", "deep"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_deep_nesting_in_arguments_of_json(name: str, depth: int) -> None:
    for form in ("JSON lists", "JSON maps", "JSON bytes"):
        fields = {"value": b"1", "names": b"[]", "deep": b"{}", name: nested(form, depth)}
        check(
            READERS["arguments in JSON"], b"{%s}" % b",".join(b'"%s":%s' % (k.encode(), v) for k, v in fields.items())
        )


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(-9, 9), inner, max_size=4),
    max_leaves=12,
)


@each
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_other_bytes(reader: Reader, data: st.DataObject) -> None:
    whole = inside(reader)
    kind = data.draw(st.sampled_from(["bytes", "value", "changed", "cut", "field", "not UTF-8"]))
    match kind:
        case "bytes":
            given_bytes = data.draw(st.binary(max_size=60))
        case "value":
            given_bytes = pack(data.draw(plain))
        case "cut":
            given_bytes = whole[: data.draw(st.integers(0, len(whole)))] + data.draw(st.binary(max_size=3))
        case "field" if whole[:1] != b"{":
            given_bytes = with_field(whole, data.draw(st.integers(0, 15)), pack(data.draw(plain)))
        case "not UTF-8" if whole[:1] != b"{":
            given_bytes = with_field(whole, data.draw(st.integers(0, 15)), b"\xa2\xff\xfe")
        case _:
            place = data.draw(st.integers(0, len(whole) - 1))
            given_bytes = whole[:place] + bytes([data.draw(st.integers(0, 255))]) + whole[place + 1 :]
    check(reader, given_bytes)
    check(reader, sealed_again(reader, given_bytes))
