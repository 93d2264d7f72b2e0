"""The closed sets of codes, and the form a user's own code must have."""

from __future__ import annotations

import re
from enum import StrEnum


class TaskErrorCode(StrEnum):
    """Why horsies itself answers for a task. A user's code can never equal one of these (HRS-212)."""

    UNHANDLED_ERROR = "UNHANDLED_ERROR"
    """User code raised something other than `TaskError`; type, message and traceback are in `cause`."""
    TASK_TIMEOUT = "TASK_TIMEOUT"
    """User code ran longer than the task's `timeout`."""
    WORKER_CRASHED = "WORKER_CRASHED"
    """The worker, or the process it ran the task in, went away or had to stop while user code ran."""
    BROKER_ERROR = "BROKER_ERROR"
    """The database failed under `get()`, or did not take this task's result, which is lost."""
    WORKER_RESOLUTION_ERROR = "WORKER_RESOLUTION_ERROR"
    """No worker knew the task within `recovery.resolution_grace`, or the process meant to run it cannot import it."""
    WORKER_SERIALIZATION_ERROR = "WORKER_SERIALIZATION_ERROR"
    """The stored task cannot be read, its arguments not pickled for its process, or its result not stored."""
    RESULT_DESERIALIZATION_ERROR = "RESULT_DESERIALIZATION_ERROR"
    """The stored result cannot be read as the task's return type."""
    ARGUMENT_TYPE_MISMATCH = "ARGUMENT_TYPE_MISMATCH"
    """The stored arguments do not fit this worker's definition of the task."""
    RETURN_TYPE_MISMATCH = "RETURN_TYPE_MISMATCH"
    """User code returned something that is not its return type, or that cannot leave its process."""
    WAIT_TIMEOUT = "WAIT_TIMEOUT"
    """`get(timeout=...)` ran out; the task goes on."""
    TASK_NOT_FOUND = "TASK_NOT_FOUND"
    """No such task: never sent, or removed by retention."""
    RESULT_NOT_AVAILABLE = "RESULT_NOT_AVAILABLE"
    """The task ended, but its result is no longer stored."""
    RESULT_NOT_READY = "RESULT_NOT_READY"
    """The task has not ended yet."""
    TASK_CANCELLED = "TASK_CANCELLED"
    """The task was cancelled and has no result."""
    TASK_EXPIRED = "TASK_EXPIRED"
    """`good_until` passed before the task could start."""
    WORKFLOW_PAUSED = "WORKFLOW_PAUSED"
    """The workflow is paused, and has no result before it is resumed."""
    WORKFLOW_FAILED = "WORKFLOW_FAILED"
    """A node of the workflow failed, or its success policy was not met."""
    WORKFLOW_CANCELLED = "WORKFLOW_CANCELLED"
    """The workflow was cancelled."""
    WORKFLOW_EXPIRED = "WORKFLOW_EXPIRED"
    """`good_until` passed before the workflow ended."""
    SUBWORKFLOW_FAILED = "SUBWORKFLOW_FAILED"
    """The workflow that a node stands for failed, or could not be built."""
    SUCCESS_CASE_NOT_MET = "SUCCESS_CASE_NOT_MET"
    """The workflow has run, and in none of the cases of its success policy were all nodes COMPLETED."""
    WORKFLOW_NOT_FOUND = "WORKFLOW_NOT_FOUND"
    """No such workflow: never started, or removed by retention."""
    UPSTREAM_SKIPPED = "UPSTREAM_SKIPPED"
    """The node of a workflow never ran, because of what became of those it waited for."""


RETRYABLE_BUILTIN = frozenset({TaskErrorCode.UNHANDLED_ERROR, TaskErrorCode.TASK_TIMEOUT, TaskErrorCode.WORKER_CRASHED})


class TaskSendErrorCode(StrEnum):
    """Why a send did not enqueue."""

    SEND_SUPPRESSED = "SEND_SUPPRESSED"
    """`HORSIES_SUPPRESS_SENDS=1` is set, as `horsies check` does. Not retryable."""
    VALIDATION_FAILED = "VALIDATION_FAILED"
    """The call, an option or the payload is wrong; nothing reached the database. Not retryable."""
    ENQUEUE_FAILED = "ENQUEUE_FAILED"
    """The database failed. `retryable` says whether the same payload may succeed later."""
    PAYLOAD_MISMATCH = "PAYLOAD_MISMATCH"
    """A replay whose bytes are not those of the first send. Not retryable."""


_USER_CODE = re.compile(r"[A-Z][A-Z0-9_]*\Z")


def is_user_code(code: str) -> bool:
    """Whether `code` is upper snake case and not a built-in one."""
    return _USER_CODE.match(code) is not None and code not in TaskErrorCode.__members__
