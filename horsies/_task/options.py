"""What a single send may say differently from the task's definition."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta

from .._core.config import is_name, is_priority
from .._core.retry import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSendOptions:
    """Options of one send; None leaves what the task's definition says.

    Nothing is checked here: a bad value is VALIDATION_FAILED at the send.

    Args:
        good_until: aware; the last instant at which the task may begin. One that has passed is accepted and expires.
        queue: one of the application's.
        priority: 1 (first) to 100 (last).
        timeout: seconds or a timedelta that user code may run.
        retry: a `RetryPolicy`, stored with the task, or the name of a registered policy.
        unique_key: 1..255 bytes without NUL. Of the tasks of this name that have not ended at most one has it: another
            send returns that one's handle, with `deduplicated` set. Arguments are not compared.
        metadata: strings by strings, handed to the task in `TaskContext.metadata`.
    """

    good_until: datetime | None = None
    queue: str | None = None
    priority: int | None = None
    timeout: float | timedelta | None = None
    retry: RetryPolicy | str | None = None
    unique_key: str | None = None
    metadata: Mapping[str, str] | None = None

    def updated(self, other: TaskSendOptions) -> TaskSendOptions:
        """These options, with whatever `other` names replaced."""
        named = {f.name: value for f in fields(other) if (value := getattr(other, f.name)) is not None}
        return replace(self, **named)


def as_timedelta(value: object) -> timedelta | None:
    """Seconds or a timedelta as a timedelta; None when it is neither, or not finite."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (OverflowError, ValueError):  # ValueError: it is not a number
            return None
    return None


def problem_with(options: TaskSendOptions, queues: Collection[str], policies: Collection[str]) -> str | None:
    """What is wrong with `options`, in a sentence; None when nothing is."""
    good_until, timeout, retry = options.good_until, options.timeout, options.retry
    if good_until is not None and (not isinstance(good_until, datetime) or good_until.utcoffset() is None):
        return "good_until is not a datetime with a time zone"
    if options.queue is not None and (not isinstance(options.queue, str) or options.queue not in queues):
        return f"queue {options.queue!r} is not one of the application's: {', '.join(sorted(queues))}"
    if options.priority is not None and not is_priority(options.priority):
        return "priority is not a whole number of 1..100"
    if timeout is not None and ((span := as_timedelta(timeout)) is None or span <= timedelta(0)):
        return "timeout is not a positive number of seconds"
    if retry is not None and not isinstance(retry, (str, RetryPolicy)):
        return "retry is neither a RetryPolicy nor the name of a registered one"
    if isinstance(retry, str) and retry not in policies:
        return f"retry policy {retry!r} is not registered; installed: {', '.join(sorted(policies)) or 'none'}"
    if options.unique_key is not None and not is_name(options.unique_key):
        return "unique_key is not 1..255 bytes of text without NUL"
    metadata = options.metadata
    if metadata is not None and not (
        isinstance(metadata, Mapping) and all(isinstance(text, str) for pair in metadata.items() for text in pair)
    ):
        return "metadata does not map str to str"
    return None
