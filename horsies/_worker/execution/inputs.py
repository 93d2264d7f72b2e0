"""Arguments that come from other tasks: they are fetched when the task begins, so that nobody has to carry them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..._core.codes import TaskErrorCode
from ..._core.errors import BrokerError, TaskError
from ..._core.result import Err, Ok
from ..._payload.codec import CodecError
from ..._payload.envelope import Input
from ..._payload.result_argument import err_argument, ok_argument
from ..._payload.signature import ArgumentError, CorruptError, load
from ..._send.task_handle import TaskResult, plain_result_of
from ...abc import Plain
from ..gateway import WorkerGateway
from .job import Job, logger


def has_inputs(job: Job) -> bool:
    """Whether there is anything for `fetch_inputs` to fetch."""
    origin = job.envelope.origin
    return origin is not None and len(origin.inputs) + len(origin.context) > 0


async def fetch_inputs(gateway: WorkerGateway, job: Job) -> Err[TaskError] | None:
    """Put the results of other tasks among the arguments of `job`; what is wrong where that cannot be done."""
    origin = job.envelope.origin
    if origin is None or not has_inputs(job):
        return None
    try:
        results = await _read(gateway, (*origin.inputs, *origin.context))
        if job.context is not None:
            job.context.results = {one.parameter: results.get(one.task_id, SKIPPED) for one in origin.context}
        if origin.inputs:
            serializer = gateway.serializers[job.envelope.serializer]
            found = load(serializer, job.envelope.arguments)
            found |= {one.parameter: _argument(one, results.get(one.task_id, SKIPPED)) for one in origin.inputs}
            job.args, job.kwargs = job.task.signature.decode(serializer, serializer.dumps(dict(sorted(found.items()))))
    except BrokerError as error:
        return Err(TaskError(TaskErrorCode.BROKER_ERROR, f"the results of other tasks cannot be read: {error.message}"))
    except (ArgumentError, CodecError) as error:
        return Err(TaskError(TaskErrorCode.ARGUMENT_TYPE_MISMATCH, str(error)))
    except (ValueError, CorruptError) as error:
        return Err(TaskError(TaskErrorCode.RESULT_NOT_AVAILABLE, str(error)))
    return None


async def _read(gateway: WorkerGateway, inputs: Sequence[Input]) -> dict[str, TaskResult[Any]]:
    backoff = gateway.contact.backoff()
    parts = sorted({one.task_id for one in inputs if one.of_workflow})
    while True:
        try:
            results = await gateway.workflow_results(parts) if parts else {}
            # What could not be opened has the result of what should have opened it.
            tasks = sorted({one.task_id for one in inputs} - results.keys())
            stored = await gateway.broker.reader.results(tasks) if tasks else []
            backoff.answered()
            return results | {one.task_id: plain_result_of(gateway, one) for one in stored if one.status.is_terminal}
        except BrokerError as error:
            if not error.retryable:
                raise
            await backoff.failed(error, "cannot read the results of other tasks", logger)


def _argument(one: Input, result: TaskResult[Any]) -> Plain:
    """What a parameter gets of another task. Raises: ValueError, it has no value to give."""
    if one.as_result:
        return ok_argument(result.value) if isinstance(result, Ok) else err_argument(result.error)
    if isinstance(result, Err):
        raise ValueError(
            f"argument {one.parameter!r} comes from task {one.task_id}, which ended with {result.error.code}"
        )
    value: Plain = result.value
    return value


SKIPPED = Err(TaskError(TaskErrorCode.UPSTREAM_SKIPPED, "the node was skipped"))
"""A node that was skipped has no task."""
