"""The states of tasks, workflows and their nodes, and every transition there is.

The tables are the oracle: the SQL of each broker repeats that of tasks as guards, and the tests compare the two.
"""

from __future__ import annotations

from enum import StrEnum


class TaskStatus(StrEnum):
    """Where a task stands. The last four are terminal."""

    PENDING = "PENDING"
    """Queued, or waiting for its due time or its next retry."""
    CLAIMED = "CLAIMED"
    """Reserved by one worker; user code has not started."""
    RUNNING = "RUNNING"
    """User code has started."""
    COMPLETED = "COMPLETED"
    """User code returned a result."""
    FAILED = "FAILED"
    """The last attempt ended with an error, and no retry follows."""
    CANCELLED = "CANCELLED"
    """The task was cancelled before it had a result."""
    EXPIRED = "EXPIRED"
    """`good_until` passed before user code could start."""

    @property
    def is_terminal(self) -> bool:
        """True if the task has ended: the status never changes again."""
        return self in TERMINAL


class CancelOutcome(StrEnum):
    """What `handle.cancel()` came to."""

    CANCELLED = "CANCELLED"
    """The task had not started, and never will."""
    REQUESTED = "REQUESTED"
    """The task is running. It is told to stop; however it ends without a result, it ends CANCELLED."""
    ALREADY_FINISHED = "ALREADY_FINISHED"
    """The task had ended before. Nothing was changed."""
    NOT_FOUND = "NOT_FOUND"
    """No such task: never sent, or removed by retention."""


TERMINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.EXPIRED})

TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.CLAIMED, TaskStatus.EXPIRED, TaskStatus.CANCELLED}),
    TaskStatus.CLAIMED: frozenset(
        {TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.EXPIRED, TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.RUNNING: frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.PENDING, TaskStatus.CANCELLED}),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
    TaskStatus.EXPIRED: frozenset(),
}


def allowed(before: TaskStatus, after: TaskStatus) -> bool:
    """Whether a task may go from `before` to `after` in one step."""
    return after in TRANSITIONS[before]


class WorkflowStatus(StrEnum):
    """Where a workflow stands. All but the first two are terminal."""

    RUNNING = "RUNNING"
    """Nodes are enqueued as soon as the nodes that they wait for have ended."""
    PAUSED = "PAUSED"
    """What runs goes on, and nothing is enqueued until it is resumed."""
    COMPLETED = "COMPLETED"
    """The workflow met its success policy. Without one, every node is COMPLETED."""
    FAILED = "FAILED"
    """A node failed, or the success policy was not met."""
    CANCELLED = "CANCELLED"
    """The workflow was cancelled before it ended."""
    EXPIRED = "EXPIRED"
    """`good_until` passed before the workflow ended."""

    @property
    def is_terminal(self) -> bool:
        """True if the workflow has ended: the status never changes again."""
        return not WORKFLOW_TRANSITIONS[self]


WORKFLOW_TRANSITIONS: dict[WorkflowStatus, frozenset[WorkflowStatus]] = {
    WorkflowStatus.RUNNING: frozenset(WorkflowStatus) - {WorkflowStatus.RUNNING},
    WorkflowStatus.PAUSED: frozenset({WorkflowStatus.RUNNING, WorkflowStatus.CANCELLED, WorkflowStatus.EXPIRED}),
    WorkflowStatus.COMPLETED: frozenset(),
    WorkflowStatus.FAILED: frozenset(),
    WorkflowStatus.CANCELLED: frozenset(),
    WorkflowStatus.EXPIRED: frozenset(),
}


class NodeStatus(StrEnum):
    """Where a node of a workflow stands. The last three are ends, which only a rerun takes back."""

    PENDING = "PENDING"
    """It waits for other nodes."""
    READY = "READY"
    """It waits for nothing but the workflow, which is paused."""
    ENQUEUED = "ENQUEUED"
    """Its task is in the queue, or further."""
    RUNNING = "RUNNING"
    """User code has started."""
    COMPLETED = "COMPLETED"
    """The task, or the workflow that the node stands for, has a value."""
    FAILED = "FAILED"
    """The task, or the workflow that the node stands for, failed, expired or was cancelled."""
    SKIPPED = "SKIPPED"
    """It does not run: what it waits for did not come, or nobody waits for it any more."""

    @property
    def is_terminal(self) -> bool:
        """True if the node has ended. A rerun takes this back."""
        return self in NODE_ENDS


NODE_ENDS = frozenset({NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED})

NODE_TRANSITIONS: dict[NodeStatus, frozenset[NodeStatus]] = {
    NodeStatus.PENDING: frozenset({NodeStatus.READY, NodeStatus.SKIPPED}),
    # Back to PENDING: what it waits for runs again.
    NodeStatus.READY: frozenset({NodeStatus.ENQUEUED, NodeStatus.SKIPPED, NodeStatus.PENDING}),
    NodeStatus.ENQUEUED: frozenset({NodeStatus.RUNNING, NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED}),
    NodeStatus.RUNNING: frozenset({NodeStatus.COMPLETED, NodeStatus.FAILED}),
    NodeStatus.COMPLETED: frozenset(),
    NodeStatus.FAILED: frozenset({NodeStatus.PENDING}),
    NodeStatus.SKIPPED: frozenset({NodeStatus.PENDING}),
}
