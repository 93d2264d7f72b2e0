"""The options of one node: which of them are good."""

from __future__ import annotations

from dataclasses import fields

from ..._core.names import is_name, is_priority
from ..._core.retry import RetryPolicy
from ..._payload.envelope import stored_retry
from ..._send.options import TaskSendOptions, problem_with
from .arguments import Report
from .spec import Retry

_OPTION_CODES = {"queue": "HRS-014", "priority": "HRS-015"}


def good_options(options: TaskSendOptions, report: Report) -> TaskSendOptions:
    """`options` without those that are wrong. Reports HRS-014, HRS-015 and HRS-023 for these."""
    good = TaskSendOptions()
    for option in fields(TaskSendOptions):
        value = getattr(options, option.name)
        if value is None:
            continue
        one = TaskSendOptions(**{option.name: value})
        problem = _problem_with(one)
        if problem is None:
            good = good.updated(one)
        else:
            report(_OPTION_CODES.get(option.name, "HRS-023"), problem, f"see TaskNode.{option.name}")
    return good


def _problem_with(one: TaskSendOptions) -> str | None:
    if one.queue is not None and not is_name(one.queue):
        return "queue is not the name of a queue"
    if one.priority is not None and not is_priority(one.priority):
        return f"priority {one.priority!r} is not a whole number of 1..100"
    named = [one.queue] if one.queue is not None else []
    known = [one.retry] if isinstance(one.retry, str) and is_name(one.retry) else []
    return problem_with(one, named, known)


def storable_retry(retry: RetryPolicy | str | None, report: Report) -> str | Retry | None:
    """`retry` as it is stored. Reports HRS-023 for one that cannot be."""
    try:
        stored = stored_retry(retry)
    except (ValueError, OverflowError):
        report("HRS-023", "retry has a delay that cannot be stored", "delays are from a microsecond to 30 years")
        return None
    return (tuple(stored[0]), stored[1]) if isinstance(stored, tuple) else stored
