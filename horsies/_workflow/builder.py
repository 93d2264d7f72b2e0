"""`WorkflowBuilder`: adds the nodes of a workflow one by one, and builds it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from .._core.errors import HorsiesError
from .._task.app import Horsies
from .._task.node import NodeRef, TaskNode
from .._task.workflow import OnError, Workflow
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

    def task(self, node: TaskNode[T]) -> NodeRef[T]:
        """Add a node. What is returned stands for its value as an argument of other nodes."""
        self._nodes.append(node)
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

    def _draft(self, output: Any) -> Draft:
        return Draft(
            builder=self,
            name=self._name,
            version=self._version,
            on_error=self._on_error,
            nodes=tuple(self._nodes),
            output=output,
            cases=tuple(self._cases),
            optional=tuple(self._optional),
        )

    def __repr__(self) -> str:
        return f"<WorkflowBuilder {self._name!r}, {len(self._nodes)} nodes>"


def built(
    workflow: Workflow[Any, Any],
    app: Horsies,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    policies: Collection[str] | None = None,
) -> WorkflowSpec:
    """`workflow` for one call of its function, checked for `app`.

    Args:
        policies: the names of the registered retry policies, where they are known.

    Raises:
        HorsiesError: HRS-020 when the call does not fit, HRS-001..024 and HRS-302 for what is wrong with the workflow.
        Exception: whatever the function raises.
    """
    try:
        workflow.parameters.bind(*args, **kwargs)
    except TypeError as error:
        what = f"workflow {workflow.name!r}: the call does not fit its parameters: {error}"
        raise HorsiesError(
            "HRS-020", what, [f"it takes {', '.join(workflow.parameters.parameters) or 'no arguments'}"]
        ) from None
    builder = WorkflowBuilder(workflow.name, workflow.version, workflow.on_error)
    output = workflow.fn(builder, *args, **kwargs)
    return checked(builder._draft(output), app, policies)
