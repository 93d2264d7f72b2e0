"""From a call to the payload that stands for it, and from a payload to the row to insert."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Any

from .._core.codes import TaskSendErrorCode
from .._core.instants import instant, positive_span, span
from .._core.result import Err, Ok
from .._payload.envelope import Envelope
from .._payload.send_error import TaskSendError
from .._payload.send_payload import TaskSendPayload
from .._payload.signature import ArgumentError
from ..abc import NewTask
from .gateway import DeclaredTask, Gateway
from .options import TaskSendOptions, problem_with

NOW = timedelta(0)
TOO_OLD = "the payload is older than retention.finished_after, so that it may have run and been removed"

_logger = logging.getLogger("horsies.send")


def refuse(task_name: str, why: str) -> Err[TaskSendError]:
    """The answer to a send that can never succeed."""
    return Err(TaskSendError(TaskSendErrorCode.VALIDATION_FAILED, f"task {task_name!r}: {why}"))


def seal(
    gateway: Gateway,
    task: DeclaredTask[..., Any],
    options: TaskSendOptions,
    delay: timedelta,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    task_id: str | None = None,
    sent_at: datetime | None = None,
) -> Ok[TaskSendPayload] | Err[TaskSendError]:
    """The payload of one call, or what is wrong with it. Its id and its instant are new ones unless they are given."""
    config, settings = gateway.app.config, task.settings
    wrong = problem_with(options, gateway.app.queues, gateway.retry_policies)
    if wrong is not None:
        return refuse(task.name, wrong)
    try:
        arguments = task.signature.encode(gateway.serializers[config.serializer], args, kwargs)
        payload = TaskSendPayload.seal(
            Envelope(
                task_id=task_id or gateway.environment.new_id(),
                task_name=task.name,
                queue=options.queue or gateway.app.queue_of(task),
                priority=settings.priority if options.priority is None else options.priority,
                serializer=config.serializer,
                arguments=arguments,
                sent_at=sent_at or gateway.environment.clock(),
                delay=delay,
                good_until=None if options.good_until is None else instant(options.good_until),
                timeout=settings.timeout if options.timeout is None else positive_span(options.timeout),
                retry=options.retry,
                unique_key=options.unique_key,
                metadata=tuple(sorted(options.metadata.items())) if options.metadata else (),
            )
        )
    except ArgumentError as error:
        return refuse(task.name, str(error))
    except ValueError as error:
        return refuse(task.name, f"an option cannot be stored: {error}")
    size = len(payload.envelope)
    if config.payload.reject_bytes is not None and size > config.payload.reject_bytes:
        return refuse(task.name, f"{size} bytes are more than payload.reject_bytes ({config.payload.reject_bytes})")
    if config.payload.warn_bytes is not None and size > config.payload.warn_bytes:
        _logger.warning(
            "task %r: a payload of %d bytes; store large data elsewhere and send where it is",
            task.name,
            size,
            extra={"task_name": task.name, "task_id": payload.task_id},
        )
    return Ok(payload)


def reason_not_to_replay(
    gateway: Gateway, task_name: str, payload: TaskSendPayload, *, delayed: bool
) -> Err[TaskSendError] | None:
    """Why `payload` is no replay for this task; None when nothing speaks against it."""
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
        return refuse(task_name, "the payload cannot be read")
    if name != task_name:
        return refuse(task_name, f"the payload is of task {name!r}")
    if not has_spans_in_range(payload):
        return refuse(task_name, "the payload has a delay or a timeout of more than 1,000 years")
    if (delay > NOW) is not delayed:
        return refuse(task_name, "replay a send with retry_send, and a schedule with retry_schedule")
    if is_too_old(gateway, sent_at):
        return Err(TaskSendError(TaskSendErrorCode.ENQUEUE_FAILED, TOO_OLD, task_id=payload.task_id, payload=payload))
    return None


def has_spans_in_range(payload: TaskSendPayload) -> bool:
    """Whether the spans of a payload, which may have been made elsewhere, are such as a send gives."""
    try:
        span(payload.delay)
        if payload.timeout is not None:
            positive_span(payload.timeout)
    except ValueError:
        return False
    return True


def is_too_old(gateway: Gateway, sent_at: datetime) -> bool:
    """Whether what was sent then may have run and been removed, so that to replay it could run it again."""
    keep = gateway.app.config.retention.finished_after
    return keep is not None and gateway.environment.clock() - sent_at > keep


def row_of(payload: TaskSendPayload, now: datetime) -> NewTask:
    """The row for `payload`. Its age shortens the delay, so that a replay does not move the due time."""
    fields = payload._decoded
    left = max(fields.delay - max(now - fields.sent_at, NOW), NOW) if fields.delay else NOW
    return NewTask(
        task_id=fields.task_id,
        sha=bytes.fromhex(payload.enqueue_sha),
        envelope=payload.envelope,
        task_name=fields.task_name,
        queue=fields.queue,
        priority=fields.priority,
        sent_at=fields.sent_at,
        due_in=left.total_seconds(),
        good_until=fields.good_until,
        unique_key=fields.unique_key,
        workflow_id=None if fields.origin is None else fields.origin.workflow_id,
    )
