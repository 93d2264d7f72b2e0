"""One task in a worker: made of a claimed row, and made into the row that ends its attempt. `calling` is in between."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import msgspec

from ..._core.codes import TaskErrorCode
from ..._core.errors import TaskError
from ..._core.outcome import Ending, decide, decide_interrupted, patience_with_unknown, retry_after_crash
from ..._core.result import Err, Ok
from ..._core.retry import SupportsDelay
from ..._core.status import TaskStatus
from ..._declare.context import AttemptContext
from ..._declare.task import Task
from ..._payload.envelope import Envelope, UnknownVersionError, decode, sha_of
from ..._payload.signature import ArgumentError, CorruptError, ParameterError, load
from ..._payload.stored_result import code_of, encode_result
from ..._send.gateway import Gateway
from ...abc import ClaimedTask, Finish, GiveBack, Serializer
from ..gateway import UnknownWorkflowError, WorkerGateway
from .causes import unreadable

logger = logging.getLogger("horsies.worker")

GRACE = 2.0
"""Seconds that a task gets to end: an async one once it was cancelled, a sync one once the worker must stop."""


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
    context: AttemptContext[Any] | None = None
    is_cancelled: bool = False
    is_reported: bool = False
    """Its end is with the completer."""
    is_late: bool = False
    """Its user code went on when its end was reported, and keeps its slot."""
    is_abandoned: bool = False
    """Its user code went on when its worker had stopped."""
    gone_by: float = math.inf
    """On the loop's clock: an async task that still runs then has swallowed its cancellation."""
    is_lowered: bool = False
    """Its result has been made plain builtins of, in the process that it ran in."""
    stop: Callable[[], object] | None = None
    """Cancels it where it waits; None where it does not wait yet, or never does."""
    not_before: float = 0.0
    """On the loop's clock: when to try again to start it."""
    begun: Awaitable[Any] | None = None
    """What a sync function that wraps an async one has given: the rest of the task."""
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
        """The worker must stop: one that runs in a thread gets `GRACE` seconds to notice."""
        if self.thread is not None:
            if self.context is not None:
                self.context._cancel()
            if self.stop is not None:
                self.stop()
            self.thread.deadline = anyio.current_time() + GRACE


def prepare(gateway: WorkerGateway, claimed: ClaimedTask) -> Job | Finish | GiveBack:
    """Decode a claimed row.

    A row that cannot be decoded fails alone, without user code. A task that this worker does not know, or which needs
    something that this worker does not know, is left to other workers for `recovery.resolution_grace`.
    """
    try:
        envelope = _envelope_of(claimed)
    except UnknownVersionError as error:
        return _left_to_others(gateway, claimed, TaskErrorCode.WORKER_SERIALIZATION_ERROR, str(error))
    except ValueError as error:
        return _corrupt(claimed, error)
    task = gateway.app.tasks.get(claimed.task_name)
    is_own = task is None
    if task is None:
        task = gateway.own_tasks.get(claimed.task_name)
    if task is None:
        what = f"no worker of queue {claimed.queue!r} knows task {claimed.task_name!r}"
        what += ": does the module that declares it get imported?"
        return _left_to_others(gateway, claimed, TaskErrorCode.WORKER_RESOLUTION_ERROR, what)
    serializer = gateway.serializers.get(envelope.serializer)
    if serializer is None:
        what = f"the stored task cannot be read: serializer {envelope.serializer!r} is not installed here"
        return _left_to_others(gateway, claimed, TaskErrorCode.WORKER_SERIALIZATION_ERROR, what)
    try:
        if is_own or (envelope.origin is not None and envelope.origin.inputs):
            args, kwargs = _arguments_of(gateway, task, envelope, serializer, is_own=is_own)
        else:
            args, kwargs = task.signature.decode(serializer, envelope.arguments)
    except UnknownWorkflowError as error:
        return _left_to_others(gateway, claimed, TaskErrorCode.WORKER_RESOLUTION_ERROR, str(error))
    except ParameterError as error:
        return _left_to_others(gateway, claimed, TaskErrorCode.ARGUMENT_TYPE_MISMATCH, str(error))
    except ArgumentError as error:
        return refused(claimed, TaskErrorCode.ARGUMENT_TYPE_MISMATCH, str(error))
    except (ValueError, CorruptError) as error:
        return _corrupt(claimed, error)
    retry = task.settings.retry if envelope.retry is None else envelope.retry
    policy = gateway.retry_policies.get(retry) if isinstance(retry, str) else retry
    return Job(claimed, task, envelope, args, kwargs, policy, _retry_after_crash(gateway, claimed, task, policy))


def _envelope_of(claimed: ClaimedTask) -> Envelope:
    """The envelope of a row. Raises: ValueError, it is damaged, or the row was changed and no longer agrees with it."""
    if sha_of(claimed.envelope) != claimed.sha:
        raise ValueError("the bytes are not those that were sent")
    envelope = decode(claimed.envelope)
    if envelope.task_id != claimed.lease.task_id:
        raise ValueError("the envelope is of another task")
    if envelope.task_name != claimed.task_name:
        raise ValueError("the row was changed: its task_name is not the one that was sent")
    if envelope.queue != claimed.queue:
        raise ValueError("the row was changed: its queue is not the one that was sent")
    return envelope


def _arguments_of(
    gateway: WorkerGateway, task: Task[Any, Any], envelope: Envelope, serializer: Serializer, *, is_own: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments; none yet where other tasks give some of them, but their names are looked at."""
    plain = load(serializer, envelope.arguments)
    inputs = () if envelope.origin is None else envelope.origin.inputs
    if is_own:
        gateway.require_workflow(plain, {one.parameter for one in inputs})
    else:
        task.signature.require_names(plain.keys() | {one.parameter for one in inputs})
    return ((), {}) if inputs else task.signature.decode(serializer, envelope.arguments)


def _corrupt(claimed: ClaimedTask, error: Exception) -> Finish:
    what = f"the stored task cannot be read: {error}"
    return refused(claimed, TaskErrorCode.WORKER_SERIALIZATION_ERROR, what)


def _left_to_others(gateway: Gateway, claimed: ClaimedTask, code: TaskErrorCode, message: str) -> Finish | GiveBack:
    """Leave a task to workers that may know what this one lacks; once the grace is over, its end."""
    delay = patience_with_unknown(claimed.unknown_for, gateway.app.config.recovery.resolution_grace)
    if delay is None:
        return refused(claimed, code, message)
    return GiveBack(claimed.lease, delay, unknown=True, is_running=claimed.is_running)


def _retry_after_crash(
    gateway: Gateway, claimed: ClaimedTask, task: Task[Any, Any], policy: SupportsDelay | None
) -> float | None:
    try:
        return retry_after_crash(
            policy=policy,
            retry_for=task.settings.retry_for,
            retries=claimed.retries,
            random=gateway.environment.random,
        )
    except Exception:  # a policy of a plugin may raise anything
        logger.exception("the retry policy of task %r failed; the task is not retried after a crash", task.name)
        return None


def refused(claimed: ClaimedTask, code: TaskErrorCode, message: str) -> Finish:
    """The end of a task whose user code never ran."""
    result = encode_result(Err(TaskError(code, message)), None, "", None)
    return Finish(claimed.lease, TaskStatus.FAILED, result, code, has_begun=False)


def conclude(gateway: Gateway, job: Job, result: Ok[Any] | Err[TaskError]) -> tuple[Finish, Err[TaskError] | None]:
    """The row to write for `result`, and the error in it if there is one."""
    try:
        return _concluded(gateway, job, result)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the classes of a value, or of an error, may raise anything where they are read
        return _concluded(gateway, job, unreadable(job.task.name, error))


def _concluded(gateway: Gateway, job: Job, result: Ok[Any] | Err[TaskError]) -> tuple[Finish, Err[TaskError] | None]:
    """As `conclude`. Raises: CodecError: the result cannot be written. BaseException: its classes raise it."""
    envelope, lease = job.envelope, job.claimed.lease
    code = code_of(result.error) if isinstance(result, Err) else None
    data = _encoded(gateway.serializers, job, result)
    try:
        ending = decide(
            result,
            policy=job.policy,
            retry_for=job.task.settings.retry_for,
            retries=job.claimed.retries,
            random=gateway.environment.random,
        )
    except KeyboardInterrupt:
        raise
    except BaseException:  # a policy of a plugin may raise anything
        logger.exception("the retry policy of task %r failed; the task is not retried", envelope.task_name)
        ending = Ending(TaskStatus.FAILED)
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
    codec = None if job.is_lowered else job.task.signature.return_codec
    return encode_result(result, codec, tag, serializers[tag])
