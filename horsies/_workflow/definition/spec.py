"""What a workflow consists of, as it is stored: frozen, complete, and the same bytes for the same spec everywhere.

A spec says everything that decides what runs. It is a msgpack array in a fixed order, with integers in their shortest
form, instants and durations as integer microseconds, and the arguments of each task in the plain form that its codecs
give them, their names sorted. What no workflow can be is refused when it is written, and when it is read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from ..._core.errors import HorsiesError
from ..._core.instants import micros_of
from ..._core.names import is_name, is_priority
from ..._declare.workflow import LAST_VERSION
from ..._payload.envelope import policy_of, stored_retry
from ..._payload.lowering import INT_MAX, UNDECODABLE, CodecError, plain
from .cycles import cycles_in

FORMAT = 1
LONGEST_TIMEOUT = INT_MAX
"""Microseconds, some 290,000 years."""

Retry: TypeAlias = tuple[tuple[int, ...], bool]
"""A policy: its delays in microseconds, and its jitter."""


class Reference(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an argument is made of: the value of a node, or its result."""

    node: int
    as_result: bool


class NodeSpec(msgspec.Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """One node.

    `arguments` holds all arguments that no other node gives, defaults too, as `Plain`. `needs` are the indexes of all
    nodes that it waits for, those of `injected` too, ascending. `join` says how many of them must be COMPLETED; 0: all.
    `good_until` is in microseconds since 1970, `timeout` in microseconds.

    A map is its task once for each item of a list, which is given to the parameter `item`. Of a workflow, `task_name`
    is the name; `child` is what it consists of, None where that follows from what other nodes give. `context` are the
    nodes whose results the task finds in its context, ascending.
    """

    node_id: str
    task_name: str
    queue: str
    priority: int
    arguments: dict[str, Any]
    injected: dict[str, Reference]
    needs: tuple[int, ...]
    join: int
    allow_failed_deps: bool
    cancel_losers: bool
    good_until: int | None
    timeout: int | None
    retry: str | Retry | None
    kind: Literal["task", "map", "workflow"] = "task"
    item: str | None = None
    child: Spec | None = None
    context: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"<NodeSpec {self.node_id!r} of task {self.task_name!r}>"


class Spec(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A workflow.

    It is COMPLETED when all nodes of any one of the cases in `success` are; without cases, when all are that are not
    `optional`. Nodes are named by their indexes, ascending. It is a part of the workflows `within`, from the outermost
    on. With `collects` its output is the list of the values of all its nodes.
    """

    name: str
    version: int
    nodes: tuple[NodeSpec, ...]
    output: int | None
    on_error: Literal["fail", "pause"]
    success: tuple[tuple[int, ...], ...]
    optional: tuple[int, ...]
    within: tuple[str, ...] = ()
    collects: bool = False

    def __repr__(self) -> str:
        return f"<Spec of workflow {self.name!r}, version {self.version}, {len(self.nodes)} nodes>"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[int, Spec])
_FIRST, _LAST = (micros_of(end.replace(tzinfo=UTC)) for end in (datetime.min, datetime.max))
"""Where the calendar begins and ends, in microseconds since 1970."""


def encode(spec: Spec) -> bytes:
    """The canonical bytes of `spec`.

    Raises:
        ValueError: it is no workflow that could be built.
    """
    return sealed(spec)[1]


def sealed(spec: Spec) -> tuple[Spec, bytes]:
    """`spec` as `decode` would give it, and its canonical bytes. Raises: ValueError, as `encode` does."""
    problem = next(_problems_with(spec), None)
    if problem is not None:
        raise ValueError(f"the workflow's {problem}")
    try:
        canonical = _canonical(spec)
        return canonical, _encoder.encode((FORMAT, canonical))
    except (CodecError, RecursionError) as error:
        raise ValueError(f"the workflow's arguments cannot be written: {error}") from None
    except (OverflowError, TypeError) as error:
        raise ValueError("a field of the workflow is out of range") from error


def decode(data: bytes) -> Spec:
    """The spec that `encode` made `data` of.

    Raises:
        ValueError: `data` is not exactly what this version's `encode` writes.
    """
    try:
        version, spec = _decoder.decode(data)
    except UNDECODABLE as error:
        raise ValueError(f"the bytes are no workflow of format {FORMAT}") from error
    if version != FORMAT:
        raise ValueError(f"the workflow is of format {version}, not {FORMAT}")
    if encode(spec) != data:
        raise ValueError("the bytes are no canonical workflow")
    return spec


def _canonical(spec: Spec) -> Spec:
    return msgspec.structs.replace(spec, nodes=tuple(map(_sorted, spec.nodes)))


def _sorted(node: NodeSpec) -> NodeSpec:
    arguments = {name: plain(node.arguments[name]) for name in sorted(node.arguments)}
    child = None if node.child is None else _canonical(node.child)
    return msgspec.structs.replace(node, arguments=arguments, injected=dict(sorted(node.injected.items())), child=child)


def _problems_with(spec: Spec) -> Iterator[str]:
    count = len(spec.nodes)
    if not is_name(spec.name):
        yield "name is not 1..255 bytes of Unicode without NUL"
    if type(spec.version) is not int or not 1 <= spec.version <= LAST_VERSION:
        yield "version is out of range"
    if spec.on_error not in ("fail", "pause"):
        yield "on_error is neither fail nor pause"
    if not spec.nodes and not spec.collects:
        yield "nodes are none"
    if len({node.node_id for node in spec.nodes}) < count:
        yield "nodes are not all of different ids"
    for node in spec.nodes:
        yield from _problems_with_node(node, count)
    if spec.output is not None and not _are_ascending((spec.output,), count):
        yield "output is none of its nodes"
    if not all(spec.success) or not all(_are_ascending(some, count) for some in (*spec.success, spec.optional)):
        yield "success policy does not name its nodes in ascending order"
    if any(set(case) & set(spec.optional) for case in spec.success):
        yield "success policy needs a node that is optional"
    if not all(map(is_name, spec.within)):
        yield "place is no list of names"
    if spec.collects and (spec.output is not None or any(node.kind != "task" for node in spec.nodes)):
        yield "output is the values of all its nodes, and those are not all tasks"
    if cycles_in([node.needs for node in spec.nodes]):
        yield "nodes wait for each other"


def _problems_with_node(node: NodeSpec, count: int) -> Iterator[str]:
    if not (is_name(node.node_id) and is_name(node.task_name) and is_name(node.queue)):
        yield "nodes have a name that is not 1..255 bytes of Unicode without NUL"
    if not is_priority(node.priority):
        yield "nodes have a priority that is out of range"
    if not all(type(name) is str and name.isidentifier() for name in (*node.arguments, *node.injected)):
        yield "nodes have an argument whose name is none"
    if node.arguments.keys() & node.injected.keys():
        yield "nodes have an argument that is given and injected"
    if not _are_ascending(node.needs, count) or not {ref.node for ref in node.injected.values()} <= set(node.needs):
        yield "nodes do not name those that they wait for in ascending order"
    if not _are_ascending(node.context, count) or not set(node.context) <= set(node.needs):
        yield "nodes do not wait for what their context is made of"
    if type(node.join) is not int or not 0 <= node.join <= len(node.needs):
        yield "nodes have a join that is out of range"
    if (node.allow_failed_deps and node.join) or (node.cancel_losers and not node.join):
        yield "nodes have a join that contradicts itself"
    if (node.allow_failed_deps or node.join) and not all(ref.as_result for ref in node.injected.values()):
        yield "nodes take a value of one that may have failed"
    yield from _problems_with_kind(node)
    if not _is_storable(node):
        yield "nodes have a time or a retry policy that is out of range"


def _problems_with_kind(node: NodeSpec) -> Iterator[str]:
    item = node.injected.get(node.item or "")
    if (node.kind == "map") != (node.item is not None) or (node.kind == "map" and (item is None or item.as_result)):
        yield "nodes map what is no value of another one"
    if node.child is not None:
        if node.kind != "workflow" or node.arguments or node.injected:
            yield "nodes have a workflow inside and are something else"
        yield from _problems_with(node.child)


def _are_ascending(indexes: Sequence[int], count: int) -> bool:
    return list(indexes) == sorted(set(indexes)) and all(0 <= index < count for index in indexes)


def _is_storable(node: NodeSpec) -> bool:
    if node.timeout is not None and not 1 <= node.timeout <= LONGEST_TIMEOUT:
        return False
    if node.good_until is not None and not _FIRST <= node.good_until <= _LAST:
        return False
    try:
        if isinstance(node.retry, tuple):
            delays, jitter = node.retry
            return stored_retry(policy_of(delays, jitter)) == (list(delays), jitter)
    except (OverflowError, ValueError, TypeError, HorsiesError):
        return False
    return node.retry is None or is_name(node.retry)
