"""The bytes of envelopes and arguments are fixed for ever: published vectors, and refusal of all else."""

from __future__ import annotations

import copy
import enum
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from horsies import RetryPolicy, TaskSendPayload
from horsies._payload.envelope import Envelope, Input, Origin, decode, encode, sha_of
from horsies._payload.signature import describe
from horsies._payload.stored_result import decode_result
from horsies.plugins.serializers import horsies_serializers

DOCS = Path(__file__).parents[2] / "docs"
VECTORS = json.loads((DOCS / "test-vectors.json").read_text())
ARGUMENTS = json.loads((DOCS / "test-vectors-arguments.json").read_text())["vectors"]
SERIALIZERS = horsies_serializers()


def envelope_of(fields: dict[str, Any]) -> Envelope:
    """An envelope from the published form: instants as ISO text, durations in seconds, bytes in hex."""
    retry = fields["retry"]
    return Envelope(
        task_id=fields["task_id"],
        task_name=fields["task_name"],
        queue=fields["queue"],
        priority=fields["priority"],
        serializer=fields["serializer"],
        arguments=bytes.fromhex(fields["arguments"]),
        sent_at=datetime.fromisoformat(fields["sent_at"]),
        delay=timedelta(seconds=fields["delay"]),
        good_until=fields["good_until"] and datetime.fromisoformat(fields["good_until"]),
        timeout=None if fields["timeout"] is None else timedelta(seconds=fields["timeout"]),
        retry=RetryPolicy(tuple(retry["delays"]), retry["jitter"]) if isinstance(retry, dict) else retry,
        unique_key=fields["unique_key"],
        metadata=tuple(sorted(fields["metadata"].items())),
    )


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["about"] for vector in VECTORS])
def test_published_vectors(vector: dict[str, Any]) -> None:
    payload = TaskSendPayload.seal(envelope_of(vector["fields"]))
    assert payload.envelope.hex() == vector["envelope"]
    assert payload.enqueue_sha == vector["sha"]
    assert decode(payload.envelope) == envelope_of(vector["fields"])


def test_the_published_vectors_use_every_field() -> None:
    for name in VECTORS[0]["fields"]:
        assert len({json.dumps(vector["fields"][name]) for vector in VECTORS}) > 1


@dataclass
class Order:
    id: UUID
    lines: list[str]
    price: Decimal
    due: datetime | None = None


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize("name", SERIALIZERS)
@pytest.mark.parametrize("vector", ARGUMENTS, ids=[vector["about"] for vector in ARGUMENTS])
def test_published_vectors_of_arguments(vector: dict[str, Any], name: str) -> None:
    known = {"Any": Any, "Literal": Literal, "UTC": UTC, "timezone": timezone, "Order": Order, "Colour": Colour}
    known |= {cls.__name__: cls for cls in (date, datetime, time, timedelta, Decimal, UUID)}
    parameters = ", ".join(f"{parameter}: {annotation}" for parameter, annotation in vector["parameters"].items())
    exec(f"def task({parameters}): ...", known)
    signature = describe(known["task"], context_type=complex)
    arguments = {parameter: eval(value, known) for parameter, value in vector["arguments"].items()}
    assert signature.encode(SERIALIZERS[name], (), arguments).hex() == vector[name]
    assert signature.decode(SERIALIZERS[name], bytes.fromhex(vector[name])) == ((), arguments)


PLAIN = envelope_of(VECTORS[0]["fields"])
FULL = envelope_of(VECTORS[4]["fields"])
instants = st.datetimes(min_value=datetime(1600, 1, 1), timezones=st.just(UTC))
spans = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10_000_000))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60)
micros = st.lists(st.integers(1, 10**15), min_size=1, max_size=20)
policies = st.builds(RetryPolicy, micros.map(lambda d: tuple(micro / 1e6 for micro in d)), st.booleans())
envelopes = st.builds(
    lambda **changes: structs.replace(PLAIN, **changes),
    task_id=st.uuids().map(str),
    task_name=names,
    queue=names,
    serializer=names,
    priority=st.integers(1, 100),
    arguments=st.binary(max_size=300),
    sent_at=instants,
    delay=spans,
    good_until=st.none() | instants,
    timeout=st.none() | spans.filter(bool),
    retry=st.none() | names | policies,
    unique_key=st.none() | names,
    metadata=st.dictionaries(texts, texts).map(lambda pairs: tuple(sorted(pairs.items()))),
)


@given(envelopes, st.data())
@example(structs.replace(PLAIN, retry=RetryPolicy((10**15 / 1e6, (10**15 - 1) / 1e6))), None)
def test_what_is_encoded_is_decoded_and_nothing_else_is(envelope: Envelope, data: st.DataObject | None) -> None:
    encoded = encode(envelope)
    assert decode(encoded) == envelope
    payload = TaskSendPayload.seal(envelope)
    assert TaskSendPayload.from_bytes(payload.to_bytes()) == payload
    stored = payload.to_bytes()
    if data is None:
        return
    at = data.draw(st.integers(0, len(encoded) - 1))
    edited = replace(payload, envelope=bytes([*encoded[:at], encoded[at] ^ 1, *encoded[at + 1 :]]))
    assert not edited.is_intact()
    at = data.draw(st.integers(0, len(stored) - 1))
    for changed in (bytes([*stored[:at], stored[at] ^ 1, *stored[at + 1 :]]), stored[:at], stored + b"\0"):
        with pytest.raises(ValueError, match=r"payload|bytes|envelope|Payload"):
            TaskSendPayload.from_bytes(changed)


NESTED = [b"\x91" * 100_000, b"\x9e\x01" * 50_000, b"\x9e\x01\xa0\xa0\xa0\x01\xa0\xc4\x00" + b"\x91" * 10_000]
BOMBS = [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x93\x01\xc6\xff\xff\xff\xff"]


def read_result(data: bytes) -> Any:
    return decode_result(data, None, SERIALIZERS)


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | texts, st.lists).map(repr).map(str.encode))
@example(b"\xa7\x00\x00\x00\x00\x00\x00\x80")  # text that is no UTF-8
def test_garbage_is_a_value_error(garbage: bytes) -> None:
    for read in (decode, TaskSendPayload.from_bytes, read_result):
        with pytest.raises(ValueError, match=r"payload|bytes|envelope|Payload|result"):
            read(garbage)


@pytest.mark.parametrize("data", [*NESTED, *BOMBS, None, "text", 5, [], bytearray(b"\x90")])
def test_hostile_input_is_a_value_error(data: Any) -> None:
    for read in (decode, TaskSendPayload.from_bytes, read_result):
        with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
            read(data)


def fields_of(data: bytes) -> list[Any]:
    fields = msgspec.msgpack.decode(data)
    assert isinstance(fields, list)
    return fields


def longer(value: Any) -> bytes:
    """The same value in msgpack's longest form."""
    if isinstance(value, bool) or value is None:
        return msgspec.msgpack.encode(value)
    if isinstance(value, int):
        return b"\xd3" + value.to_bytes(8, "big", signed=True)
    if isinstance(value, str):
        return b"\xdb" + len(value.encode()).to_bytes(4, "big") + value.encode()
    if isinstance(value, bytes):
        return b"\xc6" + len(value).to_bytes(4, "big") + value
    return b"\xdd" + len(value).to_bytes(4, "big") + b"".join(map(msgspec.msgpack.encode, value))


@pytest.mark.parametrize("at", range(14))
def test_a_field_in_a_longer_form_is_another_envelope(at: int) -> None:
    fields = fields_of(encode(FULL))
    parts = [msgspec.msgpack.encode(field) for field in fields]
    assert b"\x9e" + b"".join(parts) == encode(FULL)
    parts[at] = longer(fields[at])
    with pytest.raises(ValueError, match="canonical"):
        decode(b"\x9e" + b"".join(parts))
    with pytest.raises(ValueError, match="canonical"):
        decode(b"\xdc\x00\x0e" + encode(FULL)[1:])


BEYOND = 2**63 - 1
WILD_RETRY = [
    [],
    [[], True],
    [[0], True],
    [[-1], True],
    [[1] * 21, True],
    [[1.5], True],
    [[1], 1],
    [[1]],
    [[10**16], True],
]
EDITS: list[tuple[int, Any]] = [
    *((0, version) for version in (0, 2, -1, True, None, "1", 1.0)),
    *((1, wrong) for wrong in ("", "x", PLAIN.task_id.upper(), PLAIN.task_id.replace("-", ""), 5, None)),
    *((name, wrong) for name in (2, 3, 5, 12) for wrong in ("", "a\0", "x" * 256, "é" * 128, 5, b"a", [])),
    *((4, wrong) for wrong in (0, 101, -1, True, 50.0, "50", None, BEYOND)),
    *((6, wrong) for wrong in ("a", None, [1])),
    *((7, wrong) for wrong in (BEYOND, -BEYOND, None, 1.0, "2024-01-01", True, 253_402_300_800_000_000)),
    *((8, wrong) for wrong in (-1, None, 1.0, "1", True)),
    *((9, wrong) for wrong in (BEYOND, -BEYOND, 1.5, "x")),
    *((10, wrong) for wrong in (0, -1, 1.5, "x")),
    *((11, wrong) for wrong in ("", "a\0", 5, *WILD_RETRY)),
    *((13, wrong) for wrong in (None, {}, {"a": "b"}, [["a"]], [["a", 1]], [[1, "a"]], [["a", "b", "c"]], ["ab"])),
    (13, [["b", "1"], ["a", "2"]]),
    (13, [["a", "1"], ["a", "2"]]),
    (13, [["a", "1"], ["a", "1"]]),
]


@pytest.mark.parametrize(("at", "wrong"), EDITS)
def test_fields_that_no_send_writes_are_refused(at: int, wrong: Any) -> None:
    fields = fields_of(encode(FULL))
    fields[at] = wrong
    data = msgspec.msgpack.encode(fields)
    with pytest.raises(ValueError, match="envelope"):
        decode(data)
    with pytest.raises(ValueError, match="envelope"):
        TaskSendPayload.from_bytes(msgspec.msgpack.encode((1, sha_of(data).hex(), data)))


def test_more_or_fewer_fields_are_refused() -> None:
    fields = fields_of(encode(FULL))
    for changed in (fields[:-1], [*fields, None], fields * 2, dict(enumerate(fields)), []):
        with pytest.raises(ValueError, match="envelope"):
            decode(msgspec.msgpack.encode(changed))
    with pytest.raises(ValueError, match="version 2"):
        decode(msgspec.msgpack.encode([2, *fields[1:]]))


def test_a_payload_is_exactly_what_to_bytes_wrote() -> None:
    payload = TaskSendPayload.seal(FULL)
    one = (1, payload.enqueue_sha, payload.envelope)
    assert msgspec.msgpack.encode(one) == payload.to_bytes()
    for changed in (
        (2, *one[1:]),
        (1, payload.enqueue_sha.upper(), payload.envelope),
        (1, payload.enqueue_sha, payload.enqueue_sha),
        (1, bytes.fromhex(payload.enqueue_sha), payload.envelope),
        (*one, None),
        one[:2],
    ):
        with pytest.raises(ValueError, match=r"payload|Payload"):
            TaskSendPayload.from_bytes(msgspec.msgpack.encode(changed))
    with pytest.raises(ValueError, match=r"payload|Payload"):
        TaskSendPayload.from_bytes(b"\x93\x01" + longer(one[1]) + msgspec.msgpack.encode(one[2]))


@pytest.mark.parametrize(
    "changes",
    [
        *({name: text} for name in ("task_name", "queue", "serializer") for text in ("", "a\0", "é" * 128, "\ud800")),
        *({name: text} for name in ("unique_key", "retry") for text in ("", "a\0", "é" * 128, "\ud800")),
        *({"metadata": pair} for pair in ((("\ud800", ""),), (("", "\ud800"),), (("a", "1"), ("a", "2")))),
        *({"retry": RetryPolicy((delay,))} for delay in (1e-7, 1e300, 1e10)),
        *({"delay": span} for span in (timedelta(microseconds=-1), timedelta.max, timedelta.min)),
        *({"timeout": span} for span in (timedelta(0), timedelta(-1), timedelta.max)),
        *({"sent_at": at} for at in (datetime(2024, 1, 1), None, 5)),
        *({"good_until": at} for at in (datetime(2024, 1, 1), 5)),
        *({"priority": priority} for priority in (0, 101, True, 50.0)),
        *({"task_id": task_id} for task_id in ("", "x", PLAIN.task_id.upper())),
        {"arguments": object()},
    ],
)
def test_what_cannot_be_stored_is_not_sealed(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
        TaskSendPayload.seal(structs.replace(PLAIN, **changes))


@pytest.mark.parametrize("policy", [RetryPolicy((0.123_456_7,)), RetryPolicy((1,), jitter=1), RetryPolicy((1e-6, 3))])
def test_a_policy_is_the_same_before_and_after_it_is_stored(policy: RetryPolicy) -> None:
    payload = TaskSendPayload.seal(structs.replace(PLAIN, retry=policy))
    stored = TaskSendPayload.from_bytes(payload.to_bytes())
    assert payload.retry == stored.retry
    assert repr(payload.retry) == repr(stored.retry)


class TestPayloadAsAValue:
    payload = TaskSendPayload.seal(
        structs.replace(FULL, arguments=b"hunter2", unique_key="hunter2", metadata=(("a", "hunter2"),))
    )

    def test_its_repr_shows_no_arguments(self) -> None:
        for payload in (self.payload, TaskSendPayload.from_bytes(self.payload.to_bytes())):
            assert "hunter2" not in repr(payload)
            assert FULL.task_id in repr(payload)
        assert "hunter2" not in repr(structs.replace(FULL, arguments=b"hunter2"))
        assert "unreadable" in repr(replace(self.payload, envelope=b"x"))

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda payload: pickle.loads(pickle.dumps(payload))])
    def test_copies_and_pickles_are_equal(self, again: Callable[[TaskSendPayload], TaskSendPayload]) -> None:
        for payload in (self.payload, TaskSendPayload.from_bytes(self.payload.to_bytes())):
            twin = again(payload)
            assert twin == payload
            assert hash(twin) == hash(payload)
            assert len({twin, payload}) == 1
            assert twin.metadata == payload.metadata
            assert repr(twin) == repr(payload)

    def test_another_is_not_equal(self) -> None:
        assert self.payload != TaskSendPayload.seal(PLAIN)
        assert self.payload != replace(self.payload, enqueue_sha="0" * 64)
        assert self.payload != self.payload.envelope

    def test_a_replacement_is_read_anew(self) -> None:
        assert replace(self.payload, envelope=encode(PLAIN)).task_name == PLAIN.task_name

    @pytest.mark.parametrize("name", [*FULL.__struct_fields__, "enqueue_sha", "envelope"])
    def test_nothing_of_it_can_be_changed(self, name: str) -> None:
        if name not in ("arguments", "origin"):
            with pytest.raises((FrozenInstanceError, AttributeError)):
                setattr(self.payload, name, getattr(self.payload, name))
        self.payload.metadata["a"] = "changed"
        assert self.payload.metadata == {"a": "hunter2"}

    def test_its_fields_are_those_of_the_envelope(self) -> None:
        for payload in (self.payload, TaskSendPayload.from_bytes(self.payload.to_bytes())):
            for name in set(FULL.__struct_fields__) - {"arguments", "metadata", "origin"}:
                assert getattr(payload, name) == getattr(decode(payload.envelope), name)

    @pytest.mark.parametrize("envelope", ["text", None, 5, bytearray(b"x")])
    def test_one_of_other_types_is_not_intact(self, envelope: Any) -> None:
        assert not TaskSendPayload(envelope, "0" * 64).is_intact()


class TestOfAWorkflow:
    ID, OTHER = "01a21514-d1a3-7153-b923-c19a554eccfe", "01a21514-d1a3-7153-b923-c19a554eccff"
    INPUTS = (Input("a", OTHER, False), Input("b", ID, True, True))
    NODE = structs.replace(FULL, origin=Origin(ID, 3, 2, INPUTS, "pay", (Input("n", ID, True),)))

    def test_round_trip(self) -> None:
        assert decode(encode(self.NODE)) == self.NODE
        assert encode(self.NODE)[1] == 2
        assert encode(structs.replace(self.NODE, origin=None)) == encode(FULL)

    def test_inputs_are_sorted(self) -> None:
        origin = self.NODE.origin
        assert origin is not None
        turned = structs.replace(origin, inputs=origin.inputs[::-1])
        assert encode(structs.replace(self.NODE, origin=turned)) == encode(self.NODE)

    @pytest.mark.parametrize(
        "origin",
        [
            Origin("x", 0, 1, (), "n"),
            Origin(ID, -1, 1, (), "n"),
            Origin(ID, 0, 0, (), "n"),
            Origin(ID, 0, 1, (), ""),
            Origin(ID, 0, 1, (), "n", (Input("a", "x", True),)),
            Origin(ID, 0, 1, (Input("a", "x", True),), "n"),
        ],
    )
    def test_what_is_no_node_is_refused(self, origin: Origin) -> None:
        with pytest.raises(ValueError, match="no node of a workflow"):
            encode(structs.replace(self.NODE, origin=origin))

    def test_other_bytes_are_refused(self) -> None:
        fields = msgspec.msgpack.decode(encode(self.NODE))
        *plain, origin = fields
        wrong = [
            [1, *fields[1:]],  # an origin in version 1
            [2, *plain[1:]],  # and none in version 2
            [*plain, [*origin[:3], origin[3][::-1], *origin[4:]]],
            [*plain, [*origin[:3], [origin[3][0]] * 2, *origin[4:]]],
            [*plain, [*origin, 1]],
            [*fields, 1],
        ]
        for one in wrong:
            with pytest.raises(ValueError, match="envelope"):
                decode(msgspec.msgpack.encode(one))
