"""What the engine knows of a workflow, and where one stands."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

from ..._core.status import NodeStatus, WorkflowStatus


class PlanNode(msgspec.Struct, frozen=True, gc=False):
    """When one node runs; `engine.py` says what the fields do."""

    needs: tuple[int, ...] = ()
    """The nodes that it waits for, by index, each once."""
    join: int = 0
    """How many of them have to be COMPLETED; 0: all."""
    allow_failed: bool = False
    cancel_losers: bool = False


class Plan(msgspec.Struct, frozen=True, dict=True):
    """What the engine knows of a workflow. It does not change, and there is no cycle in it."""

    nodes: tuple[PlanNode, ...]
    on_error: Literal["fail", "pause"] = "fail"
    success: tuple[tuple[int, ...], ...] = ()
    """Cases, each of nodes that have to be COMPLETED. Empty: no failure may count."""
    optional: frozenset[int] = frozenset()
    output: int | None = None

    @cached_property
    def dependents(self) -> list[list[int]]:
        """For each node those that wait for it."""
        found: list[list[int]] = [[] for _ in self.nodes]
        for index, node in enumerate(self.nodes):
            for need in node.needs:
                found[need].append(index)
        return found

    @cached_property
    def joins_of_losers(self) -> dict[int, int]:
        """For each node that can lose the one that waits for it."""
        used = {self.output}.union(*self.success)
        return {
            need: index
            for index, node in enumerate(self.nodes)
            if node.cancel_losers and node.join
            for need in node.needs
            if need not in used and len(self.dependents[need]) == 1
        }


class State(msgspec.Struct):
    """Where a workflow stands. It is made by `begin`, and `advance` makes another of it."""

    status: WorkflowStatus
    nodes: list[NodeStatus]
    runs: list[int]
    """How often each node was enqueued, which is the number of its last run."""
    ended: list[int]
    """How many of the nodes that each one waits for have ended."""
    completed: list[int]
    """How many of these are COMPLETED."""
    left: int
    """How many nodes have not ended."""
    codes: dict[int, str]
    """Why FAILED nodes failed, where that is known."""
