"""`TaskHandle`: the way back to a task that was sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from .._core.codes import TaskErrorCode
from .._core.errors import BrokerError, TaskError
from .._core.instants import wait
from .._core.outcome import CRASHED
from .._core.result import Err, Ok, Result
from .._core.status import CancelOutcome, TaskStatus
from .._payload.envelope import decode
from .._payload.stored_result import decode_result
from ..abc import StoredResult, TaskRow
from .gateway import Gateway

T = TypeVar("T")

TaskResult: TypeAlias = Ok[T] | Err[TaskError]
"""The result of a task with a value of type `T`, or the error that it failed with."""


ERROR_CODES = {TaskStatus.CANCELLED: TaskErrorCode.TASK_CANCELLED, TaskStatus.EXPIRED: TaskErrorCode.TASK_EXPIRED}
"""The codes of ends that no attempt has given."""
FIRST_LOOK = 2.0
"""Seconds that the database has for its first answer to a `get`, also where the timeout is shorter."""


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """An attempt that ended and was followed by another."""

    attempt: int
    """Number of the attempt, from 1."""
    worker_id: str
    """Id of the worker that ran it."""
    started_at: datetime
    """When user code started, aware UTC."""
    finished_at: datetime
    """When the attempt ended, aware UTC."""
    error: TaskError
    """What it failed with."""


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as it is stored in the database. Instants are aware UTC."""

    task_id: str
    """Id of the task: a UUID in lower case."""
    task_name: str
    """Name that the task was declared with."""
    queue: str
    """Queue that it was sent to."""
    priority: int
    """1 (first) to 100 (last)."""
    status: TaskStatus
    """Where the task stands."""
    attempt: int
    """How many times user code has started."""
    sent_at: datetime
    """When it was sent, by the sender's clock."""
    due_at: datetime
    """When it can be claimed: the due time of the send, or of the next retry."""
    claimed_at: datetime | None
    """When the worker of `worker_id` claimed it; None: the task waits, or no worker ran it."""
    started_at: datetime | None
    """When user code of the last attempt started; None: it has not."""
    finished_at: datetime | None
    """When it ended; None: it has not."""
    good_until: datetime | None
    """Last instant at which it may begin; None: no limit."""
    worker_id: str | None
    """Id of the worker that holds it or ended it; None: the task waits, or no worker ran it."""
    error_code: str | None
    """Code of the error that it ended with; None: it has not ended, or has a value."""
    metadata: Mapping[str, str]
    """Metadata of the send."""
    result: TaskResult[Any] | None = None
    """Result of a task that has ended, if `include_result` asked for it."""
    failed_reason: str | None = None
    """Error and traceback of a task that failed, as text, if `include_failed_reason` asked for it."""
    attempts: tuple[AttemptInfo, ...] = ()
    """Attempts before the last one, if `include_attempts` asked for them."""


class TaskHandle(Generic[T]):
    """A task that was sent. Handles are cheap, and can be made anywhere with `rt.handle(task_id)`."""

    task_id: str
    """Id of the task: a UUID in lower case."""
    deduplicated: bool
    """True if the send found an unfinished task with the same unique key, and this handle is that task's."""

    def __init__(self, gateway: Gateway, task_id: str, *, deduplicated: bool = False) -> None:
        self._gateway = gateway
        self._result: TaskResult[T] | None = None
        self.task_id = task_id
        self.deduplicated = deduplicated

    async def get(self, timeout: float | timedelta | None = None) -> TaskResult[T]:
        """Wait for the task's end.

        Args:
            timeout: seconds or a timedelta from 0; when it runs out the answer is WAIT_TIMEOUT and the task goes on.
                The database is asked once in any case, for 2 s at most: `get(timeout=0)` gives the result of a task
                that has ended.

        Returns:
            The task's own result, which is remembered; or `Err` with TASK_EXPIRED, TASK_CANCELLED, TASK_NOT_FOUND,
            WAIT_TIMEOUT, BROKER_ERROR or RESULT_DESERIALIZATION_ERROR.

        Raises:
            ValueError: `timeout` is negative, or no time at all.
        """
        seconds = seconds_of(timeout)
        self._gateway.refuse_in_fork()
        if self._result is not None:
            await anyio.lowlevel.checkpoint()
            return self._result
        try:
            with anyio.move_on_after(None if seconds is None else max(seconds, FIRST_LOOK)):
                stored = await self._gateway.wait_finished(self.task_id, seconds)
                if stored is None:
                    return Err(TaskError(TaskErrorCode.TASK_NOT_FOUND, f"there is no task {self.task_id}"))
                self._result = result_of(self._gateway, stored)
                return self._result
        except BrokerError as error:
            return Err(TaskError(TaskErrorCode.BROKER_ERROR, error.message))
        except TimeoutError:
            pass
        return Err(TaskError(TaskErrorCode.WAIT_TIMEOUT, f"task {self.task_id} has not ended in time; it goes on"))

    async def info(
        self, include_result: bool = False, include_failed_reason: bool = False, include_attempts: bool = False
    ) -> Result[TaskInfo | None, BrokerError]:
        """Read the task from the database.

        Args:
            include_result: also decode the result, if the task has ended.
            include_failed_reason: also give error and traceback as text, if the task has failed.
            include_attempts: also give the attempts before the last one.

        Returns:
            The task as it is stored, or `Ok(None)` if there is no such task; `Err` if the database failed.
        """
        try:
            row = await self._gateway.read(self.task_id)
        except BrokerError as error:
            return Err(error)
        if row is None:
            return Ok(None)
        info = _info_of(row)
        if row.status.is_terminal and (include_result or include_failed_reason):
            result = result_of(
                self._gateway, StoredResult(row.task_id, row.task_name, row.status, row.error_code, row.result)
            )
            info = replace(
                info,
                result=result if include_result else None,
                failed_reason=_reason(result) if include_failed_reason else None,
            )
        if include_attempts:
            info = replace(info, attempts=_attempts_of(row))
        return Ok(info)

    async def cancel(self) -> Result[CancelOutcome, BrokerError]:
        """Cancel the task, or ask for it.

        One that waits or is only claimed is CANCELLED at once and never runs. A running async one is cancelled where it
        waits, a sync one sees `ctx.cancelled`; whatever it ends with other than a result, it ends CANCELLED and is not
        tried again.
        """
        try:
            return Ok(await self._gateway.cancel(self.task_id))
        except BrokerError as error:
            return Err(error)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.task_id}>"


def seconds_of(timeout: object) -> float | None:
    """The timeout of a `get` in seconds. Raises: ValueError, it is none."""
    try:
        return wait(timeout)
    except ValueError as error:
        raise ValueError(f"timeout of get() {error}") from None


def plain_result_of(gateway: Gateway, stored: StoredResult) -> TaskResult[Any]:
    """The result of a task that has ended, a value as plain builtins."""
    return result_of(gateway, stored, is_plain=True)


def result_of(gateway: Gateway, stored: StoredResult, *, is_plain: bool = False) -> TaskResult[Any]:
    """The result of a task that has ended, decoded to its return type where this application knows the task."""
    if stored.status is TaskStatus.EXPIRED:
        return Err(TaskError(TaskErrorCode.TASK_EXPIRED, "good_until passed before the task could begin"))
    if stored.status is TaskStatus.CANCELLED:
        return Err(TaskError(TaskErrorCode.TASK_CANCELLED, "the task was cancelled"))
    if stored.result is None and stored.error_code == TaskErrorCode.WORKER_CRASHED:
        return Err(CRASHED)
    if stored.result is None and stored.error_code == TaskErrorCode.WORKER_SERIALIZATION_ERROR:
        return Err(TaskError(TaskErrorCode.WORKER_SERIALIZATION_ERROR, "the stored row of the task cannot be used"))
    if stored.result is None:
        return Err(TaskError(TaskErrorCode.RESULT_NOT_AVAILABLE, f"task {stored.task_id} has no stored result"))
    task = None if is_plain else gateway.app.tasks.get(stored.task_name)
    codec = None if task is None else task.signature.return_codec
    try:
        result: TaskResult[Any] = decode_result(stored.result, codec, gateway.serializers)
    except ValueError as error:
        return Err(TaskError(TaskErrorCode.RESULT_DESERIALIZATION_ERROR, f"task {stored.task_name!r}: {error}"))
    return result


def _reason(result: TaskResult[Any]) -> str | None:
    if isinstance(result, Ok):
        return None
    cause = result.error.cause
    return str(result.error) if cause is None else f"{result.error}\n{cause.traceback}"


def _info_of(row: TaskRow) -> TaskInfo:
    try:
        metadata = dict(decode(row.envelope).metadata)
    except ValueError:
        metadata = {}
    return TaskInfo(
        task_id=row.task_id,
        task_name=row.task_name,
        queue=row.queue,
        priority=row.priority,
        status=row.status,
        attempt=row.attempt,
        sent_at=row.sent_at,
        due_at=row.due_at,
        claimed_at=row.claimed_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        good_until=row.good_until,
        worker_id=row.worker_id,
        error_code=ERROR_CODES.get(row.status, row.error_code),
        metadata=metadata,
    )


def _attempts_of(row: TaskRow) -> tuple[AttemptInfo, ...]:
    return tuple(
        AttemptInfo(
            attempt=attempt.attempt,
            worker_id=attempt.worker_id,
            started_at=attempt.started_at,
            finished_at=attempt.finished_at,
            error=CRASHED if attempt.result is None else decode_result(attempt.result, None, {}).unwrap_err(),
        )
        for attempt in row.attempts
    )
