"""A workflow as the database has it: its spec and its state, read and written."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from .._payload.plain import UNDECODABLE
from .plan import Plan, PlanNode, State
from .spec import Spec, decode

_states = msgspec.msgpack.Decoder(State)
encode_state = msgspec.msgpack.Encoder().encode


def plan_of(spec: Spec) -> Plan:
    """What the engine needs to know of a workflow."""
    nodes = [PlanNode(node.needs, node.join, node.allow_failed_deps, node.cancel_losers) for node in spec.nodes]
    return Plan(tuple(nodes), spec.on_error, spec.success, frozenset(spec.optional), spec.output)


@lru_cache(maxsize=256)
def read_spec(data: bytes) -> tuple[Spec, Plan]:
    """A stored spec, and its plan. Raises: ValueError."""
    spec = decode(data)
    return spec, plan_of(spec)


def read_state(data: bytes) -> State:
    """A stored state. Raises: ValueError."""
    try:
        return _states.decode(data)
    except UNDECODABLE as error:
        raise ValueError("the state of the workflow cannot be read") from error
