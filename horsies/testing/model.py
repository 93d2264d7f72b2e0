"""What a broker must do, without a database.

Each call is a function of a `World`. Where the protocol settles everything it gives the one answer and the one world
that follows. Where the protocol leaves a choice (which of the expired a claim sweeps aside, which delayed tasks come
first when the limit does not let all through) it takes the broker's answer too, and gives every world in which that
answer is right.

Calls that ran side by side are right if one order of them is. Then a broker may pass over rows that the other one has
locked, which is what `contended` allows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from msgspec import structs

from horsies.abc import (
    AttemptRow,
    CancelOutcome,
    Claim,
    ClaimedTask,
    Enqueued,
    EnqueueOutcome,
    Finish,
    GiveBack,
    Held,
    Lease,
    NewTask,
    Promotion,
    Start,
    StartOutcome,
    TaskRow,
    TaskStatus,
)

from .state_space import HELD, Beat, Task, World, choices, require

_CRASHED = "WORKER_CRASHED"
_MILLISECOND = 0.001


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


def join(world: World, worker: str, *, now: datetime) -> tuple[None, World]:
    """See `Consumer.join`."""
    return None, replace(world, beats={**world.beats, worker: Beat(now, now)})


def beat(world: World, worker: str, *, now: datetime, gap: float) -> tuple[bool, World]:
    """See `Consumer.beat`. `gap`: seconds between two heartbeats beyond which the worker was not steady."""
    last = world.beats.get(worker)
    if last is None:
        return False, world
    steady_since = now if now - last.seen_at > timedelta(seconds=gap) else last.steady_since
    return True, replace(world, beats={**world.beats, worker: Beat(now, steady_since)})


def lead(world: World, worker: str, *, now: datetime, dead_after: float) -> tuple[bool, World]:
    """See `Consumer.lead`."""
    if worker not in world.beats:
        return False, world
    is_watching = world.beats[worker].steady_since <= now - timedelta(seconds=dead_after)
    holder, was_watching, until = world.leader or (worker, True, now)
    if not (holder == worker or until <= now or (is_watching and not was_watching)):
        return False, world
    return True, replace(world, leader=(worker, is_watching, now + timedelta(seconds=dead_after / 2)))


def holdings(world: World, worker: str) -> tuple[frozenset[Held], World]:
    """See `Consumer.held`. The model's answer is in no order."""
    found = frozenset(
        Held(
            Lease(task_id, task.claim_number),
            is_cancelled=task.row.status is TaskStatus.RUNNING and task.row.cancel_requested,
        )
        for task_id, task in world.tasks.items()
        if task.row.status in HELD and task.row.worker_id == worker
    )
    return found, world


def leave(world: World, worker: str) -> tuple[int, World]:
    """See `Consumer.leave`."""
    if world.leader is not None and world.leader[0] == worker:
        world = replace(world, leader=None)
    held = [
        task for task in world.tasks.values() if task.row.status is TaskStatus.CLAIMED and task.row.worker_id == worker
    ]
    gone = {other: seen for other, seen in world.beats.items() if other != worker}
    return len(held), replace(world.having(map(_returned, held)), beats=gone)


def give_back_unknown(
    world: World, worker: str, known: Sequence[Lease], *, heard_until: datetime | None, now: datetime
) -> tuple[int, World]:
    """See `Consumer.give_back_unknown`."""
    ids = {lease.task_id for lease in known}
    unknown = [
        task
        for task_id, task in world.tasks.items()
        if task.row.status in HELD and task.row.worker_id == worker and task_id not in ids
    ]
    return len(unknown), world.having(_let_go(task, heard_until, now) for task in unknown)


def promote(world: World, *, limit: int, now: datetime, answer: Promotion, contended: bool = False) -> Iterator[World]:
    """See `Consumer.promote`. A broker that reached its limit may say "at once" instead of looking for the next."""
    delayed = [task for task in world.tasks.values() if task.is_pending() and not task.ready]
    due = [task for task in delayed if task.eligible_at <= now]
    for chosen in choices("promoted", due, answer.promoted, limit, contended=contended):
        left = [task.eligible_at for task in delayed if task not in chosen]
        next_due_in = max((min(left) - now).total_seconds(), 0.0) if left else None
        right = _near(answer.next_due_in, next_due_in) or (answer.promoted == limit and answer.next_due_in == 0)
        require(right or contended, f"the next task is due in {next_due_in} s, not in {answer.next_due_in}")
        yield world.having(replace(task, ready=True) for task in chosen)


def claim(
    world: World,
    worker: str,
    queues: Sequence[tuple[str, int]],
    *,
    limit: int,
    startable: Collection[str],
    without: Collection[str] = (),
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
        if task.row.task_name not in without
    ]
    claimable = {task.row.task_id: task for task in ready if not task.is_late(now)}
    ids = [claimed.lease.task_id for claimed in answer.tasks]
    require(len(ids) <= limit, f"claimed {len(ids)} where the limit is {limit}")
    require(len(set(ids)) == len(ids), f"claimed one task twice: {ids}")
    alive = world.is_alive(worker, now, dead_after)
    require(alive or not ids, f"{worker} claimed {ids} without a heartbeat younger than {dead_after:g} s")
    for task_id in ids:
        require(task_id in claimable, f"claimed {task_id}, which was not to be had: {world.tasks.get(task_id)}")
    # Giving back with a delay moves when a task is due, and leaves `due_at` in its row: a broker may order by either.
    orders = [_ordered(claimable, ranks, lambda task: task.eligible_at)]
    orders.append(_ordered(claimable, ranks, lambda task: task.row.due_at))
    in_order = any([task_id for task_id in order if task_id in ids] == ids for order in orders)
    require(in_order, f"claimed in the order {ids}; the order of the queue is {orders[0]}")
    if not contended:
        first = any(order[: len(ids)] == ids for order in orders)
        require(first, f"claimed {ids}, which are not the first of {orders[0]}")
        full = len(ids) == min(limit, len(claimable)) or not alive
        require(full or answer.expired > 0, f"claimed {ids} of {orders[0]} where the limit is {limit}")
    for claimed in answer.tasks:
        _check_claimed(claimable[claimed.lease.task_id], claimed, now)
        right = not claimed.is_running or claimed.task_name in startable
        require(right, f"started {claimed.lease.task_id}, which is a {claimed.task_name!r} and not of {startable}")
    world = world.having(_claimed(claimable[claimed.lease.task_id], claimed, worker, now) for claimed in answer.tasks)
    late = [task for task in world.tasks.values() if task.is_pending() and task.is_late(now)]
    for chosen in choices("expired", late, answer.expired, len(late), contended=True):
        yield world.having(_expired(task, now) for task in chosen)


def start(world: World, worker: str, starts: Sequence[Start], *, now: datetime) -> tuple[list[StartOutcome], World]:
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
            world = world.having([_started(task, one.retry_after_crash, now)])
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
            if end.status is TaskStatus.FAILED and not end.has_begun:
                task = _unbegun(task)
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
        status = TaskStatus.RUNNING if back.is_running else TaskStatus.CLAIMED
        mine = task is not None and task.row.status is status
        answers.append(mine)
        if task is not None and mine and back.is_running and task.row.cancel_requested:
            world = world.having([_unstarted(_unbegun(task), TaskStatus.CANCELLED, now)])
        elif task is not None and mine:
            returned = _returned(_unbegun(task))
            if back.unknown:
                returned = replace(returned, unknown_since=task.unknown_since or now)
            if back.delay > 0:
                returned = replace(returned, ready=False, eligible_at=now + timedelta(seconds=back.delay))
            world = world.having([returned])
    return answers, world


def expire(world: World, *, limit: int, now: datetime, answer: int, contended: bool = False) -> Iterator[World]:
    """See `Maintenance.expire`: PENDING ones first, of these the oldest deadline first."""
    late = [
        task
        for task in world.tasks.values()
        if task.row.status in (TaskStatus.PENDING, TaskStatus.CLAIMED) and task.is_late(now)
    ]

    def rank(task: Task) -> tuple[int, datetime | None]:
        return (0, task.row.good_until) if task.is_pending() else (1, None)

    for chosen in choices("expired", late, answer, limit, contended=contended, rank=rank):
        yield world.having(_expired(task, now) for task in chosen)


def reap(
    world: World,
    worker: str,
    *,
    limit: int,
    now: datetime,
    dead_after: float,
    gap: float,
    answer: int,
    contended: bool = False,
) -> Iterator[World]:
    """See `Maintenance.reap`."""
    orphans: list[Task] = []
    if world.finds_dead(worker, now, dead_after, gap):
        living = {other: last for other, last in world.beats.items() if world.is_alive(other, now, dead_after)}
        world = replace(world, beats=living)
        orphans = [
            task for task in world.tasks.values() if task.row.status in HELD and task.row.worker_id not in living
        ]
    for chosen in choices("reaped", orphans, answer, limit, contended=contended):
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


def _claimed(task: Task, claimed: ClaimedTask, worker: str, now: datetime) -> Task:
    task = task.becoming(TaskStatus.CLAIMED, claimed_at=now, worker_id=worker)
    task = replace(task, claim_number=claimed.lease.claim_number)
    return _started(task, None, now) if claimed.is_running else task


def _started(task: Task, retry_after_crash: float | None, now: datetime) -> Task:
    task = task.becoming(TaskStatus.RUNNING, started_at=now, attempt=task.row.attempt + 1)
    return replace(task, retry_after_crash=retry_after_crash, unknown_since=None)


def _unbegun(task: Task) -> Task:
    """As if it had not been started, if it was."""
    if task.row.status is not TaskStatus.RUNNING:
        return task
    return task.becoming(TaskStatus.RUNNING, started_at=None, attempt=task.row.attempt - 1)


def _returned(task: Task) -> Task:
    """CLAIMED -> PENDING, as if nobody had claimed it."""
    return replace(task.becoming(TaskStatus.PENDING, worker_id=None, claimed_at=None), ready=True)


def _let_go(task: Task, heard_until: datetime | None, now: datetime) -> Task:
    """What a held task becomes that its worker does not know."""
    row = task.row
    is_running = row.status is TaskStatus.RUNNING
    if is_running and heard_until is not None and row.claimed_at is not None and row.claimed_at <= heard_until:
        return _reaped(task, now)
    unbegun = _unbegun(task)
    return _unstarted(unbegun, TaskStatus.CANCELLED, now) if row.cancel_requested else _returned(unbegun)


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
        return _failed(task, now, _CRASHED, None, task.retry_after_crash, counted=True)
    return _expired(task, now) if task.is_late(now) else _returned(task)


def _ordered(claimable: Mapping[str, Task], ranks: Mapping[str, int], due: Callable[[Task], datetime]) -> list[str]:
    """Ids in the order of claims: queue priority, task priority, due time, id."""
    places = [(ranks[task.row.queue], task.row.priority, due(task), task_id) for task_id, task in claimable.items()]
    return [task_id for *_, task_id in sorted(places)]


def _check_claimed(task: Task, claimed: ClaimedTask, now: datetime) -> None:
    number, row = claimed.lease.claim_number, task.row
    require(number > task.claim_number, f"claim number {number} of {row.task_id} after {task.claim_number}")
    unknown_for = 0.0 if task.unknown_since is None else (now - task.unknown_since).total_seconds()
    right = _near(claimed.unknown_for, unknown_for)
    require(right, f"{row.task_id} has been unknown for {unknown_for} s, not for {claimed.unknown_for}")
    expected = structs.replace(
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
    require(claimed == expected, f"claimed {claimed}, should be {expected}")


def _near(seconds: float | None, expected: float | None) -> bool:
    if seconds is None or expected is None:
        return seconds is expected
    return abs(seconds - expected) < _MILLISECOND
