"""Calling the function of a task: whatever it does comes out as a result, or the worker is being cancelled.

Where it runs is decided before: in the nursery, or in a thread. `process` calls it in a process of its own.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, cast

import anyio
import anyio.from_thread
import anyio.lowlevel

from ..._core.codes import TaskErrorCode
from ..._core.errors import TaskError
from ..._core.result import Err, Ok
from ..._declare.context import TaskInterrupted
from .causes import members_of, unhandled
from .job import Job
from .thread_pool import ThreadPool

_pid = os.getpid()
"""Of this process. Asking the system for each task costs more than all that the worker does with its result."""


def _know_pid() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_know_pid)


def as_result(value: Any) -> Ok[Any] | Err[TaskError]:
    """What user code returned, as a result."""
    if isinstance(value, Ok):
        return value
    if isinstance(value, Err):
        if isinstance(value.error, TaskError):
            return value
        return Err(TaskError(TaskErrorCode.RETURN_TYPE_MISMATCH, "the task returned an Err that holds no TaskError"))
    if value is not None and hasattr(type(value), "__await__"):
        return _not_awaited(value)
    return Ok(value)


def _not_awaited(value: Any) -> Err[TaskError]:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that it was never awaited
    what = f"the task returned a {type(value).__name__}, which nothing awaits; make it an async function"
    return Err(TaskError(TaskErrorCode.RETURN_TYPE_MISMATCH, what))


async def run_async(job: Job) -> Ok[Any] | Err[TaskError]:
    """Run an async task in the calling task, which is its own: `job.stop` cancels all of it.

    Only cancellation of the worker leaves this call, and KeyboardInterrupt.
    """
    timeout, pid = job.envelope.timeout, _pid
    try:
        if timeout is None:  # a scope costs what ten function calls do
            return await _call_async(job)
        with anyio.move_on_after(timeout.total_seconds()):
            return await _call_async(job)
        return timed_out(job)
    except TaskError as error:
        return Err(error)
    except Exception as error:  # whatever user code raises is its result
        end_fork(pid, error)
        return unhandled(error)
    except GeneratorExit as error:
        if _is_closed():
            raise
        return unhandled(error)
    except BaseException as error:  # a cancellation, which may carry exceptions of the task's own
        end_fork(pid, error)
        own = _own_part(error)
        if own is not None and not _has(own, KeyboardInterrupt):
            return unhandled(own)
        if own is not None or not job.is_cancelled:
            raise
        return cancelled()
    finally:
        end_fork(pid)


def _is_closed() -> bool:
    """Whether the coroutine is being closed, because its event loop has ended without it."""
    try:
        anyio.get_cancelled_exc_class()
    except anyio.NoEventLoopError:
        return True
    return False


def _own_part(error: BaseException) -> BaseException | None:
    """The part of `error` that is the task's own failure; None if all of it is a cancellation from outside.

    A task that is cancelled may fail at the same time, in a task group of its own. On asyncio other code may cancel
    what the task awaits, or the task itself. That raises the same exception, but no scope around the task is cancelled.
    """
    cancellation = anyio.get_cancelled_exc_class()
    if not _is_cancelled() or not _has(error, cancellation):
        return error
    if not issubclass(type(error), BaseExceptionGroup):
        return None
    try:
        return BaseExceptionGroup.split(cast(BaseExceptionGroup[Any], error), cancellation)[1]
    except BaseException:  # the class of the group may refuse to be divided
        return error


def _is_cancelled() -> bool:
    return anyio.current_effective_deadline() == -math.inf


def _has(error: BaseException, kind: type[BaseException]) -> bool:
    return any(issubclass(type(one), kind) for one in members_of(error))


async def _call_async(job: Job) -> Ok[Any] | Err[TaskError]:
    if job.begun is not None:
        return as_result(await job.begun)
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
    """Call a sync task; None when it stopped because its context told it to.

    One that wraps an async function may give an awaitable, which is put into `job.begun`.
    """
    pid = _pid
    try:
        if job.context is None:
            value = job.task.fn(*job.args, **job.kwargs)
        else:
            value = job.task.fn(job.context, *job.args, **job.kwargs)
        if not job.task.signature.wraps_async or not hasattr(type(value), "__await__"):
            return as_result(value)
    except TaskInterrupted:
        return None
    except TaskError as error:
        return Err(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # nobody can cancel it here, so all of it is its own
        end_fork(pid, error)
        return unhandled(error)
    finally:
        end_fork(pid)
    job.begun = value
    return None


def call_in_thread(job: Job) -> Ok[Any] | Err[TaskError] | None:
    """As `call_sync`, and have the event loop await what came of it, if that is an awaitable."""
    result = call_sync(job)
    return result if job.begun is None else anyio.from_thread.run(_run_begun, job)


async def _run_begun(job: Job) -> Ok[Any] | Err[TaskError] | None:
    """Run what a sync function has begun; None when the worker stops."""
    with anyio.CancelScope() as scope:
        job.stop = scope.cancel
        if job.is_cancelled:
            scope.cancel()
        return await run_async(job)
    return None


def end_fork(pid: int, error: BaseException | None = None) -> None:
    """End a process that user code forked and that comes back from it: the rest is the business of process `pid`.

    It would run other tasks a second time, and write to the connections of the worker.
    """
    if pid != _pid:
        os.write(2, b"horsies: a process that a task forked came back from the task, and ends here\n")
        if isinstance(error, SystemExit):
            error = None if error.code in (None, 0) else error
        os._exit(0 if error is None else 1)


async def run_sync(
    job: Job,
    threads: ThreadPool | None,
    report: Callable[[Ok[Any] | Err[TaskError] | None], None],
    abandon: Callable[[], None],
) -> None:
    """Run a sync task in a thread (without `threads`: in the calling one) and `report` how it ended.

    Past its timeout the task is reported at once, and this call (which is the task's slot) lasts until the thread
    ends; what it returns then is dropped. `abandon` is called if the thread is left behind.
    """
    if threads is None:
        await anyio.lowlevel.checkpoint()
        result = call_sync(job)
        report(result if job.begun is None else await run_async(job))
        return
    timeout = job.envelope.timeout
    if timeout is None:
        await _run_in_thread(job, threads, report, abandon)
        return
    async with anyio.create_task_group() as group:
        group.start_soon(_time_out, job, timeout.total_seconds(), report)
        await _run_in_thread(job, threads, report, abandon)
        group.cancel_scope.cancel()


async def _time_out(job: Job, seconds: float, report: Callable[[Err[TaskError]], None]) -> None:
    await anyio.sleep(seconds)
    if job.context is not None:
        job.context._cancel()
    job.is_late = not job.is_reported
    report(timed_out(job))


async def _run_in_thread(
    job: Job,
    threads: ThreadPool,
    report: Callable[[Ok[Any] | Err[TaskError] | None], None],
    abandon: Callable[[], None],
) -> None:
    has_ended, failure = False, None

    def ended(_: Job, result: Ok[Any] | Err[TaskError] | None, error: BaseException | None) -> None:
        nonlocal has_ended, failure
        has_ended, failure = True, error
        if error is None:
            report(result)

    await run_in_threads([job], threads, ended)
    if failure is not None:
        raise failure
    if not has_ended:
        abandon()


async def run_in_threads(
    jobs: list[Job],
    threads: ThreadPool,
    ended: Callable[[Job, Ok[Any] | Err[TaskError] | None, BaseException | None], None],
) -> None:
    """Run sync tasks in threads; `ended` is told of each when it has, with what `call_sync` returned or raised.

    No cancellation reaches a thread: it ends in its own time, or is left behind some time after `job.hurry`. `jobs` is
    emptied.
    """
    is_late = _is_cancelled()
    with anyio.CancelScope(shield=True) as scope:
        _tie(jobs, scope, is_late)
        await threads.run(call_in_thread, jobs, ended)


def _tie(jobs: Sequence[Job], scope: anyio.CancelScope, is_late: bool) -> None:
    """Have `job.hurry` reach `scope`. By itself, so that no variable of a call that lasts goes on holding a job."""
    for job in jobs:
        job.thread = scope
        if is_late:
            job.hurry()  # it has been started, so it gets its turn
