"""A workflow as the database has it: its spec and its state, read and written.

A small spec is stored as `encode` writes it. A larger one is stored in pieces, so that what follows an end is found
without the arguments of all nodes: a header of fixed length, the plan, which is the spec without arguments and without
the workflows inside, and then for each node its arguments and the workflow that it is. The header has the length of the
plan and its SHA-256, by which a plan that was read before is known again. The SHA of a start is that of the whole spec,
however that is stored.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from struct import Struct
from threading import Lock
from typing import Any, NamedTuple

import msgspec

from ..._payload.lowering import UNDECODABLE
from ...abc import HEAD, Range, Slice, WorkflowRow
from ..definition.spec import NodeSpec, Spec, decode
from .state import Plan, PlanNode, State

_HEADER = Struct(">3sI2s32s")
_BEGIN, _THEN = b"\x93\x02\xce", b"\xc4\x20"
"""A msgpack array of 3 that begins with 2, the format; an int of 32 bits and a string of 32 bytes follow."""
_CHUNK = 500
"""Nodes that are written and read at a time: so long a call into C lets no other thread run."""
_WHOLE = 2**30
"""More bytes than a spec can have."""
_NEAR = 16 * 1024
"""Ranges with fewer bytes between them are read as one."""
KEPT_BYTES = 64 * 1024 * 1024
"""What the specs that are kept may take, about, in memory."""
_GROWTH = 16
"""Of many small nodes a decoded spec takes 14 times the memory of its bytes, of large arguments hardly more."""
_ENTRY = 4 * 1024
"""What each of them takes beside that."""

_states = msgspec.msgpack.Decoder(State)
_encoder = msgspec.msgpack.Encoder()
encode_state = _encoder.encode
_plans: msgspec.msgpack.Decoder[tuple[Spec, list[bytes], list[int]]] = msgspec.msgpack.Decoder(
    tuple[Spec, list[bytes], list[int]]
)
_chunks = msgspec.msgpack.Decoder(list[NodeSpec])
_pieces: msgspec.msgpack.Decoder[tuple[dict[str, Any], Spec | None]] = msgspec.msgpack.Decoder(
    tuple[dict[str, Any], Spec | None]
)


class MissingError(Exception):
    """These ranges of the stored spec have to be read first."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        super().__init__("bytes of the spec are missing")
        self.ranges = tuple(ranges)


@dataclass(frozen=True, slots=True)
class StoredSpec:
    """A spec that was read: all of it, or without the arguments of its nodes and the workflows inside.

    Attributes:
        spec: where a workflow inside is not known yet, an empty one stands in its place.
    """

    spec: Spec
    plan: Plan
    _starts: Sequence[int] | None = None
    """Where the piece of each node begins, and where the last one ends."""

    def filled(self, indexes: Sequence[int], row: WorkflowRow, slices: Sequence[Slice]) -> Spec:
        """The spec, complete at these nodes. Raises: MissingError; ValueError, the bytes cannot be read."""
        starts = self._starts
        if starts is None or not indexes:
            return self.spec
        nodes, missing, known = list(self.spec.nodes), list[Range](), [(0, row.spec), *slices]
        for index in indexes:
            offset, length = starts[index], starts[index + 1] - starts[index]
            if not length:
                continue
            piece = _cut(known, offset, length)
            if piece is None:
                missing.append((offset, length))
                continue
            try:
                arguments, child = _pieces.decode(piece)
            except UNDECODABLE as error:
                raise ValueError("a node of the workflow cannot be read") from error
            nodes[index] = msgspec.structs.replace(nodes[index], arguments=arguments, child=child)
        if missing and any(start >= starts[0] for start, _ in slices):
            raise ValueError("the spec of the workflow is shorter than it says")
        if missing:
            raise MissingError(_joined(missing))
        return msgspec.structs.replace(self.spec, nodes=tuple(nodes))


def plan_of(spec: Spec) -> Plan:
    """What the engine needs to know of a workflow."""
    nodes = [PlanNode(node.needs, node.join, node.allow_failed_deps, node.cancel_losers) for node in spec.nodes]
    return Plan(tuple(nodes), spec.on_error, spec.success, frozenset(spec.optional), spec.output)


def stored(spec: Spec, data: bytes) -> bytes:
    """`spec`, whose canonical bytes are `data`, as it is stored."""
    if len(data) <= HEAD:
        return data
    pieces = [_encoder.encode((node.arguments, node.child)) if _has_piece(node) else b"" for node in spec.nodes]
    bare = [_bare(node) for node in spec.nodes]
    chunks = [_encoder.encode(bare[start : start + _CHUNK]) for start in range(0, len(bare), _CHUNK)]
    plan = _encoder.encode((msgspec.structs.replace(spec, nodes=()), chunks, list(map(len, pieces))))
    return b"".join((_HEADER.pack(_BEGIN, len(plan), _THEN, hashlib.sha256(plan).digest()), plan, *pieces))


def _has_piece(node: NodeSpec) -> bool:
    return bool(node.arguments) or node.child is not None


def _bare(node: NodeSpec) -> NodeSpec:
    if not _has_piece(node):
        return node
    child = None if node.child is None else msgspec.structs.replace(node.child, nodes=())
    return msgspec.structs.replace(node, arguments={}, child=child)


class _Info(NamedTuple):
    """How often a spec was found, and what is kept."""

    hits: int
    misses: int
    currsize: int
    bytes: int


class SpecReader:
    """Reads stored specs, and keeps those read last, as far as `KEPT_BYTES` go. It can be used in any thread."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, tuple[StoredSpec, int]] = OrderedDict()
        self._bytes = 0
        self._hits = self._misses = 0
        self._lock = Lock()

    def __call__(self, row: WorkflowRow, slices: Sequence[Slice] = ()) -> StoredSpec:
        """The spec of `row`.

        Args:
            slices: what was read of the spec beside its head.

        Raises:
            MissingError: what is known is not enough.
            ValueError: it cannot be read.
        """
        is_in_pieces = row.spec.startswith(_BEGIN)
        if is_in_pieces:
            key: object = row.spec[: _HEADER.size]
        elif len(row.spec) < HEAD:
            key = row.spec
        else:
            key = (row.workflow_id, row.sha, row.sent_at, row.spec)  # written before there were pieces
        found = self._find(key)
        if found is not None:
            return found
        data = [(0, row.spec), *slices]
        found, size = _read_pieces(data) if is_in_pieces else _read_whole(data)
        self._keep(key, found, size * _GROWTH + _ENTRY)
        return found

    def cache_info(self) -> _Info:
        """As of a function with an `lru_cache`."""
        return _Info(self._hits, self._misses, len(self._kept), self._bytes)

    def cache_clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._bytes = self._hits = self._misses = 0

    def _find(self, key: object) -> StoredSpec | None:
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._kept.move_to_end(key)
            return found[0]

    def _keep(self, key: object, found: StoredSpec, size: int) -> None:
        """Keep it as the newest; the newest is kept whatever its size."""
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = found, size
            self._bytes += size
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                _, (_, gone) = self._kept.popitem(last=False)
                self._bytes -= gone


read_spec = SpecReader()


def _read_pieces(slices: Sequence[Slice]) -> tuple[StoredSpec, int]:
    """A spec that is stored in pieces, and the bytes of its plan."""
    header = _cut(slices, 0, _HEADER.size)
    if header is None:
        raise ValueError("the bytes are no workflow")
    _, length, _, digest = _HEADER.unpack(header)
    data = _cut(slices, _HEADER.size, length)
    if data is None and len(slices) > 1:
        raise ValueError("the spec of the workflow is shorter than it says")
    if data is None:
        raise MissingError([(HEAD, _HEADER.size + length - HEAD)])
    if hashlib.sha256(data).digest() != digest:
        raise ValueError("the plan of the workflow is not what was stored")
    try:
        spec, chunks, lengths = _plans.decode(data)
        nodes = tuple(node for chunk in chunks for node in _chunks.decode(chunk))
    except UNDECODABLE as error:
        raise ValueError("the plan of the workflow cannot be read") from error
    spec = msgspec.structs.replace(spec, nodes=nodes)
    starts = list(accumulate(lengths, initial=_HEADER.size + length))
    return StoredSpec(spec, plan_of(spec), starts), length


def _read_whole(slices: Sequence[Slice]) -> tuple[StoredSpec, int]:
    """A spec as `encode` writes it, and its bytes."""
    if len(slices) == 1 and len(slices[0][1]) == HEAD:
        raise MissingError([(HEAD, _WHOLE - HEAD)])
    data = b"".join(part for _, part in slices)
    spec = decode(data)
    return StoredSpec(spec, plan_of(spec)), len(data)


def _cut(slices: Sequence[Slice], offset: int, length: int) -> bytes | None:
    """The bytes of a range, out of slices in order; None unless they are all there."""
    place, parts = bisect_right(slices, offset, key=lambda one: one[0]) - 1, []
    while length > 0:
        if not 0 <= place < len(slices) or slices[place][0] > offset:
            return None
        start, data = slices[place]
        part = data[offset - start : offset - start + length]
        parts.append(part)
        offset, length, place = offset + len(part), length - len(part), place + 1
    return b"".join(parts)


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes in fewer ranges, some bytes in between with them."""
    found: list[Range] = []
    for offset, length in sorted(ranges):
        if found and offset - sum(found[-1]) <= _NEAR:
            found[-1] = found[-1][0], offset + length - found[-1][0]
        else:
            found.append((offset, length))
    return found


def read_state(data: bytes) -> State:
    """A stored state. Raises: ValueError."""
    try:
        return _states.decode(data)
    except UNDECODABLE as error:
        raise ValueError("the state of the workflow cannot be read") from error
