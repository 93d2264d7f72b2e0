"""`WorkflowBuilder`: adds the nodes of a workflow one by one, and builds it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from ..._core.errors import HorsiesError
from ..._declare.app import Horsies
from ..._declare.node import NodeRef, TaskNode
from ..._declare.workflow import OnError, Workflow
from ..._payload.signature import ArgumentError
from .arguments import bind, lowered
from .draft import Draft, SuccessCase, WorkflowSpec
from .validate import checked

P = ParamSpec("P")
T = TypeVar("T")


class WorkflowBuilder:
    """What the function of a workflow is given; make one yourself for a workflow that is declared nowhere.

    Args:
        name: 1..255 bytes.
        version, on_error: as for `Horsies.workflow`.
    """

    def __init__(self, name: str, version: int = 1, on_error: OnError = "fail") -> None:
        self._name = name
        self._version = version
        self._on_error = on_error
        self._nodes: list[TaskNode[Any]] = []
        self._cases: list[SuccessCase] = []
        self._optional: list[NodeRef[Any]] = []
        self._children: list[Draft | None] = []
        self._within: tuple[str, ...] = ()

    def task(self, node: TaskNode[T]) -> NodeRef[T]:
        """Add a node. What is returned stands for its value as an argument of other nodes."""
        return self._add(node, None)

    def subworkflow(self, node: TaskNode[T]) -> NodeRef[T]:
        """Add a workflow as a node: `wf.subworkflow(my_workflow.node(...))`. Its value is that of its output.

        If other nodes give none of its arguments, its function is called here, and what it adds is checked and stored
        with the whole. Otherwise it is called once they are known, in a worker: the node's queue is where, by default
        the application's default queue.

        It runs as a workflow of its own: it can be looked at by its own id, and is paused, resumed and cancelled with
        the whole. It cannot contain a workflow that it is a part of. `good_until` is the deadline of all of it.

        Raises:
            Exception: whatever its function raises.
        """
        node = _as(node, kind="workflow")
        return self._add(node, _child_of(node, (*self._within, self._name)))

    def map(self, node: TaskNode[T], *, over: NodeRef[Sequence[Any]]) -> NodeRef[list[T]]:
        """Add a task once for each item of the list that another node gives, all at once.

        The item is the first parameter that `node` gives no argument for. The value is the list of their values, in
        the order of the items. It fails if one of them does, once all have ended. The node's options are those of
        each.
        """
        return self._add(_as(node, kind="map", over=over), None)

    def _add(self, node: TaskNode[Any], child: Draft | None) -> NodeRef[Any]:
        self._nodes.append(node)
        self._children.append(child)
        return NodeRef(self, len(self._nodes) - 1)

    def succeeds_when(self, *cases: SuccessCase, optional: Iterable[NodeRef[Any]] = ()) -> None:
        """Say what a success is; otherwise all nodes must be COMPLETED.

        Args:
            cases: with the nodes of any one of them COMPLETED it is a success, whatever becomes of the others.
            optional: without cases, the nodes that may fail.
        """
        self._cases += cases
        self._optional += optional

    def build(self, output: NodeRef[Any] | None = None) -> WorkflowSpec:
        """The workflow as it stands now, checked as a whole and frozen.

        Args:
            output: the node whose value is the workflow's.

        Raises:
            HorsiesError: HRS-001..024, everything that is wrong at once. Registration and queues are checked when it is
                started, because only then is there an application.
        """
        return checked(self._draft(output))

    def _draft(self, output: Any, returns: Any = Any) -> Draft:
        return Draft(
            builder=self,
            name=self._name,
            version=self._version,
            on_error=self._on_error,
            nodes=tuple(self._nodes),
            output=output,
            returns=returns,
            cases=tuple(self._cases),
            optional=tuple(self._optional),
            children=tuple(self._children),
            within=self._within,
        )

    def __repr__(self) -> str:
        return f"<WorkflowBuilder {self._name!r}, {len(self._nodes)} nodes>"


def built(
    workflow: Workflow[Any, Any],
    app: Horsies,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    policies: Collection[str] | None = None,
    *,
    within: tuple[str, ...] = (),
) -> WorkflowSpec:
    """`workflow` for one call of its function, checked for `app`.

    Args:
        policies: the names of the registered retry policies, where they are known.
        within: the workflows that it is to be a part of, from the outermost on.

    Raises:
        HorsiesError: HRS-020 when the call does not fit, HRS-001..025 and HRS-302 for what is wrong with the workflow.
        Exception: whatever the function raises.
    """
    return checked(drafted(workflow, args, kwargs, within), app, policies)


def drafted(
    workflow: Workflow[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], within: tuple[str, ...] = ()
) -> Draft:
    """What the function of `workflow` declares. Raises: HorsiesError, HRS-020; and whatever the function raises."""
    try:
        workflow.signature.lower(args, dict(kwargs))
    except ArgumentError as error:
        takes = f"it takes {', '.join(workflow.signature.codecs) or 'no arguments'}"
        raise HorsiesError("HRS-020", f"workflow {workflow.name!r}: {error}", [takes]) from None
    builder = WorkflowBuilder(workflow.name, workflow.version, workflow.on_error)
    builder._within = within
    return builder._draft(workflow.fn(builder, *args, **kwargs), workflow.signature.returns)


def _as(node: TaskNode[Any], **changes: Any) -> TaskNode[Any]:
    return TaskNode(replace(node._parts, **changes)) if isinstance(node, TaskNode) else node


def _child_of(node: TaskNode[Any], within: tuple[str, ...]) -> Draft | None:
    """What a subworkflow declares, unless that is not known yet, or something is wrong that is found out later."""
    if not isinstance(node, TaskNode) or not isinstance(node._parts.task, Workflow) or node._parts.task.name in within:
        return None
    parts, problems = node._parts, list[str]()

    def report(code: str, what: str, how: str) -> None:
        problems.append(code)

    arguments = bind(parts, report)
    given = lowered(parts, arguments.given, report)
    if problems or arguments.injected:
        return None
    args, kwargs = parts.task.signature.lift(given)
    return drafted(node._parts.task, args, kwargs, within)
