"""`TaskFunction`: a task bound to a runtime. Exceptions end here: what can fail is returned in `Err`."""

from __future__ import annotations

import logging
import os
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from .._core.codes import TaskSendErrorCode
from .._core.errors import BrokerError, HorsiesError, TaskSendError
from .._core.result import Err, Ok
from .._payload.envelope import Envelope, TaskSendPayload
from .._payload.signature import ArgumentError
from ..abc import EnqueueOutcome, NewTask
from .declare import Task
from .handle import TaskHandle
from .host import Host
from .options import TaskSendOptions, as_timedelta, problem_with

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")

TaskSendResult: TypeAlias = Ok[X] | Err[TaskSendError]
"""Whether a send enqueued."""

RESENDS = 3
RESEND_FIRST = 0.2
RESEND_CAP = 2.0
"""Seconds: how `resend_on_transient_err` spaces its further tries."""

_NOW = timedelta(0)
_logger = logging.getLogger("horsies.send")


class TaskFunction(Generic[P, T]):
    """A task bound to a runtime, with its send options."""

    def __init__(self, host: Host, task: Task[P, T], options: TaskSendOptions | None = None) -> None:
        self._host = host
        self._task = task
        self._options = options or TaskSendOptions()

    @property
    def task_name(self) -> str:
        return self._task.name

    @property
    def queue_name(self) -> str:
        """The queue a send goes to."""
        return self._options.queue or self._host.app.queue_of(self._task)

    @property
    def priority(self) -> int:
        """1 (first) to 100 (last)."""
        return self._task.settings.priority if self._options.priority is None else self._options.priority

    def with_options(self, options: TaskSendOptions) -> TaskFunction[P, T]:
        """The same task with `options` for its sends; an option that is None stays as it was. Never raises."""
        return TaskFunction(self._host, self._task, self._options.updated(options))

    async def send(self, *args: P.args, **kwargs: P.kwargs) -> TaskSendResult[TaskHandle[T]]:
        """Enqueue now.

        Returns:
            `Ok` with a handle once the task is committed; `Err` with a `TaskSendError`, whose payload `retry_send`
            replays when it is `retryable`.
        """
        return await self._send(_NOW, args, kwargs)

    async def schedule(
        self, delay: float | timedelta, *args: P.args, **kwargs: P.kwargs
    ) -> TaskSendResult[TaskHandle[T]]:
        """Enqueue now, claimable `delay` (seconds or a timedelta, 0 or more) later. Returns as `send` does."""
        span = as_timedelta(delay)
        if span is None or span < _NOW:
            return self._refuse("delay is not a number of seconds from 0")
        return await self._send(span, args, kwargs)

    async def retry_send(self, failed: TaskSendError | TaskSendPayload) -> TaskSendResult[TaskHandle[T]]:
        """Replay a `send` with the identical payload: it is enqueued at most once, however often this is called.

        Returns:
            `Ok` with the same task id, in whatever state that task is by now; `Err` with PAYLOAD_MISMATCH when the
            bytes are not those first sent, VALIDATION_FAILED for another task's payload or a delayed one.
        """
        return await self._replay(failed, delayed=False)

    async def retry_schedule(self, failed: TaskSendError | TaskSendPayload) -> TaskSendResult[TaskHandle[T]]:
        """Replay a `schedule` with the identical payload; the due time stays where the first send put it."""
        return await self._replay(failed, delayed=True)

    async def _send(
        self, delay: timedelta, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskSendResult[TaskHandle[T]]:
        sealed = self._seal(delay, args, kwargs)
        if isinstance(sealed, Err):
            await anyio.lowlevel.checkpoint()
            return sealed
        return await self._enqueue(sealed.value, replay=False)

    async def _replay(self, failed: TaskSendError | TaskSendPayload, *, delayed: bool) -> TaskSendResult[TaskHandle[T]]:
        payload = failed.payload if isinstance(failed, TaskSendError) else failed
        if isinstance(payload, TaskSendPayload):
            refusal = self._cannot_replay(payload, delayed=delayed)
            if refusal is None:
                return await self._enqueue(payload, replay=True)
        else:
            refusal = self._refuse("there is no payload to replay: this send failed before it had one")
        await anyio.lowlevel.checkpoint()
        return refusal

    def _cannot_replay(self, payload: TaskSendPayload, *, delayed: bool) -> Err[TaskSendError] | None:
        if not payload.is_intact():
            return Err(
                TaskSendError(
                    TaskSendErrorCode.PAYLOAD_MISMATCH,
                    "the payload's bytes are not those its SHA was made of; nothing was sent",
                    payload=payload,
                )
            )
        try:
            name, delay, sent_at = payload.task_name, payload.delay, payload.sent_at
        except ValueError:
            return self._refuse("the payload cannot be read")
        if name != self.task_name:
            return self._refuse(f"the payload is of task {name!r}, not of {self.task_name!r}")
        if (delay > _NOW) is not delayed:
            return self._refuse("replay a send with retry_send, and a schedule with retry_schedule")
        keep = self._host.app.config.retention.finished_after
        if keep is not None and self._host.environment.clock() - sent_at > keep:
            return Err(
                TaskSendError(
                    TaskSendErrorCode.ENQUEUE_FAILED,
                    "the payload is older than retention.finished_after, so that it may have run and been removed",
                    task_id=payload.task_id,
                    payload=payload,
                )
            )
        return None

    def _refuse(self, why: str) -> Err[TaskSendError]:
        return Err(TaskSendError(TaskSendErrorCode.VALIDATION_FAILED, f"task {self.task_name!r}: {why}"))

    def _seal(
        self, delay: timedelta, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Ok[TaskSendPayload] | Err[TaskSendError]:
        host, options, settings = self._host, self._options, self._task.settings
        config = host.app.config
        wrong = problem_with(options, frozenset(host.app.queues), frozenset(host.retry_policies))
        if wrong is not None:
            return self._refuse(wrong)
        try:
            arguments = self._task.signature.encode(host.serializers[config.serializer], args, kwargs)
            payload = TaskSendPayload.seal(
                Envelope(
                    task_id=host.environment.new_id(),
                    task_name=self.task_name,
                    queue=self.queue_name,
                    priority=self.priority,
                    serializer=config.serializer,
                    arguments=arguments,
                    sent_at=host.environment.clock(),
                    delay=delay,
                    good_until=options.good_until,
                    timeout=settings.timeout if options.timeout is None else as_timedelta(options.timeout),
                    retry=options.retry,
                    unique_key=options.unique_key,
                    metadata=tuple(sorted((options.metadata or {}).items())),
                )
            )
        except ArgumentError as error:
            return self._refuse(str(error))
        except (ValueError, OverflowError):
            return self._refuse("an option cannot be stored: a date out of range, or text that is no Unicode")
        size = len(payload.envelope)
        if config.payload.reject_bytes is not None and size > config.payload.reject_bytes:
            return self._refuse(f"{size} bytes are more than payload.reject_bytes ({config.payload.reject_bytes})")
        if config.payload.warn_bytes is not None and size > config.payload.warn_bytes:
            _logger.warning(
                "task %r: a payload of %d bytes; store large data elsewhere and send where it is",
                self.task_name,
                size,
                extra={"task_name": self.task_name, "task_id": payload.task_id},
            )
        return Ok(payload)

    async def _enqueue(self, payload: TaskSendPayload, *, replay: bool) -> TaskSendResult[TaskHandle[T]]:
        if os.environ.get("HORSIES_SUPPRESS_SENDS") == "1":
            await anyio.lowlevel.checkpoint()
            return Err(
                TaskSendError(
                    TaskSendErrorCode.SEND_SUPPRESSED,
                    f"task {self.task_name!r}: HORSIES_SUPPRESS_SENDS=1 is set",
                    task_id=payload.task_id,
                    payload=payload,
                )
            )
        environment = self._host.environment
        tries = 1 + (RESENDS if self._host.app.config.resend_on_transient_err else 0)
        for attempt in range(tries):
            try:
                outcome = await self._host.submit(_row(payload, environment.clock()), replay=replay or attempt > 0)
            except BrokerError as error:
                if error.retryable and attempt + 1 < tries:
                    pause = min(RESEND_FIRST * 2**attempt, RESEND_CAP)
                    await anyio.sleep(pause * environment.random.uniform(0.75, 1.25))
                    continue
                return Err(
                    TaskSendError(
                        TaskSendErrorCode.ENQUEUE_FAILED,
                        f"task {self.task_name!r}: {error.message}",
                        retryable=error.retryable,
                        task_id=payload.task_id,
                        payload=payload,
                    )
                )
            if outcome is EnqueueOutcome.MISMATCH:
                return Err(
                    TaskSendError(
                        TaskSendErrorCode.PAYLOAD_MISMATCH,
                        f"task {payload.task_id} is stored with another payload; nothing was changed",
                        task_id=payload.task_id,
                        payload=payload,
                    )
                )
            return Ok(TaskHandle(self._host, payload.task_id))
        raise AssertionError("the last try returns")


def bind(host: Host, task: Task[P, T]) -> TaskFunction[P, T]:
    """`task` bound to `host`.

    Raises:
        HorsiesError: HRS-300 when the host's application has not registered it.
    """
    if host.app.tasks.get(task.name) is not task:
        raise HorsiesError(
            "HRS-300",
            f"task {task.name!r} is not registered with this runtime's application",
            ["declare it with @app.task, or register it: app.include(the_task)"],
        )
    return TaskFunction(host, task)


def _row(payload: TaskSendPayload, now: datetime) -> NewTask:
    """The row for `payload`. Its age shortens the delay, so that a replay does not move the due time."""
    age = min(max(now - payload.sent_at, _NOW), payload.delay)
    return NewTask(
        task_id=payload.task_id,
        sha=bytes.fromhex(payload.enqueue_sha),
        envelope=payload.envelope,
        task_name=payload.task_name,
        queue=payload.queue,
        priority=payload.priority,
        sent_at=payload.sent_at,
        due_in=(payload.delay - age).total_seconds(),
        good_until=payload.good_until,
    )
