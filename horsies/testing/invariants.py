"""What holds for the rows of any broker, whatever was called: a second opinion that knows nothing of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from horsies.abc import TaskRow, TaskStatus

from ._conformance.stage import STEPS
from .state_space import HELD, require

_FIXED = ("task_id", "task_name", "queue", "priority", "sent_at", "good_until", "envelope")


def check_change(before: TaskRow | None, after: TaskRow | None, *, calls: int = 1) -> None:
    """The laws of one row across `calls` calls, None where there is no row.

    Raises:
        Disagreement: one is broken.
    """
    if before == after:
        return
    require(after is not None, f"a row vanished: {before}")
    assert after is not None
    _check_row(after)
    if before is None:
        new = _reachable(TaskStatus.PENDING, calls - 1)
        require(after.status in new, f"{after.task_id} began as {after.status}")
        return
    name = before.task_id
    require(not before.status.is_terminal, f"{name} had ended and changed: {before} -> {after}")
    require(after.status in _reachable(before.status, calls), f"{name} went from {before.status} to {after.status}")
    for one in _FIXED:
        require(getattr(before, one) == getattr(after, one), f"{name}: {one} changed")
    started = after.attempt - before.attempt
    require(-calls <= started <= calls, f"{name}: attempt went from {before.attempt} to {after.attempt}")
    require(before.retries <= after.retries, f"{name}: retries went from {before.retries} to {after.retries}")
    kept = after.attempts[: len(before.attempts)] == before.attempts
    require(kept, f"{name}: an attempt that had ended changed: {before.attempts} -> {after.attempts}")
    if calls == 1:
        starts = {HELD, (TaskStatus.PENDING, TaskStatus.RUNNING)}
        require((started == 1) == ((before.status, after.status) in starts), f"{name}: an attempt without a start")
        unbegun = before.status is TaskStatus.RUNNING and after.started_at is None and after.attempts == before.attempts
        require((started == -1) == unbegun, f"{name}: an attempt that vanished")


def check_unique(rows: Iterable[TaskRow], keys: Mapping[str, str | None]) -> None:
    """Of the tasks of one name that have not ended, at most one has a key; `keys` are those that were sent, by id.

    Raises:
        Disagreement: several have.
    """
    held = Counter(
        (row.task_name, keys[row.task_id])
        for row in rows
        if not row.status.is_terminal and keys.get(row.task_id) is not None
    )
    require(max(held.values(), default=0) <= 1, f"a unique key is held more than once: {held}")


def _check_row(row: TaskRow) -> None:
    """What holds in every row by itself: an attempt has ended, or is the one of `started_at`."""
    name = row.task_id
    ended = row.attempt - (row.started_at is not None)
    numbers = [attempt.attempt for attempt in row.attempts]
    require(numbers == list(range(1, ended + 1)), f"{name}: attempts {numbers} where attempt is {row.attempt}")
    require(row.retries <= len(numbers), f"{name}: {row.retries} retries after {len(numbers)} attempts")
    require((row.status in HELD) <= (row.worker_id is not None), f"{name}: held by nobody")
    require((row.status is TaskStatus.PENDING) <= (row.worker_id is None), f"{name}: PENDING, and somebody's")
    require(row.status.is_terminal == (row.finished_at is not None), f"{name}: {row.status}, {row.finished_at}")
    began = row.started_at is not None
    must = row.status in (TaskStatus.RUNNING, TaskStatus.COMPLETED)
    must_not = row.status in (TaskStatus.PENDING, TaskStatus.CLAIMED, TaskStatus.EXPIRED)
    require(must <= began and must_not <= (not began), f"{name}: {row.status}, started at {row.started_at}")


def _reachable(status: TaskStatus, calls: int) -> set[TaskStatus]:
    """Where a task can be after at most `calls` calls, each of which takes at most one of `STEPS`."""
    found = {status}
    for _ in range(calls):
        found |= {after for before, after in STEPS if before in found}
    return found
