"""`TaskSendPayload`: what a send consists of, as it is stored, replayed and proven."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from .._core.retry import RetryPolicy
from .envelope import VERSION, Envelope, decode, encode, sha_of
from .lowering import UNDECODABLE

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(tuple[int, str, bytes])


@dataclass(frozen=True)
class TaskSendPayload:
    """A send as bytes, fit to be stored anywhere and replayed by any process.

    The decoded fields are properties. They raise ValueError if the envelope cannot be read.
    """

    envelope: bytes
    """Every field that decides what runs, encoded."""
    enqueue_sha: str
    """SHA-256 of `envelope`, in lower-case hexadecimal. It proves identity, not authorship."""

    @classmethod
    def seal(cls, envelope: Envelope) -> TaskSendPayload:
        """The payload of `envelope`. Raises: ValueError, as `encode`."""
        data = encode(envelope)
        payload = cls(data, sha_of(data).hex())
        if not isinstance(envelope.retry, RetryPolicy):  # one that is written in whole microseconds is read back
            payload.__dict__["_fields"] = envelope
        return payload

    def is_intact(self) -> bool:
        """Return True if `envelope` has the SHA-256 of `enqueue_sha`."""
        return isinstance(self.envelope, bytes) and sha_of(self.envelope).hex() == self.enqueue_sha

    def to_bytes(self) -> bytes:
        """Encode the payload, so that a program can store it; `from_bytes` decodes it."""
        return _encode((VERSION, self.enqueue_sha, self.envelope))

    @classmethod
    def from_bytes(cls, data: bytes) -> TaskSendPayload:
        """Decode a payload that `to_bytes` encoded.

        Raises:
            ValueError: `data` is something else, or has been changed.
        """
        try:
            version, sha, envelope = _decoder.decode(data)
        except UNDECODABLE as error:
            raise ValueError("these bytes are no TaskSendPayload") from error
        if version != VERSION:
            raise ValueError(f"these bytes are a TaskSendPayload of version {version}, not {VERSION}")
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
        """Id of the task: a UUID in lower case."""
        return self._decoded.task_id

    @property
    def task_name(self) -> str:
        """Name that the task was declared with."""
        return self._decoded.task_name

    @property
    def queue(self) -> str:
        """Queue that the task goes to."""
        return self._decoded.queue

    @property
    def priority(self) -> int:
        """1 (first) to 100 (last)."""
        return self._decoded.priority

    @property
    def serializer(self) -> str:
        """Name of the serializer that encoded the arguments."""
        return self._decoded.serializer

    @property
    def sent_at(self) -> datetime:
        """When the task was sent, by the sender's clock, aware UTC."""
        return self._decoded.sent_at

    @property
    def delay(self) -> timedelta:
        """Time from `sent_at` to the due time; 0 for a send without delay."""
        return self._decoded.delay

    @property
    def good_until(self) -> datetime | None:
        """Last instant at which the task may begin, aware UTC; None: no limit."""
        return self._decoded.good_until

    @property
    def timeout(self) -> timedelta | None:
        """Time that user code may run; None: no limit."""
        return self._decoded.timeout

    @property
    def retry(self) -> RetryPolicy | str | None:
        """Retry policy, or the name of a registered one; None: no retries."""
        return self._decoded.retry

    @property
    def unique_key(self) -> str | None:
        """Key that at most one unfinished task of this name has; None: the task has no key."""
        return self._decoded.unique_key

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the send."""
        return dict(self._decoded.metadata)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles carry the bytes and their SHA; the fields are read from those again."""
        return type(self), (self.envelope, self.enqueue_sha)

    def __repr__(self) -> str:
        try:
            what = f"{self.task_name} {self.task_id}"
        except ValueError:
            what = "unreadable"
        return f"<TaskSendPayload {what}, sha {self.enqueue_sha[:12]}>"
