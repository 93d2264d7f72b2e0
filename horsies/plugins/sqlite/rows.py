"""What both workers and the leader do to single rows, with the notices that belong to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from horsies.abc import Notice, TaskStatus, Topic

from .session import Transaction


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
    transaction.fetch(sql["end"], ending | {"status": status.value})
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
    transaction.fetch(sql["record"], {"id": task_id, "now": transaction.now, **past._asdict()})
    transaction.fetch(
        sql["again"], {"id": task_id, "phase": 0 if delayed else 1, "due_at": again_at, "retries": retries}
    )
    transaction.notify(Topic.WORK, f"{Notice.DELAYED if delayed else Notice.READY}{queue}")


def expire_one(sql: Mapping[str, str], transaction: Transaction, task_id: str) -> None:
    """Expire one task whose deadline was seen to have passed."""
    transaction.fetch(sql["expire_one"], {"id": task_id, "now": transaction.now})
    transaction.notify(Topic.FINISHED, task_id)
