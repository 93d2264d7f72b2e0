"""Arguments that come from other tasks: they are fetched when the task begins, so that nobody has to carry them."""

from __future__ import annotations

from typing import Any

import anyio

from .._core.backoff import pauses
from .._core.codes import TaskErrorCode
from .._core.errors import BrokerError, TaskError
from .._core.result import Err, Ok
from .._payload.codec import CodecError
from .._payload.envelope import Input
from .._payload.result import decode_result
from .._payload.result_argument import err_argument, ok_argument
from .._payload.signature import ArgumentError, CorruptError
from .._task.handle import result_of
from ..abc import Plain, StoredResult
from .host import WorkerHost
from .job import Job


async def fetch_inputs(host: WorkerHost, job: Job) -> Err[TaskError] | None:
    """Put the results of other tasks among the arguments of `job`; what is wrong where that cannot be done."""
    origin = job.envelope.origin
    if origin is None or not origin.inputs:
        return None
    serializer = host.serializers[job.envelope.serializer]
    try:
        stored = await _read(host, [one.task_id for one in origin.inputs])
        found: dict[str, Any] = dict(serializer.loads(job.envelope.arguments))  # type: ignore[arg-type]  # it was read before
        found |= {one.parameter: _argument(host, one, stored.get(one.task_id)) for one in origin.inputs}
        job.args, job.kwargs = job.task.signature.decode(serializer, serializer.dumps(dict(sorted(found.items()))))
    except BrokerError as error:
        return Err(TaskError(TaskErrorCode.BROKER_ERROR, f"the results of other tasks cannot be read: {error.message}"))
    except (ArgumentError, CodecError) as error:
        return Err(TaskError(TaskErrorCode.ARGUMENT_TYPE_MISMATCH, str(error)))
    except (ValueError, CorruptError) as error:
        return Err(TaskError(TaskErrorCode.RESULT_NOT_AVAILABLE, str(error)))
    return None


async def _read(host: WorkerHost, task_ids: list[str]) -> dict[str, StoredResult]:
    waits = pauses(host.app.config.resilience, host.environment.random)
    while True:
        try:
            return {stored.task_id: stored for stored in await host.broker.reader.results(task_ids)}
        except BrokerError as error:
            if not error.retryable:
                raise
        await anyio.sleep(next(waits))


def _argument(host: WorkerHost, one: Input, stored: StoredResult | None) -> Plain:
    """What a parameter gets of another task. Raises: ValueError, it has no value to give."""
    if stored is None or not stored.status.is_terminal:
        # A node that was skipped has no task.
        result: Ok[Any] | Err[TaskError] = Err(TaskError(TaskErrorCode.UPSTREAM_SKIPPED, "the node was skipped"))
    elif stored.result is None:
        result = result_of(host, stored)
    else:
        result = decode_result(stored.result, None, host.serializers)
    if one.as_result:
        return ok_argument(result.value) if isinstance(result, Ok) else err_argument(result.error)
    if isinstance(result, Err):
        raise ValueError(
            f"argument {one.parameter!r} comes from task {one.task_id}, which ended with {result.error.code}"
        )
    value: Plain = result.value
    return value
