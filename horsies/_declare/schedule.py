"""Declaring a schedule: a task, and the pattern of instants at which it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from .._core.errors import HorsiesError, raise_all
from .._core.instants import EPOCH, LONGEST, is_instant, is_seconds
from .._core.instants import instant as in_utc
from .._core.names import is_name
from .._payload.signature import ArgumentError
from .._send.options import TaskSendOptions, problem_with
from ..abc import Serializer
from .task import Task

CatchUp: TypeAlias = Literal["none", "latest", "all"]
Overlap: TypeAlias = Literal["allow", "skip", "cancel_previous"]

_INSTANT = timedelta(microseconds=1)


@runtime_checkable
class Pattern(Protocol):
    """When slots are. `str()` of a pattern says all of it: another text is another pattern, which begins anew."""

    def next_after(self, after: datetime, *, start: datetime | None = None) -> datetime | None:
        """The first slot later than `after` and not before `start`, aware; None: there is none.

        It must depend on nothing else, and slots that are asked for one after the other must be the same as those asked
        for from anywhere in between.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A declared schedule; `Horsies.schedule` makes it."""

    name: str
    """Identity of the schedule in the database."""
    task: Task[Any, Any]
    """Task that is sent once for each slot."""
    pattern: Pattern
    """When the slots are."""
    args: tuple[Any, ...]
    """Positional arguments of each call."""
    kwargs: Mapping[str, Any]
    """Keyword arguments of each call."""
    options: TaskSendOptions
    """Options of each send. `good_until` and `unique_key` have fields or properties of their own."""
    good_until: timedelta | None
    """Time after its slot within which a task may begin; None: no limit."""
    catch_up: CatchUp
    """Which late slots are sent for; see `Horsies.schedule`."""
    overlap: Overlap
    """What happens if the task of an earlier slot has not ended; see `Horsies.schedule`."""
    jitter: float
    """Maximum delay of a task after its slot, in seconds."""
    start: datetime | None
    """First instant at which a slot can be, in UTC; None: no limit."""
    end: datetime | None
    """Last instant at which a slot can be, in UTC; None: no limit."""
    enabled: bool
    """False if the schedule sends nothing."""

    @property
    def timing(self) -> str:
        """Everything that the slots follow from, as text: a schedule whose timing has changed begins anew."""
        parts = [str(self.pattern)]
        parts += [f"from {self.start.isoformat()}"] if self.start is not None else []
        parts += [f"to {self.end.isoformat()}"] if self.end is not None else []
        parts += [] if self.enabled else ["disabled"]
        return ", ".join(parts)

    @property
    def unique_key(self) -> str | None:
        """The unique key of its tasks; with overlap="skip" one that its unfinished task has."""
        return f"schedule {self.name}" if self.overlap == "skip" else self.options.unique_key

    def next_after(self, after: datetime) -> datetime | None:
        """The first slot later than `after`, in UTC; None where `end`, or the end of the calendar, comes first."""
        slot = self.pattern.next_after(after, start=self.start)
        if slot is None or (self.end is not None and slot > self.end):
            return None
        try:
            return in_utc(slot)
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"<Schedule {self.name!r} of task {self.task.name!r}, {self.timing}>"


def make_schedule(
    name: str,
    task: object,
    pattern: object,
    *,
    tasks: Mapping[str, Task[Any, Any]],
    queues: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    options: TaskSendOptions,
    good_until: timedelta | None,
    catch_up: CatchUp,
    overlap: Overlap,
    jitter: float,
    start: datetime | None,
    end: datetime | None,
    enabled: bool,
) -> Schedule:
    """A schedule, or one `HorsiesError` with everything that is wrong with its declaration."""
    is_sequence = isinstance(args, Sequence) and not isinstance(args, (str, bytes))
    is_mapping = kwargs is None or (isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs))
    is_pattern = isinstance(pattern, Pattern) and not isinstance(pattern, type)
    bounds = {what: value for what, value in (("start", start), ("end", end)) if value is not None}
    utc = {what: in_utc(value) for what, value in bounds.items() if is_instant(value)}
    wrong = [
        *(
            f"{what} is not a datetime with a time zone, and within the years 1..9999 in UTC"
            for what in bounds
            if what not in utc
        ),
        *(
            what
            for is_wrong, what in (
                (not _is_short_name(name), "its name is not 1..200 bytes without NUL"),
                (not isinstance(task, Task), "task is not a declared task"),
                (not is_pattern, "pattern is none of Every, Hourly, Daily, Weekly, Monthly, Cron, nor one of your own"),
                (not is_sequence, "args is not a tuple of positional arguments"),
                (not is_mapping, "kwargs is not a dict of keyword arguments"),
                (
                    not _is_time_to_live(good_until),
                    "good_until is not a positive timedelta, counted from the slot, of at most 1,000 years",
                ),
                (catch_up not in ("none", "latest", "all"), "catch_up is none of 'none', 'latest', 'all'"),
                (overlap not in _OVERLAPS, "overlap is none of 'allow', 'skip', 'cancel_previous'"),
                (not is_seconds(jitter, may_be_zero=True), "jitter is not a number of seconds from 0 to 1,000 years"),
                (not isinstance(enabled, bool), "enabled is neither True nor False"),
                (
                    overlap == "skip" and options.unique_key is not None,
                    "overlap='skip' needs the unique key itself: leave out one of the two",
                ),
            )
            if is_wrong
        ),
    ]
    schedule = Schedule(
        name=name,
        task=task,  # type: ignore[arg-type]  # what is none is among the problems
        pattern=pattern,  # type: ignore[arg-type]  # as for the task
        args=tuple(args) if is_sequence else (),
        kwargs=dict(kwargs or {}) if is_mapping else {},
        options=options,
        good_until=good_until,
        catch_up=catch_up,
        overlap=overlap,
        jitter=jitter,
        start=utc.get("start"),
        end=utc.get("end"),
        enabled=enabled,
    )
    if isinstance(task, Task):
        if tasks.get(task.name) is not task:
            wrong.append(f"its task {task.name!r} is not registered with this application: app.include(the_task)")
        known = [options.retry] if isinstance(options.retry, str) else []
        if is_sequence and is_mapping:
            wrong += problems_with_call(schedule, None, queues, known)
    if is_pattern and bounds.keys() == utc.keys():
        try:
            problem = _problem_with_slots(schedule)
        except Exception as error:  # a pattern of the caller's may do anything
            problem = f"its pattern fails: {type(error).__name__}"
        if problem is not None:
            wrong.append(problem)
    raise_all([HorsiesError("HRS-205", f"schedule {name!r}: {what}") for what in wrong])
    return schedule


def problems_with_call(
    schedule: Schedule,
    serializer: Serializer | None,
    queues: Mapping[str, Any],
    policies: Sequence[str] | Mapping[str, Any],
) -> list[str]:
    """What is wrong with the arguments and options that a schedule's sends would have.

    Args:
        serializer: None where it is not known, which is before a runtime is opened.
    """
    alone = [TaskSendOptions(**{one.name: getattr(schedule.options, one.name)}) for one in fields(TaskSendOptions)]
    problems = [problem for option in alone if (problem := problem_with(option, queues, policies)) is not None]
    try:
        if serializer is None:
            schedule.task.signature.lower(schedule.args, dict(schedule.kwargs))
        else:
            schedule.task.signature.encode(serializer, schedule.args, dict(schedule.kwargs))
    except ArgumentError as error:
        problems.append(str(error))
    return problems


def _problem_with_slots(schedule: Schedule) -> str | None:
    """What is wrong with when the slots are, as far as the first two show."""
    pattern, start, end = schedule.pattern, schedule.start, schedule.end
    if type(pattern).__str__ is object.__str__ and type(pattern).__repr__ is object.__repr__:
        return "str() of its pattern does not say what it is, so that it would begin anew in every process"
    if start is not None and end is not None and end < start:
        return "end is before start"
    slot = pattern.next_after(EPOCH - _INSTANT, start=start)
    if slot is not None and slot.utcoffset() is None:
        return "its pattern gives slots without a time zone"
    if slot is not None and start is not None and slot < start:
        return "its pattern gives a slot before start"
    if slot is None or (end is not None and slot > end):
        return "its pattern has no slot between start and end"
    following = pattern.next_after(slot, start=start)
    if following is not None and following <= slot:
        return "its pattern gives a slot that is not later than the one before"
    return None


_OVERLAPS = ("allow", "skip", "cancel_previous")


def _is_short_name(name: object) -> bool:
    # The unique key of overlap='skip' holds it, and has 255.
    return is_name(name) and len(str(name).encode()) <= 200


def _is_time_to_live(value: object) -> bool:
    return value is None or (isinstance(value, timedelta) and timedelta(0) < value <= LONGEST)
