"""Workflows that begin with what other nodes have given: a map, and a subworkflow whose arguments are not known before.

Such a node has a task first, one of horsies' own. It takes the values of the other nodes as any task does, and results
in what the workflow will consist of: a map's in the arguments of its nodes, a subworkflow's in its spec, since that
is made by a function of the user, and those run in workers. The end of that task opens the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from msgspec.structs import replace as changed

from ..._core.codes import TaskErrorCode
from ..._core.errors import HorsiesError, TaskError
from ..._core.retry import RetryPolicy
from ..._declare.context import AttemptContext, describe_task
from ..._declare.gateway import AppGateway
from ..._declare.task import Task
from ..._payload.signature import ArgumentError, Signature, load
from ..._payload.stored_result import decode_result
from ..._send.gateway import Gateway
from ..._send.options import TaskSettings
from ...abc import OWN, Plain, Serializer
from ..definition.builder import built
from ..definition.spec import NodeSpec, Spec, decode, encode
from ..definition.validate import resolve
from ..node_ids import MOST_NODES

MAP, SUBWORKFLOW = f"{OWN}map", f"{OWN}subworkflow"
_ITEM, _NAME, _WITHIN = "(item)", "(name)", "(within)"
"""Among the arguments, where no parameter can have such a name."""


def opening(spec: Spec, node: NodeSpec) -> tuple[str, dict[str, Plain]]:
    """The name and the arguments of the task that opens a node, but for those that other nodes give."""
    if node.kind == "map":
        return MAP, {**node.arguments, _ITEM: node.item}
    return SUBWORKFLOW, {**node.arguments, _NAME: node.task_name, _WITHIN: [*spec.within, spec.name]}


def opened(gateway: Gateway, spec: Spec, node: NodeSpec, result: bytes | None) -> Spec:
    """The workflow that the task has opened. Raises: ValueError, it cannot be read."""
    found = None if result is None else decode_result(result, None, gateway.serializers)
    value: Any = getattr(found, "value", None)
    if node.kind == "workflow":
        return decode(value)
    return _of_items(spec, node, value)


def workflow_to_open(plain: Mapping[str, Plain]) -> str | None:
    """The name of the workflow that a task of horsies' own opens, by its arguments; None for a map."""
    name = plain.get(_NAME)
    return name if isinstance(name, str) else None


def arguments_of(plain: Mapping[str, Plain]) -> set[str]:
    """The names of the arguments that are for the workflow."""
    return plain.keys() - {_ITEM, _NAME, _WITHIN}


class _Whatever(Signature):
    """Takes any arguments, as they were stored, as one."""

    def decode(self, serializer: Serializer, data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (load(serializer, data),), {}


async def _open_map(arguments: dict[str, Any]) -> dict[str, Any]:
    item = arguments.pop(_ITEM)
    items = arguments[item]
    if not isinstance(items, list):
        what = f"map: argument {item!r} is made of the items of a list, and got one of type {type(items).__name__}"
        raise TaskError(TaskErrorCode.ARGUMENT_TYPE_MISMATCH, what)
    if len(items) > MOST_NODES:
        what = f"map: {len(items):,} items are more than the {MOST_NODES:,} nodes that a workflow can have"
        raise TaskError(TaskErrorCode.ARGUMENT_TYPE_MISMATCH, what)
    return arguments


async def _open_subworkflow(context: AttemptContext[AppGateway], arguments: dict[str, Any]) -> bytes:
    name, within = arguments.pop(_NAME), arguments.pop(_WITHIN)
    rt = context.runtime
    workflow = rt.app.workflows.get(name)
    if workflow is None:
        what = f"workflow {name!r} is not known to the worker: does the module that declares it get imported?"
        raise TaskError(TaskErrorCode.WORKER_RESOLUTION_ERROR, what)
    try:
        args, kwargs = workflow.signature.lift(arguments)
        found = built(workflow, rt.app, args, kwargs, rt.retry_policies, within=tuple(within))
        return encode(resolve(found, rt.app, rt.retry_policies))
    except ArgumentError as error:
        raise TaskError(TaskErrorCode.ARGUMENT_TYPE_MISMATCH, f"workflow {name!r}: {error}") from None
    except HorsiesError as error:
        raise TaskError(TaskErrorCode.SUBWORKFLOW_FAILED, str(error)) from None


def _own(name: str, fn: Any) -> Task[Any, Any]:
    signature = describe_task(fn)
    fields = {field: getattr(signature, field) for field in Signature.__slots__}
    settings = TaskSettings(retry=RetryPolicy.exponential(1.0, 5), retry_for=(TaskErrorCode.WORKER_CRASHED,))
    return Task(name, fn, settings, _Whatever(**fields))


def _of_items(spec: Spec, node: NodeSpec, arguments: dict[str, Plain]) -> Spec:
    """One node for each item, and together their values are the output."""
    item = cast("str", node.item)
    each = changed(node, kind="task", item=None, injected={}, needs=(), join=0)
    each = changed(each, allow_failed_deps=False, cancel_losers=False)
    return Spec(
        name=node.task_name,
        version=spec.version,
        nodes=tuple(
            changed(each, node_id=f"{number}", arguments={**arguments, item: value})
            for number, value in enumerate(cast("list[Plain]", arguments[item]))
        ),
        output=None,
        on_error="fail",
        success=(),
        optional=(),
        within=(*spec.within, spec.name),
        collects=True,
    )


OWN_TASKS: Mapping[str, Task[Any, Any]] = {
    MAP: _own(MAP, _open_map),
    SUBWORKFLOW: _own(SUBWORKFLOW, _open_subworkflow),
}
"""The tasks of horsies' own, by name."""
