"""The start of a workflow as bytes: what is replayed when an answer was lost, and proven by its SHA-256."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from .._core.instants import instant_of, micros_of
from .lowering import UNDECODABLE

_FORMAT, _ARGUMENTS = 1, "arguments"
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(tuple[int, str, bytes, str, int, bytes, int, int | None])

_stored = msgspec.msgpack.Decoder(tuple[int, str, bytes])


def arguments_sha(name: str, version: int, arguments: dict[str, Any], good_until: datetime | None) -> bytes:
    """What tells one start of a registered workflow from another under the same id.

    Args:
        arguments: plain builtins, by the names of the parameters.
    """
    deadline = None if good_until is None else micros_of(good_until)
    return hashlib.sha256(_encode((_ARGUMENTS, name, version, dict(sorted(arguments.items())), deadline))).digest()


@dataclass(frozen=True, repr=False)
class WorkflowStartPayload:
    """A start that failed, as `retry_start` replays it. Its bytes hold arguments; its repr does not.

    The decoded fields are properties. They raise ValueError if the bytes cannot be read.
    """

    data: bytes
    """The start, encoded."""
    start_sha: str
    """SHA-256 of `data`, in lower-case hexadecimal."""

    @classmethod
    def seal(
        cls,
        workflow_id: str,
        sha: bytes,
        name: str,
        version: int,
        spec: bytes,
        sent_at: datetime,
        good_until: datetime | None,
    ) -> WorkflowStartPayload:
        """The payload of one start."""
        deadline = None if good_until is None else micros_of(good_until)
        data = _encode((_FORMAT, workflow_id, sha, name, version, spec, micros_of(sent_at), deadline))
        return cls(data, hashlib.sha256(data).hexdigest())

    def is_intact(self) -> bool:
        """Return True if `data` has the SHA-256 of `start_sha`."""
        return hashlib.sha256(self.data).hexdigest() == self.start_sha

    def to_bytes(self) -> bytes:
        """Encode the payload, so that a program can store it; `from_bytes` decodes it."""
        return _encode((_FORMAT, self.start_sha, self.data))

    @classmethod
    def from_bytes(cls, data: bytes) -> WorkflowStartPayload:
        """Decode a payload that `to_bytes` encoded.

        Raises:
            ValueError: `data` is something else, or has been changed.
        """
        try:
            version, sha, start = _stored.decode(data)
        except UNDECODABLE as error:
            raise ValueError("these bytes are no WorkflowStartPayload") from error
        payload = cls(start, sha)
        if version != _FORMAT or not payload.is_intact() or payload.to_bytes() != data:
            raise ValueError("the payload has been changed, or is of another version")
        payload._fields()
        return payload

    def _fields(self) -> tuple[int, str, bytes, str, int, bytes, int, int | None]:
        """Raises: ValueError, the bytes cannot be read."""
        try:
            fields = _decoder.decode(self.data)
        except UNDECODABLE as error:
            raise ValueError("the payload is no start of a workflow") from error
        if fields[0] != _FORMAT:
            raise ValueError(f"the payload is of format {fields[0]}, not {_FORMAT}")
        return fields

    @property
    def workflow_id(self) -> str:
        """Id of the workflow: a UUID in lower case."""
        return self._fields()[1]

    @property
    def sha(self) -> bytes:
        """SHA-256 that tells this start from another one with the same id."""
        return self._fields()[2]

    @property
    def name(self) -> str:
        """Name that the workflow was declared with."""
        return self._fields()[3]

    @property
    def version(self) -> int:
        """Version of the definition, from 1."""
        return self._fields()[4]

    @property
    def spec(self) -> bytes:
        """Nodes and arguments of the workflow, encoded."""
        return self._fields()[5]

    @property
    def sent_at(self) -> datetime:
        """When the workflow was started, by the caller's clock, aware UTC."""
        return _read_instant(self._fields()[6])

    @property
    def good_until(self) -> datetime | None:
        """Deadline of the workflow, aware UTC; None: it has none."""
        deadline = self._fields()[7]
        return None if deadline is None else _read_instant(deadline)

    def __repr__(self) -> str:
        try:
            what = f"{self.name} {self.workflow_id}"
        except ValueError:
            what = "unreadable"
        return f"<WorkflowStartPayload {what}, sha {self.start_sha[:12]}>"


def _read_instant(micros: int) -> datetime:
    try:
        return instant_of(micros)
    except OverflowError:
        raise ValueError("the payload has an instant that is beyond the calendar") from None
