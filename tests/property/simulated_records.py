"""What the checks of a simulated world know of each task, each worker and each attempt.

Times are seconds since the simulation began.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from horsies import RetryPolicy

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
TIMELY = 1e-4
"""Seconds by which instants may differ that were rounded to microseconds."""

Plan = list[tuple[float, str]]
"""For each attempt: how many seconds it takes, and how it ends."""
ENDS = ("value",) * 6 + ("RATE_LIMITED", "BROKEN", "raise", "return an error")
CODES = {"value": None, "raise": "UNHANDLED_ERROR", "return an error": "BROKEN"}


@dataclass(frozen=True)
class Kind:
    """A declared task, as the checks know it."""

    name: str
    delays: tuple[float, ...] = ()
    jitter: bool = False
    retry_for: tuple[str, ...] | None = None
    timeout: float | None = None
    is_async: bool = True
    queue: str = "default"

    def is_retried(self, code: str) -> bool:
        listed = ("RATE_LIMITED", "BROKEN", "UNHANDLED_ERROR") if self.retry_for is None else self.retry_for
        return code in listed

    @property
    def policy(self) -> RetryPolicy | None:
        return RetryPolicy(self.delays, self.jitter) if self.delays else None


KINDS = (
    Kind("report", (60, 600, HOUR), False, ("RATE_LIMITED", "TASK_TIMEOUT", "WORKER_CRASHED"), timeout=2 * HOUR),
    Kind("import"),
    Kind("mail", (30, 60, 120, 240), True, is_async=False, queue="mail"),
    Kind("fetch", (5, 10), True, ("UNHANDLED_ERROR",), timeout=600, queue="mail"),
)


@dataclass(eq=False)
class Post:
    """A worker, and when it could have taken another task: while it claims and is not full."""

    name: str
    queues: tuple[str, ...]
    concurrency: int
    running: int = 0
    is_claiming: bool = False
    was_cut_off: bool = False
    stops_at: float = math.inf
    room_since: float | None = None
    room: list[tuple[float, float]] = field(default_factory=list)

    def change(self, now: float, *, running: int = 0, is_claiming: bool | None = None) -> None:
        self.running += running
        self.is_claiming = self.is_claiming if is_claiming is None else is_claiming
        has_room = self.is_claiming and self.running < self.concurrency
        if has_room and self.room_since is None:
            self.room_since = now
        elif not has_room and self.room_since is not None:
            self.room.append((self.room_since, now))
            self.room_since = None

    def had_room(self, begin: float, end: float, now: float) -> bool:
        """Whether it had room all the time from `begin` to `end`."""
        current = [] if self.room_since is None else [(self.room_since, now)]
        return any(since <= begin and end <= until for since, until in [*self.room, *current])


@dataclass(eq=False)
class Run:
    """One attempt, as user code saw it. `end` is the planned one, or None when it was not left to come to it."""

    post: Post
    attempt: int
    began: float
    ended: float | None = None
    end: str | None = None

    def value(self, key: str) -> list[str | int]:
        return [key, self.attempt]


@dataclass(eq=False)
class Sent:
    """One send, and all that became of it."""

    key: str
    kind: Kind
    plan: Plan
    queue: str
    due: float
    good_until: float | None
    unique_key: str | None
    task_id: str | None = None
    accepted: float | None = None
    cancel_asked: bool = False
    runs: list[Run] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)

    def code(self, run: Run) -> str | None:
        """What an ended attempt comes to: None for a value, WORKER_CRASHED for one that its worker stopped."""
        if run.end is not None:
            return CODES.get(run.end, run.end)
        assert run.ended is not None
        timeout = self.kind.timeout
        return "TASK_TIMEOUT" if timeout is not None and run.ended - run.began >= timeout - TIMELY else "WORKER_CRASHED"

    def retries_used(self) -> int:
        """How many of the attempts before the last were followed by a retry that counts."""
        return sum(self.code(run) != "WORKER_CRASHED" for run in self.runs[:-1])

    def longest_delay(self) -> float | None:
        """Until the attempt that follows the last one; None when there is none left. An interruption uses no retry."""
        code, used = str(self.code(self.runs[-1])), self.retries_used()
        if not self.kind.is_retried(code) or (used >= len(self.kind.delays) and code != "WORKER_CRASHED"):
            return None
        return 0.0 if code == "WORKER_CRASHED" else self.kind.delays[used] * (1.25 if self.kind.jitter else 1.0)

    def exclusive(self) -> list[object]:
        """Names under which no other attempt may run at the same time: the task's, and that of its unique key."""
        return [self.key] if self.unique_key is None else [self.key, (self.kind.name, self.unique_key)]
