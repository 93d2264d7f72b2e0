"""The states that a database may be in, and how they are narrowed down.

A `World` is one such state: every task with what no reader shows, and every heartbeat. A call is a step from a world to
those that may follow. `follow` and `agreeing` drop the worlds that the broker's answers and the rows contradict. When
none is left, the broker was wrong, and `Disagreement` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from itertools import combinations, groupby
from typing import Any, NamedTuple, TypeAlias, TypeVar

from horsies.abc import Lease, TaskRow, TaskStatus

A = TypeVar("A")
HELD = (TaskStatus.CLAIMED, TaskStatus.RUNNING)


class Disagreement(AssertionError):
    """The broker did what none may do."""


@dataclass(frozen=True, slots=True)
class Task:
    """A row with what the reader does not show.

    `ready`: claimable once PENDING, because it was due when sent, was promoted or given back. `eligible_at`: when it is
    due, which giving back with a delay moves and `row.due_at` does not tell.
    """

    row: TaskRow
    sha: bytes
    unique_key: str | None
    ready: bool
    eligible_at: datetime
    claim_number: int = 0
    retry_after_crash: float | None = None
    unknown_since: datetime | None = None

    def becoming(self, status: TaskStatus, **changes: object) -> Task:
        """The task with another status and other columns."""
        return replace(self, row=replace(self.row, status=status, **changes))  # type: ignore[arg-type]  # of any column

    def is_late(self, now: datetime) -> bool:
        """Whether it may not begin any more. Equality is too late."""
        return self.row.good_until is not None and self.row.good_until <= now

    def has_ended(self) -> bool:
        return self.row.status.is_terminal

    def is_pending(self) -> bool:
        return self.row.status is TaskStatus.PENDING


class Beat(NamedTuple):
    """When a worker was last seen, and since when without a gap."""

    seen_at: datetime
    steady_since: datetime


@dataclass(frozen=True)
class World:
    """A state that the database may be in.

    Tasks by id; the last heartbeat of each registered worker; the leader, whether it is watching, and until when.
    """

    tasks: Mapping[str, Task] = field(default_factory=dict)
    beats: Mapping[str, Beat] = field(default_factory=dict)
    leader: tuple[str, bool, datetime] | None = None

    def __hash__(self) -> int:
        return hash((frozenset(self.tasks.items()), frozenset(self.beats.items()), self.leader))

    def having(self, tasks: Iterable[Task]) -> World:
        """The world in which `tasks` are as given."""
        return replace(self, tasks={**self.tasks, **{task.row.task_id: task for task in tasks}})

    def holding(self, worker: str, lease: Lease) -> Task | None:
        """The fence: the task that `worker` holds by this claim."""
        task = self.tasks.get(lease.task_id)
        if task is None or task.row.status not in HELD:
            return None
        return task if (task.row.worker_id, task.claim_number) == (worker, lease.claim_number) else None

    def is_alive(self, worker: str | None, now: datetime, dead_after: float) -> bool:
        """Whether the worker's heartbeat is there and younger than `dead_after` seconds."""
        last = None if worker is None else self.beats.get(worker)
        return last is not None and last.seen_at > now - timedelta(seconds=dead_after)

    def finds_dead(self, worker: str, now: datetime, dead_after: float, gap: float) -> bool:
        """Whether the worker may find others dead: it leads, its heartbeat is fresh, and it has long been steady."""
        last = self.beats.get(worker)
        holder, _, until = self.leader or (None, False, now)
        return (
            last is not None
            and holder == worker
            and until > now
            and now - last.seen_at <= timedelta(seconds=gap)
            and last.steady_since <= now - timedelta(seconds=dead_after)
        )


Step: TypeAlias = Callable[[World], Iterable[World]]
"""From a world to those in which the answer that the broker gave is right. Raises `Disagreement` if there is none."""


def exactly(call: Callable[[World], tuple[A, World]], answer: A) -> Step:
    """The step of a call whose answer is settled."""

    def step(world: World) -> list[World]:
        expected, after = call(world)
        require(answer == expected, f"answered {answer}, should have answered {expected}")
        return [after]

    return step


def perhaps(call: Callable[[World], tuple[A, World]]) -> Step:
    """The step of a call whose answer was lost: it was carried out in full, or not at all."""
    return lambda world: [world, call(world)[1]]


def follow(worlds: Iterable[World], *steps: Step) -> list[World]:
    """The worlds after `steps`, one after the other.

    Raises:
        Disagreement: there are none.
    """
    for step in steps:
        found: dict[World, None] = {}
        reasons: dict[str, None] = {}
        for world in worlds:
            try:
                found |= dict.fromkeys(step(world))
            except Disagreement as reason:
                reasons[str(reason)] = None
        if not found:
            raise Disagreement("; or else: ".join(reasons))
        worlds = list(found)
    return list(worlds)


def agreeing(worlds: Iterable[World], rows: Mapping[str, TaskRow | None]) -> list[World]:
    """The worlds in which the reader shows `rows`, None where there is none.

    Raises:
        Disagreement: there are none; what differs from the world that comes nearest.
    """
    differing = {world: _differences(world, rows) for world in worlds}
    found = [world for world, differences in differing.items() if not differences]
    if not found:
        nearest = min(differing.values(), key=len)
        raise Disagreement("\n".join(nearest))
    return found


def choices(
    verb: str,
    candidates: Sequence[Task],
    count: int,
    limit: int,
    *,
    contended: bool,
    rank: Callable[[Task], Any] = lambda _: 0,
) -> Iterator[tuple[Task, ...]]:
    """Every way to take `count` of `candidates` in the order of `rank`; equals come in any order."""
    most = min(limit, len(candidates))
    right = 0 <= count <= most if contended else count == most
    require(right, f"{verb} {count}, should be {most}: {len(candidates)} of at most {limit}")
    if contended:
        yield from combinations(candidates, count)
        return
    certain: list[Task] = []
    for _, group in groupby(sorted(candidates, key=rank), key=rank):
        equals = list(group)
        if len(certain) + len(equals) > count:
            yield from ((*certain, *some) for some in combinations(equals, count - len(certain)))
            return
        certain += equals
    yield tuple(certain)


def require(right: bool, reason: str) -> None:
    """Raise `Disagreement` for `reason` unless `right`."""
    if not right:
        raise Disagreement(reason)


def _differences(world: World, rows: Mapping[str, TaskRow | None]) -> list[str]:
    """In words, one for each column."""
    found = []
    for task_id, row in rows.items():
        task = world.tasks.get(task_id)
        if row is None or task is None:
            if row is not None or task is not None:
                found.append(f"{task_id}: should be {task and task.row}, is {row}")
            continue
        for one in fields(TaskRow):
            expected, seen = getattr(task.row, one.name), getattr(row, one.name)
            if expected != seen:
                found.append(f"{task_id}: {one.name} should be {expected!r}, is {seen!r}")
    return found
