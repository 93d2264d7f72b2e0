"""What a broker must do, without a database.

A `World` is one state that the database may be in: every task with what no reader shows, and every heartbeat. A call is
a function of a world. Where the protocol settles everything it gives the one answer and the one world that follows.
Where it leaves a choice (which of the expired a claim sweeps aside, which delayed tasks come first when the limit does
not let all through) it takes the broker's answer too, and gives every world in which that answer is right. `follow` and
`agreeing` drop the worlds that the answers and the rows contradict. When none is left, the broker was wrong:
`Disagreement` says how.

Calls that ran side by side are right if one order of them is. Then a broker may pass over rows that the other one has
locked, which is what `contended` allows.

The laws at the end know nothing of worlds. They look at rows before and after a call, and are a second opinion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from itertools import combinations, groupby
from typing import TypeAlias, TypeVar

from horsies.abc import (
    AttemptRow,
    CancelOutcome,
    Claim,
    ClaimedTask,
    Enqueued,
    EnqueueOutcome,
    Finish,
    GiveBack,
    Lease,
    NewTask,
    Promotion,
    Start,
    StartOutcome,
    TaskRow,
    TaskStatus,
)

from .broker import CHANGES

A = TypeVar("A")
HELD = (TaskStatus.CLAIMED, TaskStatus.RUNNING)
CRASHED = "WORKER_CRASHED"
_MILLISECOND = 0.001


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

    def becoming(self, status: TaskStatus, **changes: object) -> Task:
        """The task with another status and other columns."""
        return replace(self, row=replace(self.row, status=status, **changes))  # type: ignore[arg-type]

    def is_late(self, now: datetime) -> bool:
        """Whether it may not begin any more. Equality is too late."""
        return self.row.good_until is not None and self.row.good_until <= now

    def has_ended(self) -> bool:
        return self.row.status.is_terminal

    def is_pending(self) -> bool:
        return self.row.status is TaskStatus.PENDING


@dataclass(frozen=True)
class World:
    """A state that the database may be in: tasks by id, and when each worker was last seen."""

    tasks: Mapping[str, Task] = field(default_factory=dict)
    beats: Mapping[str, datetime] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((frozenset(self.tasks.items()), frozenset(self.beats.items())))

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
        return worker in self.beats and self.beats[worker] > now - timedelta(seconds=dead_after)


Step: TypeAlias = Callable[[World], Iterable[World]]
"""From a world to those in which the answer that the broker gave is right. Raises `Disagreement` if there is none."""


def exactly(call: Callable[[World], tuple[A, World]], answer: A) -> Step:
    """The step of a call whose answer is settled."""

    def step(world: World) -> list[World]:
        expected, after = call(world)
        _require(answer == expected, f"answered {answer}, should have answered {expected}")
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
        raise Disagreement("\n".join(min(differing.values(), key=len)))
    return found


def enqueue(world: World, tasks: Sequence[NewTask], *, now: datetime) -> tuple[list[Enqueued], World]:
    """See `Producer.enqueue`. An id that is present decides before a unique key that is taken."""
    answers = []
    for new in tasks:
        present = world.tasks.get(new.task_id)
        holder = _holder(world, new)
        if present is not None:
            same = present.sha == new.sha
            answers.append(Enqueued(EnqueueOutcome.REPLAYED if same else EnqueueOutcome.MISMATCH, new.task_id))
        elif holder is not None:
            answers.append(Enqueued(EnqueueOutcome.DEDUPLICATED, holder))
        else:
            answers.append(Enqueued(EnqueueOutcome.INSERTED, new.task_id))
            world = world.having([_inserted(new, now)])
    return answers, world


def beat(world: World, worker: str, *, now: datetime) -> tuple[list[Lease], World]:
    """See `Consumer.beat`. The leases are in the order of their ids, the broker's may be in any."""
    asked = [
        Lease(task_id, task.claim_number)
        for task_id, task in sorted(world.tasks.items())
        if task.row.status is TaskStatus.RUNNING and task.row.worker_id == worker and task.row.cancel_requested
    ]
    return asked, replace(world, beats={**world.beats, worker: now})


def leave(world: World, worker: str) -> tuple[int, World]:
    """See `Consumer.leave`."""
    held = [
        task
        for task in world.tasks.values()
        if task.row.status is TaskStatus.CLAIMED and task.row.worker_id == worker
    ]
    gone = {other: seen for other, seen in world.beats.items() if other != worker}
    return len(held), replace(world.having(map(_returned, held)), beats=gone)


def promote(
    world: World, *, limit: int, now: datetime, answer: Promotion, contended: bool = False
) -> Iterator[World]:
    """See `Consumer.promote`. A broker that reached its limit may say "at once" instead of looking for the next."""
    delayed = [task for task in world.tasks.values() if task.is_pending() and not task.ready]
    due = [task for task in delayed if task.eligible_at <= now]
    for chosen in _choices("promoted", due, answer.promoted, limit, contended=contended):
        left = [task.eligible_at for task in delayed if task not in chosen]
        next_due_in = max((min(left) - now).total_seconds(), 0.0) if left else None
        right = _near(answer.next_due_in, next_due_in) or (answer.promoted == limit and answer.next_due_in == 0)
        _require(right or contended, f"the next task is due in {next_due_in} s, not in {answer.next_due_in}")
        yield world.having(replace(task, ready=True) for task in chosen)


def claim(
    world: World,
    worker: str,
    queues: Sequence[tuple[str, int]],
    *,
    limit: int,
    now: datetime,
    dead_after: float,
    answer: Claim,
    contended: bool = False,
) -> Iterator[World]:
    """See `Consumer.claim`. It may fall short only of what stands behind tasks that it expired."""
    ranks = dict(queues)
    ready = [
        task
        for task in world.tasks.values()
        if task.is_pending() and task.ready and task.eligible_at <= now and task.row.queue in ranks
    ]
    claimable = {task.row.task_id: task for task in ready if not task.is_late(now)}
    ids = [claimed.lease.task_id for claimed in answer.tasks]
    _require(len(ids) <= limit, f"claimed {len(ids)} where the limit is {limit}")
    _require(len(set(ids)) == len(ids), f"claimed one task twice: {ids}")
    alive = world.is_alive(worker, now, dead_after)
    _require(alive or not ids, f"{worker} claimed {ids} without a heartbeat younger than {dead_after:g} s")
    for task_id in ids:
        _require(task_id in claimable, f"claimed {task_id}, which was not to be had: {world.tasks.get(task_id)}")
    # Both words for "due time" are taken: what giving back moved, and what it left in the row.
    places = [[(*_place(task, ranks), due, task_id) for task_id, task in claimable.items() for due in [moment(task)]]
              for moment in (lambda task: task.eligible_at, lambda task: task.row.due_at)]  # fmt: skip
    orders = [[task_id for *_, task_id in sorted(order)] for order in places]
    in_order = any([task_id for task_id in order if task_id in ids] == ids for order in orders)
    _require(in_order, f"claimed in the order {ids}; the order of the queue is {orders[0]}")
    if not contended:
        first = any(order[: len(ids)] == ids for order in orders)
        _require(first, f"claimed {ids}, which are not the first of {orders[0]}")
        full = len(ids) == min(limit, len(claimable)) or not alive
        _require(full or answer.expired > 0, f"claimed {ids} of {orders[0]} where the limit is {limit}")
    for claimed in answer.tasks:
        _check_claimed(claimable[claimed.lease.task_id], claimed, now)
    world = world.having(
        replace(
            claimable[claimed.lease.task_id].becoming(TaskStatus.CLAIMED, claimed_at=now, worker_id=worker),
            claim_number=claimed.lease.claim_number,
        )
        for claimed in answer.tasks
    )
    late = [task for task in world.tasks.values() if task.is_pending() and task.is_late(now)]
    for chosen in _choices("expired", late, answer.expired, len(late), contended=True):
        yield world.having(_expired(task, now) for task in chosen)


def start(
    world: World, worker: str, starts: Sequence[Start], *, now: datetime
) -> tuple[list[StartOutcome], World]:
    """See `Consumer.start`."""
    answers = []
    for one in starts:
        task = world.holding(worker, one.lease)
        if task is None or task.row.status is not TaskStatus.CLAIMED:
            answers.append(StartOutcome.LOST)
        elif task.is_late(now):
            answers.append(StartOutcome.EXPIRED)
            world = world.having([_expired(task, now)])
        else:
            answers.append(StartOutcome.STARTED)
            started = task.becoming(TaskStatus.RUNNING, started_at=now, attempt=task.row.attempt + 1)
            world = world.having([replace(started, retry_after_crash=one.retry_after_crash)])
    return answers, world


def finish(world: World, worker: str, ends: Sequence[Finish], *, now: datetime) -> tuple[list[bool], World]:
    """See `Consumer.finish`. After a request to cancel, what brings no result ends CANCELLED."""
    answers = []
    for end in ends:
        task = world.holding(worker, end.lease)
        mine = task is not None and (task.row.status is TaskStatus.RUNNING or end.status is TaskStatus.FAILED)
        answers.append(mine)
        if task is not None and mine:
            delay = None
            if end.status is TaskStatus.PENDING:
                delay = 0.0 if end.interrupted else max(end.retry_in, 0.0)
            world = world.having(
                [
                    _ended(task, TaskStatus.COMPLETED, now, end.error_code, end.result)
                    if end.status is TaskStatus.COMPLETED
                    else _failed(task, now, end.error_code, end.result, delay, counted=not end.interrupted)
                ]
            )
    return answers, world


def give_back(world: World, worker: str, tasks: Sequence[GiveBack], *, now: datetime) -> tuple[list[bool], World]:
    """See `Consumer.give_back`. `due_at` stays what it was."""
    answers = []
    for back in tasks:
        task = world.holding(worker, back.lease)
        mine = task is not None and task.row.status is TaskStatus.CLAIMED
        answers.append(mine)
        if task is not None and mine:
            returned = _returned(task)
            if back.delay > 0:
                returned = replace(returned, ready=False, eligible_at=now + timedelta(seconds=back.delay))
            world = world.having([returned])
    return answers, world


def expire(world: World, *, limit: int, now: datetime, answer: int, contended: bool = False) -> Iterator[World]:
    """See `Consumer.expire`: PENDING ones first, of these the oldest deadline first."""
    late = [
        task
        for task in world.tasks.values()
        if task.row.status in (TaskStatus.PENDING, TaskStatus.CLAIMED) and task.is_late(now)
    ]

    def rank(task: Task) -> tuple[int, datetime | None]:
        return (0, task.row.good_until) if task.is_pending() else (1, None)

    for chosen in _choices("expired", late, answer, limit, contended=contended, rank=rank):
        yield world.having(_expired(task, now) for task in chosen)


def reap(
    world: World, *, limit: int, now: datetime, dead_after: float, answer: int, contended: bool = False
) -> Iterator[World]:
    """See `Consumer.reap`."""
    orphans = [
        task
        for task in world.tasks.values()
        if task.row.status in HELD and not world.is_alive(task.row.worker_id, now, dead_after)
    ]
    for chosen in _choices("reaped", orphans, answer, limit, contended=contended):
        yield world.having(_reaped(task, now) for task in chosen)


def has_due(world: World, queues: Sequence[tuple[str, int]], *, now: datetime) -> tuple[bool, World]:
    """See `Consumer.has_due`: promoted or not, deadline passed or not."""
    served = dict(queues)
    due = any(
        task.is_pending() and task.eligible_at <= now and task.row.queue in served for task in world.tasks.values()
    )
    return due, world


def cancel(world: World, task_ids: Sequence[str], *, now: datetime) -> tuple[list[CancelOutcome], World]:
    """See `Control.cancel`."""
    answers = []
    for task_id in task_ids:
        task = world.tasks.get(task_id)
        if task is None:
            answers.append(CancelOutcome.NOT_FOUND)
        elif task.has_ended():
            answers.append(CancelOutcome.ALREADY_FINISHED)
        elif task.row.status is TaskStatus.RUNNING:
            answers.append(CancelOutcome.REQUESTED)
            world = world.having([task.becoming(TaskStatus.RUNNING, cancel_requested=True)])
        else:
            answers.append(CancelOutcome.CANCELLED)
            world = world.having([_unstarted(task, TaskStatus.CANCELLED, now, cancel_requested=True)])
    return answers, world


def _inserted(new: NewTask, now: datetime) -> Task:
    due_at = now + timedelta(seconds=max(new.due_in, 0.0))
    row = TaskRow(
        task_id=new.task_id,
        task_name=new.task_name,
        queue=new.queue,
        priority=new.priority,
        status=TaskStatus.PENDING,
        attempt=0,
        retries=0,
        sent_at=new.sent_at,
        due_at=due_at,
        claimed_at=None,
        started_at=None,
        finished_at=None,
        good_until=new.good_until,
        worker_id=None,
        error_code=None,
        envelope=new.envelope,
        result=None,
        cancel_requested=False,
        attempts=(),
    )
    return Task(row, new.sha, new.unique_key, ready=new.due_in <= 0, eligible_at=due_at)


def _holder(world: World, new: NewTask) -> str | None:
    """The id of the unfinished task that has the unique key of `new`."""
    if new.unique_key is None:
        return None
    wanted = (new.task_name, new.unique_key)
    unfinished = (task for task in world.tasks.values() if not task.has_ended())
    return next((task.row.task_id for task in unfinished if (task.row.task_name, task.unique_key) == wanted), None)


def _returned(task: Task) -> Task:
    """CLAIMED -> PENDING, as if nobody had claimed it."""
    return replace(task.becoming(TaskStatus.PENDING, worker_id=None, claimed_at=None), ready=True)


def _unstarted(task: Task, status: TaskStatus, now: datetime, **changes: object) -> Task:
    """The end of a task that did not start: nobody's, and no attempt."""
    return task.becoming(status, worker_id=None, claimed_at=None, finished_at=now, **changes)


def _expired(task: Task, now: datetime) -> Task:
    return _unstarted(task, TaskStatus.EXPIRED, now)


def _ended(task: Task, status: TaskStatus, now: datetime, code: str | None, result: bytes | None) -> Task:
    """The end of an attempt that is the last one; it stays in the row."""
    return task.becoming(status, finished_at=now, error_code=code, result=result)


def _failed(
    task: Task, now: datetime, code: str | None, result: bytes | None, delay: float | None, *, counted: bool
) -> Task:
    """An attempt that failed: tried again after `delay` seconds (None: not), unless cancelled or then too late."""
    if task.row.cancel_requested:
        return _ended(task, TaskStatus.CANCELLED, now, code, result)
    again_at = None if delay is None else now + timedelta(seconds=delay)
    if again_at is None or task.is_late(again_at):
        return _ended(task, TaskStatus.FAILED, now, code, result)
    row = task.row
    assert row.worker_id is not None
    assert row.started_at is not None
    past = AttemptRow(row.attempt, row.worker_id, row.started_at, now, code, result)
    pending = task.becoming(
        TaskStatus.PENDING,
        due_at=again_at,
        retries=row.retries + counted,
        worker_id=None,
        claimed_at=None,
        started_at=None,
        attempts=(*row.attempts, past),
    )
    return replace(pending, ready=again_at <= now, eligible_at=again_at)


def _reaped(task: Task, now: datetime) -> Task:
    if task.row.status is TaskStatus.RUNNING:
        return _failed(task, now, CRASHED, None, task.retry_after_crash, counted=True)
    return _expired(task, now) if task.is_late(now) else _returned(task)


def _place(task: Task, ranks: Mapping[str, int]) -> tuple[int, int]:
    return ranks[task.row.queue], task.row.priority


def _check_claimed(task: Task, claimed: ClaimedTask, now: datetime) -> None:
    number, row = claimed.lease.claim_number, task.row
    _require(number > task.claim_number, f"claim number {number} of {row.task_id} after {task.claim_number}")
    overdue = (now - row.due_at).total_seconds()
    _require(_near(claimed.overdue, overdue), f"{row.task_id} is overdue by {overdue} s, not by {claimed.overdue}")
    expected = replace(
        claimed,
        envelope=row.envelope,
        sha=task.sha,
        task_name=row.task_name,
        queue=row.queue,
        priority=row.priority,
        attempt=row.attempt,
        retries=row.retries,
        good_until=row.good_until,
    )
    _require(claimed == expected, f"claimed {claimed}, should be {expected}")


def _choices(
    verb: str,
    candidates: Sequence[Task],
    count: int,
    limit: int,
    *,
    contended: bool,
    rank: Callable[[Task], object] = lambda _: None,
) -> Iterator[tuple[Task, ...]]:
    """Every way to take `count` of `candidates` in the order of `rank`; equals come in any order."""
    most = min(limit, len(candidates))
    right = 0 <= count <= most if contended else count == most
    _require(right, f"{verb} {count}, should be {most}: {len(candidates)} of at most {limit}")
    if contended:
        yield from combinations(candidates, count)
        return
    certain: list[Task] = []
    for _, group in groupby(sorted(candidates, key=rank), key=rank):  # type: ignore[arg-type,type-var]
        equals = list(group)
        if len(certain) + len(equals) > count:
            yield from ((*certain, *some) for some in combinations(equals, count - len(certain)))
            return
        certain += equals
    yield tuple(certain)


def _differences(world: World, rows: Mapping[str, TaskRow | None]) -> list[str]:
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


def _near(seconds: float | None, expected: float | None) -> bool:
    if seconds is None or expected is None:
        return seconds is expected
    return abs(seconds - expected) < _MILLISECOND


def _require(right: bool, reason: str) -> None:
    if not right:
        raise Disagreement(reason)


_FIXED = ("task_id", "task_name", "queue", "priority", "sent_at", "good_until", "envelope")


def check_change(before: TaskRow | None, after: TaskRow | None, *, calls: int = 1) -> None:
    """The laws of one row across `calls` calls, None where there is no row.

    Raises:
        Disagreement: one is broken.
    """
    if before == after:
        return
    _require(after is not None, f"a row vanished: {before}")
    assert after is not None
    _check_row(after)
    if before is None:
        return
    name = before.task_id
    _require(not before.status.is_terminal, f"{name} had ended and changed: {before} -> {after}")
    _require(
        after.status in _reachable(before.status, calls), f"{name} went from {before.status} to {after.status}"
    )
    for one in _FIXED:
        _require(getattr(before, one) == getattr(after, one), f"{name}: {one} changed")
    started = after.attempt - before.attempt
    _require(0 <= started <= calls, f"{name}: attempt went from {before.attempt} to {after.attempt}")
    _require(before.retries <= after.retries, f"{name}: retries went from {before.retries} to {after.retries}")
    kept = after.attempts[: len(before.attempts)] == before.attempts
    _require(kept, f"{name}: an attempt that had ended changed: {before.attempts} -> {after.attempts}")
    if calls == 1:
        _require((started == 1) == ((before.status, after.status) == HELD), f"{name}: an attempt without a start")


def check_unique(rows: Iterable[TaskRow], keys: Mapping[str, str | None]) -> None:
    """Of the tasks of one name that have not ended, at most one has a key; `keys` are those that were sent, by id.

    Raises:
        Disagreement: several have.
    """
    held = Counter(
        (row.task_name, keys[row.task_id])
        for row in rows
        if not row.status.is_terminal and keys.get(row.task_id) is not None
    )
    _require(max(held.values(), default=0) <= 1, f"a unique key is held more than once: {held}")


def _check_row(row: TaskRow) -> None:
    """What holds in every row by itself: an attempt has ended, or is the one of `started_at`."""
    name = row.task_id
    ended = row.attempt - (row.started_at is not None)
    numbers = [attempt.attempt for attempt in row.attempts]
    _require(numbers == list(range(1, ended + 1)), f"{name}: attempts {numbers} where attempt is {row.attempt}")
    _require(row.retries <= len(numbers), f"{name}: {row.retries} retries after {len(numbers)} attempts")
    _require((row.status in HELD) <= (row.worker_id is not None), f"{name}: held by nobody")
    _require((row.status is TaskStatus.PENDING) <= (row.worker_id is None), f"{name}: PENDING, and somebody's")
    _require(row.status.is_terminal == (row.finished_at is not None), f"{name}: {row.status}, {row.finished_at}")
    began = row.started_at is not None
    must = row.status in (TaskStatus.RUNNING, TaskStatus.COMPLETED)
    must_not = row.status in (TaskStatus.PENDING, TaskStatus.CLAIMED, TaskStatus.EXPIRED)
    _require(must <= began and must_not <= (not began), f"{name}: {row.status}, started at {row.started_at}")


def _reachable(status: TaskStatus, calls: int) -> set[TaskStatus]:
    """Where a task can be after at most `calls` calls, each of which makes at most one change."""
    found = {status}
    for _ in range(calls):
        found |= {after for before, after in CHANGES if before in found}
    return found
