"""What the declaration of a task says of its sends, and what a single send may say differently."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from .._core.instants import instant, positive_span
from .._core.names import PRIORITY_DEFAULT, is_name, is_priority, is_unicode
from .._core.retry import RetryPolicy

RunIn: TypeAlias = Literal["thread", "process"]


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """The options of a declaration, checked."""

    queue: str | None = None
    priority: int = PRIORITY_DEFAULT
    timeout: timedelta | None = None
    retry: RetryPolicy | str | None = None
    retry_for: tuple[str, ...] | None = None
    run_in: RunIn | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSendOptions:
    """Options of one send; None leaves what the task's definition says.

    Nothing is checked here: a bad value is VALIDATION_FAILED at the send.
    """

    good_until: datetime | None = None
    """Last instant at which the task may begin, aware, within the years 1 to 9999 in UTC.

    A send with an instant that has passed is accepted, and its task expires.
    """
    queue: str | None = None
    """Name of one of the application's queues."""
    priority: int | None = None
    """1 (first) to 100 (last)."""
    timeout: float | timedelta | None = None
    """Time that user code may run, in seconds or as a timedelta: at most 1,000 years."""
    retry: RetryPolicy | str | None = None
    """A `RetryPolicy`, which is stored with the task, or the name of a registered policy."""
    unique_key: str | None = None
    """Key that at most one unfinished task of this name has: 1 to 255 bytes without NUL.

    Another send with the key returns that task's handle, with `deduplicated` set. Arguments are not compared.
    """
    metadata: Mapping[str, str] | None = None
    """Strings by strings. The task finds them in `TaskContext.metadata`."""

    def updated(self, other: TaskSendOptions) -> TaskSendOptions:
        """Return these options, with each option that `other` sets in its place."""
        named = {f.name: value for f in fields(other) if (value := getattr(other, f.name)) is not None}
        return replace(self, **named)


def updated(options: TaskSendOptions, other: TaskSendOptions) -> TaskSendOptions:
    """`options.updated(other)`; if either is something else, that, so that the send can say so."""
    for one in (options, other):
        if not isinstance(one, TaskSendOptions):
            return one
    return options.updated(other)


def _shown(name: object) -> str:
    """What stands for a name, shortened."""
    try:
        return reprlib.repr(name)
    except Exception:  # an int of thousands of digits has no text
        return type(name).__name__


def problem_with(options: TaskSendOptions, queues: Collection[str], policies: Collection[str]) -> str | None:
    """What is wrong with `options`, in a sentence that names the option and the rule; None when nothing is."""
    if not isinstance(options, TaskSendOptions):
        return f"with_options() takes TaskSendOptions, and got {type(options).__name__}"
    retry = options.retry
    try:
        if options.good_until is not None:
            instant(options.good_until)
    except ValueError as error:
        return f"good_until {error}"
    try:
        if options.timeout is not None:
            positive_span(options.timeout)
    except ValueError as error:
        return f"timeout {error}"
    if options.queue is not None and (not isinstance(options.queue, str) or options.queue not in queues):
        return f"queue {_shown(options.queue)} is not one of the application's: {', '.join(sorted(queues))}"
    if options.priority is not None and not is_priority(options.priority):
        return "priority is not a whole number of 1..100"
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
    if metadata and not all(is_unicode(text) for pair in metadata.items() for text in pair):
        return "metadata holds text with a lone surrogate, which is no Unicode"
    return None
