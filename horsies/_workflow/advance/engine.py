"""What to do when something has happened to a workflow: a pure function of its plan, where it stands, and the events.

**When a node runs.** A node waits for its `needs`. One that has run or was SKIPPED has ended.

- `join=0`: it runs once all of them are COMPLETED, and is SKIPPED as soon as one has ended otherwise. With
  `allow_failed` it is not: it runs once all have ended, whatever became of them.
- `join=n`: it runs as soon as n are COMPLETED, and is SKIPPED as soon as n are out of reach. `allow_failed` changes
  nothing here.
- `cancel_losers`, with `join=n`: once n are COMPLETED, the others lose, even if the node that waits has lost itself.
  A loser that was not enqueued is SKIPPED; one that was is cancelled, and stays as it is until it ends. Only what
  nobody else has a use for can lose: no other node waits for it, it is not the output, and no case of the success
  policy names it.

A node whose join is satisfied is READY, and is enqueued at once unless the workflow is PAUSED. Each time that it is
enqueued is a run of its own, from 1. It is ENQUEUED until its task ends: whether that runs yet, the task says. A node
that stands for a workflow of its own is ENQUEUED until that is opened, which is when it is known what it consists of,
then RUNNING. One that has lost, or whose workflow is over, is not opened any more, but FAILED.

**Failures.** A FAILED node counts unless it is optional or a loser. Whether a loser failed before it lost or because
of it makes no difference: otherwise a race would decide what becomes of the workflow.

- `on_error="fail"`: everything that can still run does.
- `on_error="pause"`: whenever a failure that counts comes while the workflow is RUNNING, it becomes PAUSED.

**The end.** When all nodes have ended, losers too, a RUNNING workflow ends as well. It is FAILED when

- its output, if it has one, is not COMPLETED; or
- there is a success policy, and in each of its cases a node is not COMPLETED; or
- there is none, and a failure counts.

Otherwise it is COMPLETED. A SKIPPED node by itself fails nothing. A PAUSED workflow has to be resumed before it ends,
so that what failed can run again.

**From outside.** A pause holds back what would be enqueued, nothing else: nodes go on to end, and to be SKIPPED.
Resuming goes on with what is READY. With `rerun_failed`, all FAILED and SKIPPED nodes except losers are PENDING again
first, and so is a READY one that waited for their failure; COMPLETED ones stay. Cancelling and expiry end the workflow
at once: what was not enqueued is SKIPPED, the tasks of the rest are cancelled, and how they end is only noted.

One call cancels at most `PORTION` nodes. `CancelRest`, as a command, names the index to go on from; as an event, in a
call of its own, it does that. Until then the task of a node further on may start.

**What is no news.** An event that comes twice, an end of another run than the last, an end of a node that has ended,
a resume of what is not paused, and anything but what becomes of a node once the workflow has ended change nothing.

**Order.** Several events are taken one after the other, so how they are spread over calls makes no difference. In
which order tasks end makes none for where everything ends up: only whether a loser was SKIPPED or has run depends on
it, and what a pause, a cancellation or expiry finds.

The cost of an event is that of the edges it touches: the state counts for each node what has ended of its needs, and
the plan knows its edges in the other direction. (A call copies the state, which is a matter of microseconds.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from ..._core.codes import TaskErrorCode
from ..._core.status import NodeStatus, WorkflowStatus
from .state import Plan, State

PORTION = 1_000
"""Nodes that one call cancels at most: what cancels their tasks is one transaction, and others wait for its locks."""


class _Event(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """What can happen. Workflows tell each other of it, so it can be written."""


class Started(_Event, frozen=True):
    """The workflow begins: its roots run."""


class NodeEnded(_Event, frozen=True):
    """The task of a node has ended for good, that is, after all its retries; or the workflow that it stands for has."""

    index: int
    run: int
    completed: bool
    code: str | None = None


class Opened(_Event, frozen=True):
    """It is known now what the workflow consists of that a node stands for."""

    index: int
    run: int


class Paused(_Event, frozen=True):
    pass


class Resumed(_Event, frozen=True):
    rerun_failed: bool = False


class Cancelled(_Event, frozen=True):
    pass


class Expired(_Event, frozen=True):
    pass


class CancelRest(_Event, frozen=True):
    """The nodes from `index` on that are to be cancelled have not been: they are losers, or the workflow is over."""

    index: int


Event: TypeAlias = Started | NodeEnded | Opened | Paused | Resumed | Cancelled | Expired | CancelRest


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Put the task of a node in. There is never a second one for the same index and run."""

    index: int
    run: int


@dataclass(frozen=True, slots=True)
class Open:
    """Start the workflow that a node stands for. There is never a second one for the same index and run."""

    index: int
    run: int


@dataclass(frozen=True, slots=True)
class CancelTask:
    """Cancel what was put in for a node: its task or its workflow. It may have been cancelled before, as a loser."""

    index: int
    run: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The workflow is over; only `CancelRest` comes after it. A pause has no command: compare the states.

    `failed` is the first failure of a FAILED workflow by index: of those that count, else of the optional ones.
    """

    status: WorkflowStatus
    failed: int | None = None


Command: TypeAlias = Enqueue | Open | CancelTask | Ended | CancelRest


def begin(plan: Plan) -> State:
    """Where a workflow stands before `Started`."""
    count = len(plan.nodes)
    pending, zeros = [NodeStatus.PENDING] * count, [0] * count
    return State(WorkflowStatus.RUNNING, pending, zeros, zeros.copy(), zeros.copy(), left=count, codes={})


def advance(plan: Plan, state: State, events: Iterable[Event]) -> tuple[State, list[Command]]:
    """Where the workflow stands after `events`, and what is to be done about them, in this order.

    `state` is left as it is.
    """
    after = State(
        state.status,
        state.nodes.copy(),
        state.runs.copy(),
        state.ended.copy(),
        state.completed.copy(),
        state.left,
        state.codes.copy(),
    )
    step = _Step(plan, after)
    for event in events:
        step.take(event)
    if step.rest is not None:
        step.commands.append(CancelRest(step.rest))
    return after, step.commands


_UNDER_WAY = (NodeStatus.ENQUEUED, NodeStatus.RUNNING)


class _Step:
    """One call of `advance`, while it is at work."""

    def __init__(self, plan: Plan, state: State) -> None:
        self.commands: list[Command] = []
        self.rest: int | None = None
        """The first node that was to be cancelled when the portion was full."""
        self._cancels = 0
        self._plan = plan
        self._state = state
        self._news: list[int] = []
        """Nodes that have ended, and whose dependents do not know it yet."""

    def take(self, event: Event) -> None:
        state = self._state
        match event:
            case NodeEnded():
                self._end_node(event)
            case Opened():
                self._open(event)
            case CancelRest(first):
                self._cancel_rest(first)
            case _ if state.status.is_terminal:
                return
            case Cancelled():
                self._stop(WorkflowStatus.CANCELLED)
            case Expired():
                self._stop(WorkflowStatus.EXPIRED)
            case Paused():
                state.status = WorkflowStatus.PAUSED
            case Resumed(rerun_failed) if state.status is WorkflowStatus.PAUSED:
                state.status = WorkflowStatus.RUNNING
                if rerun_failed:
                    self._take_back_failures()
                self._settle()
            case Started():
                self._settle()
        self._spread()
        if state.left == 0 and state.status is WorkflowStatus.RUNNING:
            self._end()

    def _end_node(self, event: NodeEnded) -> None:
        index, state = event.index, self._state
        if state.nodes[index] not in _UNDER_WAY or event.run != state.runs[index]:
            return
        if event.completed:
            self._close(index, NodeStatus.COMPLETED)
            return
        self._close(index, NodeStatus.FAILED)
        if event.code is not None:
            state.codes[index] = event.code
        pauses = self._plan.on_error == "pause" and self._counts(index)
        if pauses and state.status is WorkflowStatus.RUNNING:
            state.status = WorkflowStatus.PAUSED

    def _open(self, event: Opened) -> None:
        index, state = event.index, self._state
        if state.nodes[index] is not NodeStatus.ENQUEUED or event.run != state.runs[index]:
            return
        if state.status.is_terminal or self._has_lost(index):
            self._close(index, NodeStatus.FAILED)
            state.codes[index] = TaskErrorCode.TASK_CANCELLED
        else:
            state.nodes[index] = NodeStatus.RUNNING
            self.commands.append(Open(index, event.run))

    def _close(self, index: int, status: NodeStatus) -> None:
        self._state.nodes[index] = status
        self._state.left -= 1
        self._news.append(index)

    def _spread(self) -> None:
        """Tell those that wait for what has ended, and then those that wait for what was SKIPPED for it, and so on."""
        state = self._state
        while self._news:
            index = self._news.pop()
            dependents = self._plan.dependents[index]
            is_good = state.nodes[index] is NodeStatus.COMPLETED
            for dependent in dependents:
                state.ended[dependent] += 1
                if is_good:
                    self._count_completed(dependent)
            # Only now: one of them may have lost by what another has learnt.
            for dependent in dependents:
                if state.nodes[dependent] is NodeStatus.PENDING:
                    self._settle_node(dependent)

    def _count_completed(self, index: int) -> None:
        node, state = self._plan.nodes[index], self._state
        state.completed[index] += 1
        if node.cancel_losers and state.completed[index] == node.join and not state.status.is_terminal:
            self._drop(need for need in node.needs if self._has_lost(need))

    def _settle(self) -> None:
        for index, status in enumerate(self._state.nodes):
            if status in (NodeStatus.PENDING, NodeStatus.READY):
                self._settle_node(index)

    def _settle_node(self, index: int) -> None:
        """Enqueue a node, skip it, or have it wait, by what is known of its needs."""
        node, state = self._plan.nodes[index], self._state
        ended, needs = state.ended[index], len(node.needs)
        good = ended if node.allow_failed and not node.join else state.completed[index]
        wanted = node.join or needs
        if good + needs - ended < wanted:
            self._close(index, NodeStatus.SKIPPED)
        elif good < wanted:
            state.nodes[index] = NodeStatus.PENDING
        elif state.status is WorkflowStatus.RUNNING:
            state.nodes[index] = NodeStatus.ENQUEUED
            state.runs[index] += 1
            self.commands.append(Enqueue(index, state.runs[index]))
        else:
            state.nodes[index] = NodeStatus.READY

    def _drop(self, indexes: Iterable[int]) -> None:
        """Skip what was not enqueued, and cancel what was."""
        for index in indexes:
            status = self._state.nodes[index]
            if status in _UNDER_WAY:
                self._cancel(index)
            elif not status.is_terminal:
                self._close(index, NodeStatus.SKIPPED)

    def _cancel(self, index: int) -> None:
        """Cancel the run of a node, or leave it for later where this call has cancelled enough."""
        if self._cancels < PORTION:
            self._cancels += 1
            self.commands.append(CancelTask(index, self._state.runs[index]))
        elif self.rest is None or index < self.rest:
            self.rest = index

    def _cancel_rest(self, first: int) -> None:
        nodes, is_over = self._state.nodes, self._state.status.is_terminal
        for index in range(first, len(nodes)):
            if self.rest is not None:
                return
            if nodes[index] in _UNDER_WAY and (is_over or self._has_lost(index)):
                self._cancel(index)

    def _take_back_failures(self) -> None:
        state = self._state
        for index, status in enumerate(state.nodes):
            if status in (NodeStatus.FAILED, NodeStatus.SKIPPED) and not self._has_lost(index):
                state.nodes[index] = NodeStatus.PENDING
                state.left += 1
                state.codes.pop(index, None)
                for dependent in self._plan.dependents[index]:
                    state.ended[dependent] -= 1

    def _stop(self, status: WorkflowStatus) -> None:
        self._state.status = status
        self._drop(range(len(self._plan.nodes)))
        self.commands.append(Ended(status))

    def _has_lost(self, index: int) -> bool:
        """Whether a node that is not COMPLETED is a loser."""
        join = self._plan.joins_of_losers.get(index)
        return join is not None and self._state.completed[join] >= self._plan.nodes[join].join

    def _counts(self, index: int) -> bool:
        return index not in self._plan.optional and not self._has_lost(index)

    def _end(self) -> None:
        plan, nodes = self._plan, self._state.nodes
        failed = [i for i, status in enumerate(nodes) if status is NodeStatus.FAILED and not self._has_lost(i)]
        first = min(failed, key=lambda index: (index in plan.optional, index), default=None)

        def is_met(case: Iterable[int]) -> bool:
            return all(nodes[index] is NodeStatus.COMPLETED for index in case)

        is_good = any(map(is_met, plan.success)) if plan.success else first is None or first in plan.optional
        if is_good and (plan.output is None or is_met((plan.output,))):
            self._state.status, first = WorkflowStatus.COMPLETED, None
        else:
            self._state.status = WorkflowStatus.FAILED
        self.commands.append(Ended(self._state.status, first))
