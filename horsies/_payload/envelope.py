"""The envelope: every field that decides what runs, as one canonical string of bytes.

Equal fields give equal bytes, in every process and on every platform: it is a msgpack array in a fixed order, with
integers in their shortest form, instants and durations as integer microseconds, and metadata sorted. The SHA-256 of
exactly these bytes is what a replay is proven by; see `docs/test-vectors.json`.

What cannot be stored or run is no envelope: it is refused when it is written, and when it is read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from types import GenericAlias
from typing import Any, TypeAlias, get_args

import msgspec

from .._core.errors import HorsiesError
from .._core.instants import instant_of, micros_of
from .._core.names import is_name, is_priority, is_task_id
from .._core.retry import RetryPolicy

VERSION = 1
OF_A_WORKFLOW = 2
"""The version of what also has an origin; everything else is written as ever."""

_ZERO, _MICROSECOND = timedelta(0), timedelta(microseconds=1)
_LONGEST_RETRY = 10**15
"""Microseconds, some 30 years: up to here a float of seconds names each of them."""

_Retry: TypeAlias = tuple[list[int], bool]
_Fields: TypeAlias = tuple[
    int,  # version
    str,  # task id
    str,  # task name
    str,  # queue
    int,  # priority
    str,  # serializer
    bytes,  # arguments
    int,  # sent at
    int,  # delay
    int | None,  # good until
    int | None,  # timeout
    str | _Retry | None,
    str | None,  # unique key
    list[tuple[str, str]],  # metadata
]
_Input: TypeAlias = tuple[str, str, bool, bool]
"""Parameter, task id, whether it takes the whole result, whether of a workflow."""
_Origin: TypeAlias = tuple[
    str,  # workflow id
    int,  # node
    int,  # run
    list[_Input],
    str,  # node id
    list[_Input],  # for the context
]
_is_known_name = lru_cache(maxsize=1024)(is_name)
"""For names that come again with every task."""
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Fields)
_node_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    GenericAlias(tuple, (*get_args(_Fields), _Origin))
)
_ARRAY_OF_15 = b"\x9f"
"""How the bytes of an envelope with an origin begin."""


class Input(msgspec.Struct, frozen=True):
    """An argument that the task gets from another one when it begins: its value, or with `as_result` its `Result`.

    With `of_workflow` it comes from a workflow, and `task_id` is the id of that.
    """

    parameter: str
    task_id: str
    as_result: bool
    of_workflow: bool = False


class Origin(msgspec.Struct, frozen=True):
    """The node of a workflow that a task runs for: its index, its id, and which run of it.

    `inputs` and `context` are sorted. What is in `context` goes into the task's context, under a node's id.
    """

    workflow_id: str
    node: int
    run: int
    inputs: tuple[Input, ...]
    node_id: str
    context: tuple[Input, ...] = ()


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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
    origin: Origin | None = None

    def __repr__(self) -> str:
        return f"<Envelope of {self.task_name} {self.task_id}>"


def encode(envelope: Envelope) -> bytes:
    """The canonical bytes of `envelope`.

    Raises:
        ValueError: a field cannot be written or stored: text that is no Unicode, a name with NUL, a delay below 0.
    """
    problem = _problem_with(envelope)
    if problem is not None:
        raise ValueError(problem)
    e = envelope
    origin = () if e.origin is None else (_origin_data(e.origin),)
    try:
        return _encoder.encode(
            (
                OF_A_WORKFLOW if origin else VERSION,
                e.task_id,
                e.task_name,
                e.queue,
                e.priority,
                e.serializer,
                e.arguments,
                micros_of(e.sent_at),
                e.delay // _MICROSECOND if e.delay else 0,
                None if e.good_until is None else micros_of(e.good_until),
                None if e.timeout is None else e.timeout // _MICROSECOND,
                stored_retry(e.retry),
                e.unique_key,
                sorted(e.metadata),
                *origin,
            )
        )
    except (OverflowError, TypeError) as error:
        raise ValueError("a field of the envelope is out of range") from error


class UnknownVersionError(ValueError):
    """An envelope of a version that this horsies does not read. Another worker may."""


def decode(data: bytes) -> Envelope:
    """The envelope that `encode` made `data` of.

    Raises:
        UnknownVersionError: a newer version of horsies wrote `data`.
        ValueError: `data` is not exactly what this version's `encode` writes.
    """
    known = VERSION
    try:
        if data[:1] == _ARRAY_OF_15:
            known = OF_A_WORKFLOW
            fields = _node_decoder.decode(data)
            envelope = _envelope_of(fields[:-1], _origin_of(*fields[-1]))
        else:
            fields = _decoder.decode(data)
            envelope = _envelope_of(fields, None)
        if fields[0] != known:
            raise _unreadable(data)
        is_canonical = _encoder.encode(fields) == data and _is_read_in_full(fields, envelope)
    except (msgspec.MsgspecError, UnicodeError, TypeError, OverflowError, RecursionError, HorsiesError) as error:
        raise _unreadable(data) from error
    if not is_canonical:
        raise ValueError("the bytes are no canonical envelope")
    problem = _problem_with(envelope)
    if problem is not None:
        raise ValueError(problem)
    return envelope


def _unreadable(data: bytes) -> ValueError:
    """The error for bytes that are no envelope of a version that is read here."""
    version = _version_of(data)
    if version > OF_A_WORKFLOW:
        what = f"the envelope is of version {version}, and this horsies reads up to {OF_A_WORKFLOW}"
        return UnknownVersionError(what)
    return ValueError(f"the bytes are no envelope of version {version or VERSION}")


def _version_of(data: bytes) -> int:
    """The version that `data` begins with, of an array of any length; 0 for other bytes."""
    head = data[0] if isinstance(data, bytes) and data else 0
    at = 1 if 0x90 <= head <= 0x9F else 3 if head == 0xDC else 0
    return data[at] if 0 < at < len(data) and data[at] < 0x80 else 0


def sha_of(data: bytes) -> bytes:
    """The SHA-256 of `data`, 32 bytes."""
    return hashlib.sha256(data).digest()


def _is_read_in_full(fields: Sequence[Any], envelope: Envelope) -> bool:
    """Whether `envelope` says all that `fields` do, where its form is another: it would be written just so."""
    retry, metadata = fields[11], fields[13]
    origin = envelope.origin
    in_order = origin is None or all(
        one.parameter < other.parameter for inputs in (origin.inputs, origin.context) for one, other in pairwise(inputs)
    )
    return in_order and stored_retry(envelope.retry) == retry and (not metadata or sorted(metadata) == metadata)


def _problem_with(envelope: Envelope) -> str | None:
    e = envelope
    if not is_task_id(e.task_id):
        return "the envelope's task id is no UUID"
    if not (_is_known_name(e.task_name) and _is_known_name(e.queue) and _is_known_name(e.serializer)):
        return "the envelope's names are not all 1..255 bytes of Unicode without NUL"
    if not (e.unique_key is None or is_name(e.unique_key)):
        return "the envelope's unique key is not 1..255 bytes of Unicode without NUL"
    if not (e.retry is None or isinstance(e.retry, RetryPolicy) or is_name(e.retry)):
        return "the envelope's retry policy has a name that is not 1..255 bytes of Unicode without NUL"
    if not is_priority(e.priority):
        return "the envelope's priority is out of range"
    if e.delay < _ZERO or (e.timeout is not None and e.timeout <= _ZERO):
        return "the envelope's delay or timeout is out of range"
    if e.metadata and len(dict(e.metadata)) < len(e.metadata):
        return "the envelope's metadata names a key twice"
    if e.origin is not None and not _is_origin(e.origin):
        return "the envelope's origin is no node of a workflow"
    return None


def _is_origin(origin: Origin) -> bool:
    ids = [origin.workflow_id, *(one.task_id for one in (*origin.inputs, *origin.context))]
    return all(map(is_task_id, ids)) and origin.node >= 0 and origin.run >= 1 and is_name(origin.node_id)


def _envelope_of(fields: Sequence[Any], origin: Origin | None) -> Envelope:
    (
        _, task_id, task_name, queue, priority, serializer, arguments,
        sent_at, delay, good_until, timeout, retry, unique_key, metadata,
    ) = fields  # fmt: skip
    return Envelope(
        task_id=task_id,
        task_name=task_name,
        queue=queue,
        priority=priority,
        serializer=serializer,
        arguments=arguments,
        sent_at=instant_of(sent_at),
        delay=timedelta(microseconds=delay) if delay else _ZERO,
        good_until=None if good_until is None else instant_of(good_until),
        timeout=None if timeout is None else timedelta(microseconds=timeout),
        retry=policy_of(*retry) if isinstance(retry, tuple) else retry,
        unique_key=unique_key,
        metadata=tuple(metadata),
        origin=origin,
    )


def _origin_data(origin: Origin) -> _Origin:
    inputs, context = (
        sorted((one.parameter, one.task_id, one.as_result, one.of_workflow) for one in some)
        for some in (origin.inputs, origin.context)
    )
    return origin.workflow_id, origin.node, origin.run, inputs, origin.node_id, context


def _origin_of(
    workflow_id: str, node: int, run: int, inputs: list[_Input], node_id: str, context: list[_Input]
) -> Origin:
    given, beside = (tuple(Input(*one) for one in some) for some in (inputs, context))
    return Origin(workflow_id, node, run, given, node_id, beside)


def stored_retry(retry: RetryPolicy | str | None) -> str | _Retry | None:
    """A policy as it is stored: its delays in microseconds and its jitter; a name stays as it is.

    Raises:
        ValueError: a delay that cannot be stored.
    """
    if not isinstance(retry, RetryPolicy):
        return retry
    delays = [round(delay * 1_000_000) for delay in retry.delays]
    if not all(1 <= delay <= _LONGEST_RETRY for delay in delays):
        raise ValueError("the envelope's retry policy has a delay below a microsecond or above 30 years")
    return delays, bool(retry.jitter)


def policy_of(delays: Sequence[int], jitter: bool) -> RetryPolicy:
    """The policy that `stored_retry` made these of. Raises: HorsiesError: there is none."""
    return RetryPolicy(tuple(delay / 1_000_000 for delay in delays), jitter)
