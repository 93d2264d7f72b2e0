"""Workflows of any shape, and what has to become of them: nodes of every kind, three workflows deep.

A `Flow` says everything: which nodes there are, what they wait for, and which of their tasks fail. It is also the
argument that its workflow is built with, now or in a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from horsies import (
    AppConfig,
    Horsies,
    NodeRef,
    NodeStatus,
    RetryPolicy,
    TaskError,
    TaskNode,
    Workflow,
    WorkflowBuilder,
    WorkflowStatus,
)

DEPTH = 3
COMPLETED, FAILED, SKIPPED = NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED


@dataclass(frozen=True)
class FlowNode:
    """One node. `kind` is task, map, part (its flow known at once) or late (known when another node has ended)."""

    kind: str
    needs: tuple[int, ...]
    join: int = 0
    allow_failed: bool = False
    cancel_losers: bool = False
    is_good: bool = True
    items: tuple[bool, ...] = ()
    flow: Flow | None = None


@dataclass(frozen=True)
class Flow:
    nodes: tuple[FlowNode, ...]
    output: int | None = None


@dataclass
class Expected:
    """What becomes of a flow that nobody cancels: of the whole, and of each node."""

    status: WorkflowStatus
    nodes: list[NodeStatus] = field(default_factory=list)


def expected(flow: Flow) -> Expected:
    """What the rules say of the end, whatever the order of events."""
    found: list[NodeStatus] = []
    for node in flow.nodes:
        needs = [found[need] for need in node.needs]
        completed = needs.count(COMPLETED)
        runs = completed >= node.join if node.join else node.allow_failed or completed == len(needs)
        found.append((COMPLETED if _goes_well(node) else FAILED) if runs else SKIPPED)
    counting = [index for index, status in enumerate(found) if status is FAILED and not has_lost(flow, index, found)]
    is_good = not counting and (flow.output is None or found[flow.output] is COMPLETED)
    return Expected(WorkflowStatus.COMPLETED if is_good else WorkflowStatus.FAILED, found)


def _goes_well(node: FlowNode) -> bool:
    if node.flow is not None:
        return expected(node.flow).status is WorkflowStatus.COMPLETED
    return all(node.items) if node.kind == "map" else node.is_good


def may_lose(flow: Flow, index: int) -> bool:
    """Whether chance may decide what becomes of a node: it is cancelled if others are quicker."""
    waiting = [node for node in flow.nodes if index in node.needs]
    return index != flow.output and len(waiting) == 1 and waiting[0].join > 0 and waiting[0].cancel_losers


def has_lost(flow: Flow, index: int, found: Sequence[NodeStatus]) -> bool:
    if not may_lose(flow, index):
        return False
    (waiting,) = [node for node in flow.nodes if index in node.needs]
    return [found[need] for need in waiting.needs].count(COMPLETED) >= waiting.join


@st.composite
def flows(draw: st.DrawFn, depth: int = DEPTH) -> Flow:
    """A flow of at most so many levels."""
    count = draw(st.integers(1, 5 if depth == DEPTH else 3))
    nodes = []
    for number in range(count):
        needs = tuple(sorted(draw(st.sets(st.integers(0, number - 1), max_size=3)))) if number else ()
        kind = draw(st.sampled_from(["task", "task", "map", "part", "late"] if depth > 1 else ["task", "task", "map"]))
        is_flexible = kind in ("task", "part")
        join = draw(st.integers(0, len(needs))) if is_flexible else 0
        nodes.append(
            FlowNode(
                kind,
                needs,
                join,
                allow_failed=is_flexible and not join and draw(st.booleans()),
                cancel_losers=join > 0 and draw(st.booleans()),
                is_good=draw(st.sampled_from([True, True, True, False])),
                items=tuple(draw(st.lists(st.sampled_from([True, True, True, False]), max_size=3))),
                flow=draw(flows(depth - 1)) if kind in ("part", "late") else None,
            )
        )
    return Flow(tuple(nodes), draw(st.none() | st.integers(0, count - 1)))


class Flowing:
    """An application whose workflows are what flows say, one for each level."""

    def __init__(self, config: AppConfig) -> None:
        self.app = Horsies(config)
        crash_proof: Any = {"retry": RetryPolicy.fixed([1.0] * 20), "retry_for": ("WORKER_CRASHED",)}

        @self.app.task(**crash_proof)
        async def leaf(is_good: bool) -> int:
            if not is_good:
                raise TaskError("AS_TOLD")
            return 1

        @self.app.task(**crash_proof)
        async def give_flow(flow: Flow) -> Flow:
            return flow

        @self.app.task(**crash_proof)
        async def give_items(items: tuple[bool, ...]) -> list[bool]:
            return list(items)

        self._leaf, self._give_flow, self._give_items = leaf, give_flow, give_items
        self.workflows: list[Workflow[[Flow], Any]] = []
        for level in range(DEPTH):
            self._declare(level)

    def _declare(self, level: int) -> None:
        @self.app.workflow(f"level {level}")
        def build(wf: WorkflowBuilder, flow: Flow) -> NodeRef[Any] | None:
            refs: list[NodeRef[Any]] = []
            for index, node in enumerate(flow.nodes):
                refs.append(self._add(wf, level, index, node, [refs[need] for need in node.needs]))
            return None if flow.output is None else refs[flow.output]

        self.workflows.append(build)

    def _add(
        self, wf: WorkflowBuilder, level: int, index: int, node: FlowNode, needs: list[NodeRef[Any]]
    ) -> NodeRef[Any]:
        def finished(made: TaskNode[Any]) -> TaskNode[Any]:
            made = made.node_id(f"n{index}").waits_for(*needs)
            if node.allow_failed:
                made = made.allow_failed_deps()
            return made.join_quorum(node.join, cancel_losers=node.cancel_losers) if node.join else made

        if node.kind == "task":
            return wf.task(finished(self._leaf.node(node.is_good)))
        if node.kind == "map":
            items = wf.task(self._give_items.node(node.items).node_id(f"items {index}"))
            return wf.map(finished(self._leaf.node()), over=items)
        assert node.flow is not None
        inner = self.workflows[level + 1]
        if node.kind == "part":
            return wf.subworkflow(finished(inner.node(node.flow)))
        given = wf.task(self._give_flow.node(node.flow).node_id(f"flow {index}"))
        return wf.subworkflow(finished(inner.node(given)))
