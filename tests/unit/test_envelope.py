"""The envelope's bytes are fixed for ever: published vectors, and refusal of everything else."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from horsies import RetryPolicy, TaskSendPayload
from horsies._payload.envelope import Envelope, decode, encode

VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "test-vectors.json").read_text())


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


PLAIN = envelope_of(VECTORS[0]["fields"])
instants = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9000, 1, 1), timezones=st.just(UTC))
spans = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=10_000))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(
    st.builds(
        lambda **changes: replace(PLAIN, **changes),
        task_name=texts,
        queue=texts,
        priority=st.integers(1, 100),
        arguments=st.binary(max_size=300),
        sent_at=instants,
        delay=spans,
        good_until=st.none() | instants,
        timeout=st.none() | spans,
        retry=st.none() | texts | st.just(RetryPolicy.fixed([0.000_001, 86_400.5])),
        unique_key=st.none() | texts,
        metadata=st.dictionaries(texts, texts).map(lambda pairs: tuple(sorted(pairs.items()))),
    ),
    st.data(),
)
def test_what_is_encoded_is_decoded_and_nothing_else_is(envelope: Envelope, data: st.DataObject) -> None:
    encoded = encode(envelope)
    assert decode(encoded) == envelope
    payload = TaskSendPayload.seal(envelope)
    assert TaskSendPayload.from_bytes(payload.to_bytes()) == payload
    at = data.draw(st.integers(0, len(encoded) - 1))
    edited = replace(payload, envelope=bytes([*encoded[:at], encoded[at] ^ 1, *encoded[at + 1 :]]))
    assert not edited.is_intact()
    stored = payload.to_bytes()
    with pytest.raises(ValueError, match=r"payload|bytes|envelope"):
        TaskSendPayload.from_bytes(stored[:-1] + bytes([stored[-1] ^ 1]))


@given(st.binary(max_size=200))
@example(b"\xa7\x00\x00\x00\x00\x00\x00\x80")  # text that is no UTF-8
def test_garbage_is_a_value_error(garbage: bytes) -> None:
    for read in (decode, TaskSendPayload.from_bytes):
        with pytest.raises(ValueError, match=r"payload|bytes|envelope"):
            read(garbage)


def test_the_repr_shows_no_arguments() -> None:
    payload = TaskSendPayload.seal(replace(PLAIN, arguments=b"hunter2"))
    assert "hunter2" not in repr(payload)
    assert PLAIN.task_id in repr(payload)
    assert "unreadable" in repr(replace(payload, envelope=b"x"))
