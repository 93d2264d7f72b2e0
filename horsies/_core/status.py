"""The states of a task and every transition there is.

The table is the oracle: the SQL of each broker repeats it as guards, and the tests compare the two.
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
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    """`good_until` passed before user code could start."""

    @property
    def is_terminal(self) -> bool:
        return self in TERMINAL


class CancelOutcome(StrEnum):
    """What `handle.cancel()` came to."""

    CANCELLED = "CANCELLED"
    """The task had not started, and never will."""
    REQUESTED = "REQUESTED"
    """The task is running. It is told to stop; however it ends without a result, it ends CANCELLED."""
    ALREADY_FINISHED = "ALREADY_FINISHED"
    NOT_FOUND = "NOT_FOUND"


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
