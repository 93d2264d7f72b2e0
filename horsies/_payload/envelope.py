"""The envelope: every field that decides what runs, as one canonical string of bytes.

Equal fields give equal bytes, in every process and on every platform: it is a msgpack array in a fixed order, with
integers in their shortest form, instants and durations as integer microseconds, and metadata sorted. The SHA-256 of
exactly these bytes is what a replay is proven by; see `docs/test-vectors.json`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from .._core.errors import HorsiesError
from .._core.retry import RetryPolicy
from .ids import is_task_id

VERSION = 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What a send consists of. `retry` is a policy, or the name of a registered one; `metadata` is sorted."""

    task_id: str
    task_name: str
    queue: str
    priority: int
    serializer: str
    arguments: bytes
    sent_at: datetime
    delay: timedelta
    good_until: datetime | None
    timeout: timedelta | None
    retry: RetryPolicy | str | None
    unique_key: str | None
    metadata: tuple[tuple[str, str], ...]


def encode(envelope: Envelope) -> bytes:
    """The canonical bytes of `envelope`.

    Raises:
        ValueError: a field cannot be written: text that is no Unicode, or an instant out of range.
    """
    e = envelope
    return _encoder.encode(
        (
            VERSION,
            e.task_id,
            e.task_name,
            e.queue,
            e.priority,
            e.serializer,
            e.arguments,
            _instant(e.sent_at),
            e.delay // _MICROSECOND,
            None if e.good_until is None else _instant(e.good_until),
            None if e.timeout is None else e.timeout // _MICROSECOND,
            _retry(e.retry),
            e.unique_key,
            sorted(e.metadata),
        )
    )


def decode(data: bytes) -> Envelope:
    """The envelope that `encode` made `data` of.

    Raises:
        ValueError: `data` is not exactly what this version's `encode` writes.
    """
    try:
        fields = _decoder.decode(data)
        version = fields[0] if isinstance(fields, list) and fields else None
        if version != VERSION:
            raise ValueError(f"the envelope is of version {version!r}, not {VERSION}" if fields else "no envelope")
        envelope = _envelope_of(*fields[1:])
        if encode(envelope) == data:
            return envelope
    except (msgspec.MsgspecError, UnicodeError, TypeError, AttributeError, OverflowError, HorsiesError) as error:
        raise ValueError("the bytes are no envelope") from error
    raise ValueError("the bytes are no canonical envelope")


def sha_of(data: bytes) -> bytes:
    """The SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def _envelope_of(
    task_id: str,
    task_name: str,
    queue: str,
    priority: int,
    serializer: str,
    arguments: bytes,
    sent_at: int,
    delay: int,
    good_until: int | None,
    timeout: int | None,
    retry: Any,
    unique_key: str | None,
    metadata: list[list[str]],
) -> Envelope:
    if not is_task_id(task_id):
        raise ValueError("the envelope's task id is no UUID")
    if not all(isinstance(text, str) for text in (task_name, queue, serializer)) or type(priority) is not int:
        raise TypeError("fields of other types")
    if not isinstance(arguments, bytes) or not all(isinstance(text, str) for pair in metadata for text in pair):
        raise TypeError("fields of other types")
    return Envelope(
        task_id=task_id,
        task_name=task_name,
        queue=queue,
        priority=priority,
        serializer=serializer,
        arguments=arguments,
        sent_at=_EPOCH + timedelta(microseconds=sent_at),
        delay=timedelta(microseconds=delay),
        good_until=None if good_until is None else _EPOCH + timedelta(microseconds=good_until),
        timeout=None if timeout is None else timedelta(microseconds=timeout),
        retry=_retry_of(retry),
        unique_key=unique_key,
        metadata=tuple((key, value) for key, value in metadata),
    )


def _instant(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _retry(retry: RetryPolicy | str | None) -> Any:
    if not isinstance(retry, RetryPolicy):
        return retry
    return ([round(delay * 1_000_000) for delay in retry.delays], retry.jitter)


def _retry_of(data: Any) -> RetryPolicy | str | None:
    if data is None or isinstance(data, str):
        return data
    delays, jitter = data
    return RetryPolicy(tuple(delay / 1_000_000 for delay in delays), bool(jitter))


@dataclass(frozen=True)
class TaskSendPayload:
    """What a send consists of, fit to be stored anywhere and replayed by any process.

    Attributes:
        envelope: every field that decides what runs.
        enqueue_sha: lower-case hex SHA-256 of `envelope`. It proves identity, not authorship.

    The decoded fields are read-only properties; they raise ValueError when the envelope cannot be read.
    """

    envelope: bytes
    enqueue_sha: str

    @classmethod
    def seal(cls, envelope: Envelope) -> TaskSendPayload:
        """The payload of `envelope`. Raises: ValueError, as `encode`."""
        data = encode(envelope)
        payload = cls(data, sha_of(data).hex())
        payload.__dict__["_fields"] = envelope
        return payload

    def is_intact(self) -> bool:
        """Whether the bytes are those that the SHA was made of."""
        return sha_of(self.envelope).hex() == self.enqueue_sha

    def to_bytes(self) -> bytes:
        """For storing; `from_bytes` reads it."""
        return _encoder.encode((VERSION, self.enqueue_sha, self.envelope))

    @classmethod
    def from_bytes(cls, data: bytes) -> TaskSendPayload:
        """The payload that `to_bytes` wrote.

        Raises:
            ValueError: `data` is something else, or has been changed.
        """
        try:
            version, sha, envelope = _decoder.decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise ValueError("these bytes are no TaskSendPayload") from error
        if version != VERSION or not isinstance(sha, str) or not isinstance(envelope, bytes):
            raise ValueError("these bytes are no TaskSendPayload of this version")
        payload = cls(envelope, sha)
        if not payload.is_intact() or payload.to_bytes() != data:
            raise ValueError("the payload has been changed: its SHA does not match its bytes")
        decode(envelope)
        return payload

    @property
    def _decoded(self) -> Envelope:
        cached: Envelope | None = self.__dict__.get("_fields")
        if cached is None:
            cached = self.__dict__["_fields"] = decode(self.envelope)
        return cached

    @property
    def task_id(self) -> str:
        return self._decoded.task_id

    @property
    def task_name(self) -> str:
        return self._decoded.task_name

    @property
    def queue(self) -> str:
        return self._decoded.queue

    @property
    def priority(self) -> int:
        return self._decoded.priority

    @property
    def serializer(self) -> str:
        return self._decoded.serializer

    @property
    def sent_at(self) -> datetime:
        """By the sender's clock, aware UTC."""
        return self._decoded.sent_at

    @property
    def delay(self) -> timedelta:
        return self._decoded.delay

    @property
    def good_until(self) -> datetime | None:
        return self._decoded.good_until

    @property
    def timeout(self) -> timedelta | None:
        return self._decoded.timeout

    @property
    def retry(self) -> RetryPolicy | str | None:
        return self._decoded.retry

    @property
    def unique_key(self) -> str | None:
        return self._decoded.unique_key

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self._decoded.metadata)

    def __repr__(self) -> str:
        try:
            what = f"{self.task_name} {self.task_id}"
        except ValueError:
            what = "unreadable"
        return f"<TaskSendPayload {what}, sha {self.enqueue_sha[:12]}>"
