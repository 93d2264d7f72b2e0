"""Running one task: from a claimed row to the end of its attempt, in small named steps."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from .._core.codes import TaskErrorCode
from .._core.errors import ErrorCause, TaskError
from .._core.outcome import Ending, decide, decide_interrupted, patience_with_unknown, retry_after_crash
from .._core.result import Err, Ok
from .._core.retry import SupportsDelay
from .._core.status import TaskStatus
from .._payload.codec import CodecError
from .._payload.envelope import Envelope, decode, sha_of
from .._payload.result import encode_result
from .._payload.signature import ArgumentError, CorruptError
from .._task.context import TaskContext, TaskInterrupted
from .._task.declare import Task
from .._task.host import Host
from ..abc import ClaimedTask, Finish, GiveBack
from .host import WorkerHost

logger = logging.getLogger("horsies.worker")

THREAD_GRACE = 2.0
"""Seconds that a sync task gets to notice `ctx.cancelled` once the worker must stop."""


class Job(msgspec.Struct, eq=False):
    """A claimed task, decoded and ready to start."""

    claimed: ClaimedTask
    task: Task[Any, Any]
    envelope: Envelope
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    """Both are empty until the inputs are fetched, where there are any."""
    policy: SupportsDelay | None
    retry_after_crash: float | None
    context: TaskContext | None = None
    is_cancelled: bool = False
    stop: Callable[[], object] | None = None
    """Cancels it where it waits; None where it does not wait yet, or never does."""
    not_before: float = 0.0
    """On the loop's clock: when to try again to start it."""
    thread: anyio.CancelScope | None = None
    """What waits for the thread that it runs in."""

    @property
    def workflow_id(self) -> str | None:
        return None if self.envelope.origin is None else self.envelope.origin.workflow_id

    def cancel(self) -> None:
        """Somebody asked for it: an async task is cancelled where it waits, a sync one can see it."""
        self.is_cancelled = True
        if self.stop is not None:
            self.stop()
        if self.context is not None:
            self.context._cancel()

    def hurry(self) -> None:
        """The worker must stop: one that runs in a thread gets `THREAD_GRACE` seconds to notice."""
        if self.thread is not None:
            if self.context is not None:
                self.context._cancel()
            self.thread.deadline = anyio.current_time() + THREAD_GRACE


def prepare(host: WorkerHost, claimed: ClaimedTask) -> Job | Finish | GiveBack:
    """Decode a claimed row. What cannot be decoded fails alone, without user code; an unknown task is passed on."""
    task = host.app.tasks.get(claimed.task_name) or host.own_tasks.get(claimed.task_name)
    if task is None:
        delay = patience_with_unknown(claimed.overdue, host.app.config.recovery.resolution_grace)
        if delay is not None:
            return GiveBack(claimed.lease, delay)
        return refused(
            claimed,
            TaskErrorCode.WORKER_RESOLUTION_ERROR,
            f"no worker of queue {claimed.queue!r} knows task {claimed.task_name!r}: "
            "does the module that declares it get imported?",
        )
    try:
        if sha_of(claimed.envelope) != claimed.sha:
            raise ValueError("the bytes are not those that were sent")
        envelope = decode(claimed.envelope)
        serializer = host.serializers.get(envelope.serializer)
        if serializer is None:
            raise ValueError(f"serializer {envelope.serializer!r} is not installed here")
        has_inputs = envelope.origin is not None and len(envelope.origin.inputs) > 0
        args, kwargs = ((), {}) if has_inputs else task.signature.decode(serializer, envelope.arguments)
    except ArgumentError as error:
        return refused(claimed, TaskErrorCode.ARGUMENT_TYPE_MISMATCH, str(error))
    except (ValueError, CorruptError) as error:
        return refused(claimed, TaskErrorCode.WORKER_SERIALIZATION_ERROR, f"the stored task cannot be read: {error}")
    retry = task.settings.retry if envelope.retry is None else envelope.retry
    policy = host.retry_policies.get(retry) if isinstance(retry, str) else retry
    crash = None if policy is None else _retry_after_crash(host, claimed, task, policy)
    return Job(claimed, task, envelope, args, kwargs, policy, crash)


def _retry_after_crash(host: Host, claimed: ClaimedTask, task: Task[Any, Any], policy: SupportsDelay) -> float | None:
    try:
        return retry_after_crash(
            policy=policy,
            retry_for=task.settings.retry_for,
            retries=claimed.retries,
            random=host.environment.random,
        )
    except Exception:
        logger.exception("the retry policy of task %r failed; the task is not retried after a crash", task.name)
        return None


def refused(claimed: ClaimedTask, code: TaskErrorCode, message: str) -> Finish:
    """The end of a task whose user code never ran."""
    result = encode_result(Err(TaskError(code, message)), None, "", None)
    return Finish(claimed.lease, TaskStatus.FAILED, result, code, has_begun=False)


def cause_of(error: BaseException) -> ErrorCause:
    """The type, message and traceback of `error`, without the frame that caught it."""
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        message = str(error)
    except Exception:  # an exception class whose __str__ fails must not take the worker along
        message = ""
    text = "".join(traceback.format_exception(type(error), error, frames))
    return ErrorCause(type(error).__qualname__, message, text)


def unhandled(error: BaseException) -> Err[TaskError]:
    """UNHANDLED_ERROR with what `cause_of` tells of `error`."""
    name, cause = type(error).__name__, cause_of(error)
    message = f"{name}: {cause.message}" if cause.message else name
    return Err(TaskError.caused_by(TaskErrorCode.UNHANDLED_ERROR, message, cause))


def as_result(value: Any) -> Ok[Any] | Err[TaskError]:
    """What user code returned, as a result."""
    if isinstance(value, Ok):
        return value
    if isinstance(value, Err):
        if isinstance(value.error, TaskError):
            return value
        return Err(TaskError(TaskErrorCode.RETURN_TYPE_MISMATCH, "the task returned an Err that holds no TaskError"))
    return Ok(value)


async def run_async(job: Job) -> Ok[Any] | Err[TaskError]:
    """Run an async task in the calling task, which is its own: `job.stop` cancels all of it.

    Only cancellation of the worker leaves this call, and KeyboardInterrupt.
    """
    timeout = job.envelope.timeout
    try:
        if timeout is None:  # a scope costs what ten function calls do
            return await _call_async(job)
        with anyio.move_on_after(timeout.total_seconds()):
            return await _call_async(job)
        return timed_out(job)
    except TaskError as error:
        return Err(error)
    except Exception as error:
        return unhandled(error)
    except BaseException as error:
        own = _own_part(error)
        if own is not None and not _has(own, _FATAL):
            return unhandled(own)
        if own is not None or not job.is_cancelled:
            raise
        return cancelled()


_FATAL = (KeyboardInterrupt, GeneratorExit)
"""What is no task's, wherever it comes up."""


def _own_part(error: BaseException) -> BaseException | None:
    """What of `error` is the task's own failure; None where there is nothing but a cancellation from outside.

    A task that is cancelled may fail at the same time, in a task group of its own. And on asyncio what it awaits may
    have been cancelled by somebody else, which raises the same exception though nobody has cancelled the task.
    """
    cancellation = anyio.get_cancelled_exc_class()
    if not _is_cancelled() or not _has(error, cancellation):
        return error
    return error.split(cancellation)[1] if isinstance(error, BaseExceptionGroup) else None


def _is_cancelled() -> bool:
    return anyio.current_effective_deadline() == -math.inf


def _has(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kinds) is not None
    return isinstance(error, kinds)


async def _call_async(job: Job) -> Ok[Any] | Err[TaskError]:
    if job.context is None:
        return as_result(await job.task.fn(*job.args, **job.kwargs))
    return as_result(await job.task.fn(job.context, *job.args, **job.kwargs))


def cancelled() -> Err[TaskError]:
    return Err(TaskError(TaskErrorCode.TASK_CANCELLED, "the task was cancelled"))


def timed_out(job: Job) -> Err[TaskError]:
    timeout = job.envelope.timeout
    seconds = 0.0 if timeout is None else timeout.total_seconds()
    return Err(TaskError(TaskErrorCode.TASK_TIMEOUT, f"user code ran longer than {seconds:g} s"))


def call_sync(job: Job) -> Ok[Any] | Err[TaskError] | None:
    """Call a sync task; None when it stopped because its context told it to."""
    try:
        if job.context is None:
            return as_result(job.task.fn(*job.args, **job.kwargs))
        return as_result(job.task.fn(job.context, *job.args, **job.kwargs))
    except TaskInterrupted:
        return None
    except TaskError as error:
        return Err(error)
    except _FATAL:
        raise
    except BaseException as error:
        return unhandled(error)


async def run_sync(
    job: Job,
    limiter: anyio.CapacityLimiter | None,
    report: Callable[[Ok[Any] | Err[TaskError]], None],
    abandon: Callable[[], None],
) -> None:
    """Run a sync task in a thread (without a `limiter`: in the calling one) and `report` how it ended.

    Past its timeout the task is reported at once, and this call (which is the task's slot) lasts until the thread
    ends; what it returns then is dropped. No cancellation reaches a thread: it ends in its own time, or is left behind
    some time after `job.hurry`, and `abandon` is called.
    """
    if limiter is None:
        await anyio.lowlevel.checkpoint()
        result = call_sync(job)
        if result is not None:
            report(result)
        elif job.is_cancelled:
            report(cancelled())
        return
    timeout = job.envelope.timeout
    if timeout is None:
        await _run_in_thread(job, limiter, report, abandon)
        return
    seconds = timeout.total_seconds()

    async def time_out() -> None:
        await anyio.sleep(seconds)
        if job.context is not None:
            job.context._cancel()
        report(timed_out(job))

    async with anyio.create_task_group() as group:
        group.start_soon(time_out)
        await _run_in_thread(job, limiter, report, abandon)
        group.cancel_scope.cancel()


async def _run_in_thread(
    job: Job,
    limiter: anyio.CapacityLimiter,
    report: Callable[[Ok[Any] | Err[TaskError]], None],
    abandon: Callable[[], None],
) -> None:
    result, is_late = None, _is_cancelled()
    with anyio.CancelScope(shield=True) as job.thread:
        if is_late:
            job.hurry()  # it has been started, so it gets its turn
        result = await anyio.to_thread.run_sync(call_sync, job, abandon_on_cancel=True, limiter=limiter)
    if job.thread.cancelled_caught:
        abandon()
    elif result is not None:
        report(result)
    elif job.is_cancelled:
        report(cancelled())


def conclude(host: Host, job: Job, result: Ok[Any] | Err[TaskError]) -> tuple[Finish, Err[TaskError] | None]:
    """The row to write for `result`, and the error in it if there is one."""
    envelope, lease = job.envelope, job.claimed.lease
    try:
        data = _encoded(host.serializers, job, result)
    except CodecError as error:
        result = Err(TaskError(TaskErrorCode.RETURN_TYPE_MISMATCH, f"task {job.task.name!r}: {error}"))
        data = _encoded(host.serializers, job, result)
    try:
        ending = decide(
            result,
            policy=job.policy,
            retry_for=job.task.settings.retry_for,
            retries=job.claimed.retries,
            random=host.environment.random,
        )
    except Exception:
        logger.exception("the retry policy of task %r failed; the task is not retried", envelope.task_name)
        ending = Ending(TaskStatus.FAILED)
    code = result.error.code if isinstance(result, Err) else None
    return (
        Finish(lease, ending.status, data, code, ending.retry_in, workflow_id=job.workflow_id),
        result if isinstance(result, Err) else None,
    )


def conclude_interrupted(job: Job) -> Finish:
    """The row to write for a task whose worker stops before user code has ended."""
    ending = decide_interrupted(policy=job.policy, retry_for=job.task.settings.retry_for)
    code = TaskErrorCode.WORKER_CRASHED
    data = encode_result(Err(TaskError(code, "the worker stopped before the task had ended")), None, "", None)
    return Finish(
        job.claimed.lease, ending.status, data, code, interrupted=ending.interrupted, workflow_id=job.workflow_id
    )


def _encoded(serializers: Mapping[str, Any], job: Job, result: Ok[Any] | Err[TaskError]) -> bytes:
    tag = job.envelope.serializer
    return encode_result(result, job.task.signature.return_codec, tag, serializers[tag])
