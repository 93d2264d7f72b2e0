"""From what has happened to a workflow to what is written for it: the engine's commands as tasks, parts and signals.

A part is a workflow that a node stands for. Its id is that of the node's run, as a task's would be, so that whoever
makes it makes the same. A part and its whole tell each other of what they do by signals, which are events of the
engine: the whole of pauses, resumes and cancellations, the part of its end. A workflow with more to cancel than one
transaction should tells itself to go on, so that whoever advances it next does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime

import msgspec

from ..._core.codes import TaskErrorCode
from ..._core.instants import instant_of
from ..._core.status import NodeStatus, TaskStatus, WorkflowStatus
from ..._payload.envelope import sha_of
from ..._payload.lowering import UNDECODABLE
from ..._send.gateway import Gateway
from ...abc import LARGE, EndedTask, News, NewTask, NewWorkflow, Signal, Step, WorkflowRow
from ..definition.spec import Spec, sealed
from ..node_ids import node_of, node_task_id
from ..offload import uncollected
from .engine import (
    Cancelled,
    CancelRest,
    CancelTask,
    Command,
    Ended,
    Enqueue,
    Event,
    Expired,
    NodeEnded,
    Open,
    Opened,
    Paused,
    Resumed,
    Started,
    advance,
    begin,
)
from .expansion import opened
from .node_tasks import task_of
from .state import State
from .stored_workflow import MissingError, encode_state, plan_of, read_spec, read_state, stored

_signals: msgspec.msgpack.Decoder[NodeEnded | Paused | Resumed | Cancelled | CancelRest] = msgspec.msgpack.Decoder(
    NodeEnded | Paused | Resumed | Cancelled | CancelRest
)
_encode_signal = msgspec.msgpack.Encoder().encode

ENDED_AS = {
    WorkflowStatus.FAILED: TaskErrorCode.SUBWORKFLOW_FAILED,
    WorkflowStatus.CANCELLED: TaskErrorCode.WORKFLOW_CANCELLED,
    WorkflowStatus.EXPIRED: TaskErrorCode.WORKFLOW_EXPIRED,
}
"""How a node failed whose workflow ended so."""


def begun(
    gateway: Gateway,
    spec: Spec,
    workflow_id: str,
    *,
    data: bytes | None = None,
    sha: bytes | None = None,
    parent_id: str | None = None,
    root_id: str | None = None,
    good_until: datetime | None = None,
    sent_at: datetime | None = None,
    is_paused: bool = False,
) -> NewWorkflow:
    """A workflow that starts, with everything that starts with it.

    Args:
        data: the canonical bytes of `spec`, where somebody has encoded it already.
        sha: what tells a replay; that of the spec unless it is given.
        sent_at: now, unless it is given.

    Raises:
        ValueError: the spec, or a task of it, cannot be written.
    """
    if data is None:
        spec, data = sealed(spec)
    plan = plan_of(spec)
    state, commands = advance(plan, begin(plan), [Paused(), Started()] if is_paused else [Started()])
    tasks, parts = _put_in(gateway, spec, state, commands, workflow_id, root_id, {})
    return NewWorkflow(
        workflow_id=workflow_id,
        sha=sha_of(data) if sha is None else sha,
        name=spec.name,
        version=spec.version,
        spec=stored(spec, data),
        state=encode_state(state),
        status=state.status,
        sent_at=sent_at or gateway.environment.clock(),
        tasks=tasks,
        parts=parts,
        parent_id=parent_id,
        root_id=root_id,
        good_until=good_until,
    )


def follow(gateway: Gateway, news: News, wishes: Sequence[Event] = ()) -> Step:
    """What is to be written for a workflow that something has happened to.

    Args:
        wishes: what somebody wants of it, after that.

    Returns:
        The step; or one that says what of the spec has to be read for it.

    Raises:
        ValueError: it cannot be read, or a task of it cannot be made.
    """
    try:
        with uncollected() if is_large(news) else nullcontext():
            return _follow(gateway, news, wishes)
    except MissingError as missing:
        return Step(news.row.workflow_id, state=news.row.state, status=news.row.status, reads=missing.ranges)


def _follow(gateway: Gateway, news: News, wishes: Sequence[Event]) -> Step:
    """Raises: MissingError; ValueError."""
    row = news.row
    found, before = read_spec(row, news.slices), read_state(row.state)
    children: dict[int, Spec] = {}
    events = [*_ends(gateway, found.spec, news.ended, children), *map(_read_signal, news.signals)]
    if news.is_overdue:
        events.append(Expired())
    events += wishes
    after, commands = advance(found.plan, before, events)
    spec = found.filled([one.index for one in commands if isinstance(one, Enqueue)], row, news.slices)
    tasks, parts = _put_in(gateway, spec, after, commands, row.workflow_id, row.root_id, children)
    over = [part for part in parts if WorkflowStatus(part.status).is_terminal]
    cancelled = [(one.index, one.run) for one in commands if isinstance(one, CancelTask)]
    ended = next((one for one in commands if isinstance(one, Ended)), None)
    failed = None if ended is None else ended.failed
    return Step(
        row.workflow_id,
        state=encode_state(after),
        status=after.status,
        error_code=None if failed is None else after.codes.get(failed),
        tasks=tasks,
        cancel=tuple(
            node_task_id(row.workflow_id, index, run) for index, run in cancelled if spec.nodes[index].child is None
        ),
        parts=parts,
        signals=(
            *_to_parts(row, spec, before, after, events),
            *(_signal(row, index, run, Cancelled()) for index, run in cancelled if spec.nodes[index].kind != "task"),
            *(_end_of(row.workflow_id, part.workflow_id, WorkflowStatus(part.status)) for part in over),
            *([_end_of(row.parent_id, row.workflow_id, ended.status)] if ended and row.parent_id else ()),
            *(Signal(row.workflow_id, _encode_signal(one)) for one in commands if isinstance(one, CancelRest)),
        ),
        has_more=news.has_more,
    )


def is_large(news: News) -> bool:
    """Whether it takes long to follow up what has happened."""
    return len(news.row.state) > LARGE or any(len(end.result or b"") > LARGE for end in news.ended)


def concerned(steps: Iterable[Step]) -> set[str]:
    """The workflows that are to be advanced after these steps: for signals, and ends of what had not started."""
    found: set[str] = set()
    for step in steps:
        found.update(signal.workflow_id for signal in step.signals)
        if step.cancel or step.has_more:
            found.add(step.workflow_id)
    return found


def _ends(gateway: Gateway, spec: Spec, tasks: Iterable[EndedTask], children: dict[int, Spec]) -> list[Event]:
    """What the engine is told of tasks that have ended; what they have opened goes into `children`."""
    events: list[Event] = []
    for task in tasks:
        index, run = node_of(task.task_id)
        node = spec.nodes[index]
        if task.status is TaskStatus.COMPLETED and node.kind != "task":
            children[index] = opened(gateway, spec, node, task.result)
            events.append(Opened(index, run))
        else:
            events.append(NodeEnded(index, run, task.status is TaskStatus.COMPLETED, task.error_code or task.status))
    return events


def _put_in(
    gateway: Gateway,
    spec: Spec,
    state: State,
    commands: Sequence[Command],
    workflow_id: str,
    root_id: str | None,
    children: dict[int, Spec],
) -> tuple[tuple[NewTask, ...], tuple[NewWorkflow, ...]]:
    """The tasks and the parts that begin by these commands."""
    tasks, parts = [], []
    for one in commands:
        if not isinstance(one, Enqueue | Open):
            continue
        node = spec.nodes[one.index]
        child = children[one.index] if isinstance(one, Open) else node.child
        if child is None:
            tasks.append(task_of(gateway, spec, workflow_id, one.index, state.runs))
        else:
            parts.append(
                begun(
                    gateway,
                    child,
                    node_task_id(workflow_id, one.index, one.run),
                    parent_id=workflow_id,
                    root_id=root_id or workflow_id,
                    good_until=None if node.kind == "map" or node.good_until is None else instant_of(node.good_until),
                    is_paused=state.status is WorkflowStatus.PAUSED,
                )
            )
    return tuple(tasks), tuple(parts)


def _to_parts(row: WorkflowRow, spec: Spec, before: State, after: State, events: Sequence[Event]) -> list[Signal]:
    """What the parts are told of a pause, or of its end. One that is not there yet starts as its whole stands then."""
    if before.status is after.status or after.status.is_terminal:
        return []
    resumes = [event for event in events if isinstance(event, Resumed)]
    told: Event = Paused() if after.status is WorkflowStatus.PAUSED else resumes[-1]
    return [
        _signal(row, index, before.runs[index], told)
        for index, node in enumerate(spec.nodes)
        if node.kind != "task" and before.nodes[index] in (NodeStatus.ENQUEUED, NodeStatus.RUNNING)
    ]


def _end_of(whole_id: str, part_id: str, status: WorkflowStatus) -> Signal:
    """What a whole is told of a part that has ended."""
    index, run = node_of(part_id)
    end = NodeEnded(index, run, status is WorkflowStatus.COMPLETED, ENDED_AS.get(status))
    return Signal(whole_id, _encode_signal(end))


def _signal(row: WorkflowRow, index: int, run: int, event: Event) -> Signal:
    return Signal(node_task_id(row.workflow_id, index, run), _encode_signal(event))


def _read_signal(data: bytes) -> Event:
    try:
        return _signals.decode(data)
    except UNDECODABLE as error:
        raise ValueError("a signal to the workflow cannot be read") from error
