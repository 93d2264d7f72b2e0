"""A workflow on its way: as it was declared, and as it is once that has been checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..._declare.node import NodeRef, TaskNode
from ..._declare.task import Task
from ..._declare.workflow import OnError, Workflow
from ..view.diagram import WorkflowGraph, drawn, drawn_nodes
from .spec import Spec


@dataclass(frozen=True, slots=True, init=False)
class SuccessCase:
    """Nodes that together are a success: with one such case fulfilled the workflow is COMPLETED."""

    refs: tuple[NodeRef[Any], ...]
    """Nodes that must all be COMPLETED."""

    def __init__(self, *refs: NodeRef[Any]) -> None:
        object.__setattr__(self, "refs", refs)


@dataclass(frozen=True, slots=True)
class Draft:
    """A workflow as it was declared. Nothing of it has been checked, so that anything may stand anywhere.

    Attributes:
        builder: who made the references; those of another are foreign.
    """

    builder: object
    name: str
    version: int
    on_error: OnError
    nodes: tuple[TaskNode[Any], ...]
    output: NodeRef[Any] | None = None
    returns: Any = Any
    """What the function says that it returns a reference to; None's type: none."""
    cases: tuple[SuccessCase, ...] = ()
    optional: tuple[NodeRef[Any], ...] = ()
    children: tuple[Draft | None, ...] = ()
    """Of each node the workflow that it is, where that is known."""
    within: tuple[str, ...] = ()
    """The workflows that this is a part of, from the outermost on."""

    @property
    def size(self) -> int:
        """How many nodes there are, those of workflows inside among them."""
        return len(self.nodes) + sum(child.size for child in self.children if child is not None)


@dataclass(frozen=True, slots=True)
class WorkflowSpec:
    """A workflow that has been built: frozen, and checked as far as that needs no application.

    `WorkflowBuilder.build` makes it, and a runtime starts it.
    """

    _called: tuple[Task[Any, Any] | Workflow[Any, Any], ...] = field(repr=False)
    """Of each node."""
    _children: tuple[WorkflowSpec | None, ...] = field(repr=False)
    """Of each node the workflow that it is, where that is known."""
    _spec: Spec = field(repr=False)
    """Where a node's queue is empty, its task's own is meant. Its nodes have no children: those are in `_children`."""

    @property
    def name(self) -> str:
        """Name of the workflow."""
        return self._spec.name

    @property
    def version(self) -> int:
        """Version of the definition, from 1."""
        return self._spec.version

    @property
    def size(self) -> int:
        """How many nodes there are, those of workflows inside among them."""
        return len(self._called) + sum(child.size for child in self._children if child is not None)

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Ids of the nodes, in the order in which they were added."""
        return tuple(node.node_id for node in self._spec.nodes)

    def graph(self) -> WorkflowGraph:
        """The workflow as a picture. What is inside of subworkflows is not in it."""
        return drawn(self.name, drawn_nodes(self._spec))

    def __repr__(self) -> str:
        return f"<WorkflowSpec {self.name!r}, version {self.version}, {len(self._called)} nodes>"
