"""What both workers and the leader do to single rows, with the notices that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from horsies.abc import Lease, Notice, TaskStatus, Topic

from .session import Row, Transaction, after

_CRASHED = "WORKER_CRASHED"


class Past(NamedTuple):
    """An attempt that ended."""

    attempt: int
    worker: str
    started_at: int
    error_code: str | None
    result: bytes | None


def end_task(
    sql: Mapping[str, str],
    transaction: Transaction,
    task_id: str,
    status: TaskStatus,
    error_code: str | None,
    result: bytes | None,
) -> None:
    """The last attempt of a task has ended."""
    ending = {"id": task_id, "now": transaction.now, "error_code": error_code, "result": result}
    transaction.fetch(sql["tasks.end"], ending | {"status": status.value})
    transaction.notify(Topic.FINISHED, task_id)


def try_again(
    sql: Mapping[str, str],
    transaction: Transaction,
    task_id: str,
    queue: str,
    again_at: int,
    past: Past,
    *,
    retries: int,
) -> None:
    """Record the attempt that ended, and make the task PENDING for another."""
    delayed = again_at > transaction.now
    transaction.fetch(sql["tasks.record"], {"id": task_id, "now": transaction.now, **past._asdict()})
    transaction.fetch(
        sql["tasks.again"], {"id": task_id, "phase": 0 if delayed else 1, "due_at": again_at, "retries": retries}
    )
    transaction.notify(Topic.WORK, f"{Notice.DELAYED if delayed else Notice.READY}{queue}")


def expire_one(sql: Mapping[str, str], transaction: Transaction, task_id: str) -> None:
    """Expire one task whose deadline was seen to have passed."""
    transaction.fetch(sql["tasks.expire_one"], {"id": task_id, "now": transaction.now})
    transaction.notify(Topic.FINISHED, task_id)


def take_orphan(sql: Mapping[str, str], transaction: Transaction, orphan: Row) -> None:
    """Give a held task, by its row in `orphans`, the verdict that its start stored for a crash."""
    task_id, status, queue, good_until, attempt, started_at, cancel_requested_at, worker_id, delay = orphan
    # There is room now, should the queue have a cap.
    transaction.notify(Topic.WORK, f"{Notice.READY}{queue}")
    again_at = None if delay is None else after(transaction.now, delay)
    if status == TaskStatus.CLAIMED and good_until is not None and good_until <= transaction.now:
        expire_one(sql, transaction, task_id)
    elif status == TaskStatus.CLAIMED:
        transaction.fetch(sql["tasks.give_back"], {"id": task_id})
    elif cancel_requested_at is not None:
        end_task(sql, transaction, task_id, TaskStatus.CANCELLED, _CRASHED, None)
    elif again_at is not None and (good_until is None or good_until > again_at):
        past = Past(attempt, worker_id, started_at, _CRASHED, None)
        try_again(sql, transaction, task_id, queue, again_at, past, retries=1)
    else:
        end_task(sql, transaction, task_id, TaskStatus.FAILED, _CRASHED, None)


def gap_of(heartbeat_interval: float) -> int:
    """Microseconds between two heartbeats beyond which the worker was not steady."""
    return round(2e6 * heartbeat_interval)


def held_row(sql: Mapping[str, str], transaction: Transaction, worker_id: str, lease: Lease) -> Row | None:
    """What the fence finds of a task that a worker holds by this claim."""
    given = {"id": lease.task_id, "claim_number": lease.claim_number, "worker": worker_id}
    rows = transaction.fetch(sql["tasks.held"], given)
    return rows[0] if rows else None
