"""What a workflow, or a node of it, results in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from ..._core.codes import TaskErrorCode
from ..._core.errors import BrokerError, TaskError
from ..._core.result import Err, Ok
from ..._core.status import NodeStatus, WorkflowStatus
from ..._send.task_handle import TaskResult
from ...abc import StoredResult, WorkflowRow
from ..advance.state import State
from ..advance.stored_workflow import MissingError, StoredSpec, read_spec, read_state
from ..definition.spec import Spec
from ..gateway import WorkflowGateway
from ..node_ids import node_task_id
from ..offload import apart

RESULTS = 1_000
"""Results that are read at a time."""

Read = Callable[[StoredResult], TaskResult[Any]]
"""How the result of a task is read."""


async def spec_of(gateway: WorkflowGateway, row: WorkflowRow) -> StoredSpec:
    """What a workflow consists of, perhaps without the arguments of its nodes. Raises: BrokerError; ValueError."""
    try:
        return await apart(partial(read_spec, row), size=len(row.state))
    except MissingError as missing:
        slices = await gateway.workflows.read_spec(row.workflow_id, missing.ranges)
    if not slices:
        raise BrokerError(f"workflow {row.workflow_id} was removed just now", retryable=True)
    return await apart(partial(read_spec, row, slices), size=sum(len(data) for _, data in slices))


async def outcome_of(gateway: WorkflowGateway, row: WorkflowRow, read: Read) -> TaskResult[Any]:
    """The result of a workflow that has ended, or is paused. Raises: BrokerError."""
    status = WorkflowStatus(row.status)
    if status is WorkflowStatus.RUNNING:
        return Err(TaskError(TaskErrorCode.RESULT_NOT_READY, f"{_name(row)} has not ended"))
    if status is not WorkflowStatus.COMPLETED:
        return Err(TaskError(*await _why_not(gateway, row, status)))
    spec, state = (await spec_of(gateway, row)).spec, read_state(row.state)
    if not spec.collects:
        output = spec.output
        return Ok(None) if output is None else (await results_of(gateway, row, spec, [output], read))[output]
    found = await results_of(gateway, row, spec, range(len(spec.nodes)), read)
    failed = next((one for one in found.values() if isinstance(one, Err)), None)
    return failed or Ok([found[index].value for index in range(len(state.nodes))])  # type: ignore[union-attr]  # none is Err


async def results_of(
    gateway: WorkflowGateway, row: WorkflowRow, spec: Spec, indexes: Sequence[int], read: Read
) -> dict[int, TaskResult[Any]]:
    """The results of those of the nodes that have ended, by their indexes. Raises: BrokerError."""
    state = read_state(row.state)
    found, ids = await apart(partial(_ended, row, state, indexes), nodes=len(indexes))
    parts = {task_id for task_id, index in ids.items() if spec.nodes[index].kind != "task"}
    for task_id in parts:
        part = await gateway.workflows.read(task_id)
        if part is not None:
            found[ids[task_id]] = await outcome_of(gateway, part, read)
    # What could not be opened has the result of what should have opened it.
    asked = [task_id for task_id, index in ids.items() if index not in found]
    for start in range(0, len(asked), RESULTS):
        for stored in await gateway.results(asked[start : start + RESULTS]):
            found[ids[stored.task_id]] = read(stored)
    for task_id, index in ids.items():
        gone = TaskError(TaskErrorCode.RESULT_NOT_AVAILABLE, f"task {task_id} is no longer stored")
        found.setdefault(index, Err(gone))
    return found


def _ended(row: WorkflowRow, state: State, indexes: Iterable[int]) -> tuple[dict[int, TaskResult[Any]], dict[str, int]]:
    """The results of those that were skipped, and the tasks of those that have ended otherwise, with their indexes."""
    found: dict[int, TaskResult[Any]] = {}
    ids: dict[str, int] = {}
    for index in indexes:
        if state.nodes[index] is NodeStatus.SKIPPED:
            found[index] = SKIPPED
        elif state.nodes[index].is_terminal:
            ids[node_task_id(row.workflow_id, index, state.runs[index])] = index
    return found, ids


SKIPPED = Err(TaskError(TaskErrorCode.UPSTREAM_SKIPPED, "the node was skipped"))


async def _why_not(gateway: WorkflowGateway, row: WorkflowRow, status: WorkflowStatus) -> tuple[TaskErrorCode, str]:
    """Why a workflow has no value."""
    match status:
        case WorkflowStatus.PAUSED:
            return TaskErrorCode.WORKFLOW_PAUSED, f"{_name(row)} is paused"
        case WorkflowStatus.CANCELLED:
            return TaskErrorCode.WORKFLOW_CANCELLED, f"{_name(row)} was cancelled"
        case WorkflowStatus.EXPIRED:
            return TaskErrorCode.WORKFLOW_EXPIRED, f"{_name(row)} has not ended by its good_until"
        case _:
            return _why_failed(row, (await spec_of(gateway, row)).spec)


def _why_failed(row: WorkflowRow, spec: Spec) -> tuple[TaskErrorCode, str]:
    state = read_state(row.state)
    failed = [spec.nodes[index].node_id for index, status in enumerate(state.nodes) if status is NodeStatus.FAILED]
    why = f"; node {failed[0]!r} ended with {row.error_code}" if failed else ""
    if _misses_its_cases(spec, state.nodes):
        return TaskErrorCode.SUCCESS_CASE_NOT_MET, f"{_name(row)}: in no success case were all nodes COMPLETED{why}"
    return TaskErrorCode.WORKFLOW_FAILED, f"{_name(row)}{why or ': its output has no value'}"


def _misses_its_cases(spec: Spec, nodes: Sequence[NodeStatus]) -> bool:
    met = [all(nodes[index] is NodeStatus.COMPLETED for index in case) for case in spec.success]
    return bool(met) and not any(met)


def _name(row: WorkflowRow) -> str:
    return f"workflow {row.name!r} {row.workflow_id}"
