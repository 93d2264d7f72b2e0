"""What follows from the end of an attempt. Pure: the loops of the worker only carry it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from .codes import TaskErrorCode
from .errors import TaskError
from .result import Err, Ok
from .retry import SupportsDelay, is_listed, next_delay
from .status import TaskStatus

CRASHED = TaskError(TaskErrorCode.WORKER_CRASHED, "the worker that ran the task is gone")
"""What a task that ran on a dead worker failed with; nobody was there to write it down."""

UNKNOWN_TASK_FIRST, UNKNOWN_TASK_CAP = 0.5, 10.0
"""Seconds: how long a task that this worker does not know is left to others, at first and at most."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ends: the status to write, and for PENDING when the next attempt is due."""

    status: TaskStatus
    retry_in: float = 0.0
    interrupted: bool = False


_COMPLETED = Ending(TaskStatus.COMPLETED)


def decide(
    result: Ok[Any] | Err[TaskError],
    *,
    policy: SupportsDelay | None,
    retry_for: Sequence[str] | None,
    retries: int,
    random: Random,
) -> Ending:
    """What becomes of a task whose user code ended with `result` after `retries` used retries.

    Whether the next attempt would still begin before `good_until` is decided by the database, in the statement.
    """
    if isinstance(result, Ok):
        return _COMPLETED
    if policy is not None and is_listed(result.error.code, retry_for):
        delay = next_delay(policy, retries + 1, result.error, random)
        if delay is not None:
            return Ending(TaskStatus.PENDING, retry_in=delay)
    return Ending(TaskStatus.FAILED)


def decide_interrupted(*, policy: SupportsDelay | None, retry_for: Sequence[str] | None) -> Ending:
    """What becomes of a task whose worker stops before user code has ended."""
    if policy is not None and outlives_crash(retry_for):
        return Ending(TaskStatus.PENDING, interrupted=True)
    return Ending(TaskStatus.FAILED)


def outlives_crash(retry_for: Sequence[str] | None) -> bool:
    """Whether a task may be tried again when its worker is gone; it takes a retry policy as well."""
    return retry_for is not None and TaskErrorCode.WORKER_CRASHED in retry_for


def retry_after_crash(
    *, policy: SupportsDelay | None, retry_for: Sequence[str] | None, retries: int, random: Random
) -> float | None:
    """Seconds to the retry of a task whose worker dies while it runs; None: such a task is not tried again.

    It is decided at the start, while somebody who knows the policy is alive.
    """
    if policy is None or not outlives_crash(retry_for):
        return None
    return next_delay(policy, retries + 1, CRASHED, random)


def patience_with_unknown(unknown_for: float, grace: float) -> float | None:
    """Seconds to leave a task that this worker does not know to others; None when `grace` has been used up.

    Args:
        unknown_for: seconds since the first worker gave the task back as unknown.
    """
    if unknown_for >= grace:
        return None
    return min(max(UNKNOWN_TASK_FIRST, unknown_for / 2), UNKNOWN_TASK_CAP)
