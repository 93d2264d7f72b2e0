"""One life of a database: calls of the broker, each compared with the model.

A `Call` is made for the instant that it is now. `Play.do` makes it, or several side by side, and lets the model and the
laws judge what came of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from functools import partial
from itertools import permutations
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

import anyio
import anyio.from_thread
import anyio.lowlevel
from msgspec import structs

from horsies.abc import (
    Broker,
    Claim,
    Consumer,
    Finish,
    GiveBack,
    Held,
    Lease,
    Maintenance,
    NewTask,
    Producer,
    Start,
    StoredResult,
    TaskRow,
    TaskStatus,
)

from . import model
from .broker import T0
from .invariants import check_change, check_unique
from .state_space import Disagreement, Step, World, agreeing, exactly, follow, perhaps, require

T = TypeVar("T")
OpenBroker: TypeAlias = Callable[[], AbstractAsyncContextManager[Broker]]

WORKERS: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = (
    ("w1", (("fast", 1), ("slow", 90))),
    ("w2", (("slow", 5), ("fast", 5))),
    ("w3", (("slow", 1),)),
)
"""Names, and the queues with their priorities: one before the other, both alike, one alone."""


class Which(Enum):
    """Leases to call with, out of those that some claim gave."""

    FITTING = "held, and in the status that the call is for"
    ANY = "held, ended or stale"
    OLDER = "any, with the claim number before it"
    NEWER = "any, with the claim number after it"


class _CutOff(Enum):
    """Stands for the answer of a call that was cancelled."""

    ANSWER = "cut off"


@dataclass(frozen=True)
class Roles:
    """A broker with everything that the machine plays."""

    broker: Broker
    producer: Producer
    consumers: tuple[Consumer, ...]
    maintenances: tuple[Maintenance, ...]
    """Each by the worker of the same number."""


@dataclass(frozen=True)
class Call:
    """One call of the broker.

    `run` makes it; `step` is what the model says to its answer, and to whether another call ran beside it. What a claim
    brings is kept under the number of the `worker`.
    """

    run: Callable[[], Awaitable[Any]]
    step: Callable[[Any, bool], Step]
    worker: int = 0
    claims: bool = False
    ahead: bool = False
    """It is about tasks that its worker has not heard yet of having."""


def never_at_once(claim: Call, other: Call) -> bool:
    """Whether one is a claim and the other takes from the same worker what that has not heard of.

    No worker makes both at once. A claim may consist of several transactions, and could take a task again that was
    given back between them.
    """
    return claim.claims and other.ahead and claim.worker == other.worker


def exact(
    run: Callable[[], Awaitable[T]], call: Callable[[World], tuple[T, World]], worker: int = 0, *, ahead: bool = False
) -> Call:
    """A call whose answer the model settles."""

    def step(answer: T | _CutOff, contended: bool) -> Step:
        return perhaps(call) if isinstance(answer, _CutOff) else exactly(call, answer)

    return Call(run, step, worker, ahead=ahead)


class Play:
    """What is known so far: the worlds that the database may be in, what was sent, and all leases there ever were.

    Args:
        portal: the event loop on which the broker lives.
        roles: on an empty database.
        dead_after: `recovery.dead_after` of the broker's configuration, in seconds; four heartbeat intervals.
    """

    def __init__(self, portal: anyio.from_thread.BlockingPortal, roles: Roles, *, dead_after: float) -> None:
        self._portal = portal
        self._roles = roles
        self._dead_after = dead_after
        self._now = T0
        self._worlds = [World()]
        self._rows: dict[str, TaskRow | None] = {}
        self._sent: dict[str, NewTask] = {}
        self._leases: list[tuple[int, Lease]] = []

    def cut_off(self, call: Call, checkpoints: int) -> Call:
        """`call`, cancelled after so many checkpoints of another task."""
        return replace(call, run=partial(_cut_off, call.run, checkpoints))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += timedelta(seconds=seconds)

    def do(self, *calls: Call) -> list[Any]:
        """Make `calls`, side by side if there are several, and compare what comes of them with the model."""
        answers: list[Any]
        answers, rows, results = self._portal.call(_make, self._roles, calls, tuple(self._sent))
        steps = []
        for call, answer in zip(calls, answers, strict=True):
            steps.append(call.step(answer, len(calls) > 1))
            if isinstance(answer, Claim):
                self._leases += [(call.worker, task.lease) for task in answer.tasks]
        self._worlds = agreeing(_in_any_order(self._worlds, steps), rows)
        for task_id, row in rows.items():
            check_change(self._rows.get(task_id), row, calls=len(calls))
        self._rows = rows
        check_unique(self._present(), {task_id: task.unique_key for task_id, task in self._sent.items()})
        shown = {row.task_id: _as_result(row) for row in self._present()}
        require(results == shown, f"the results are {results}, the rows say {shown}")
        return answers

    def join(self, worker: int) -> Call:
        run = partial(self._roles.consumers[worker].join, now=self._now)
        return exact(run, partial(model.join, worker=WORKERS[worker][0], now=self._now))

    def beat(self, worker: int) -> Call:
        run = partial(self._roles.consumers[worker].beat, now=self._now)
        return exact(run, partial(model.beat, worker=WORKERS[worker][0], now=self._now, gap=self._dead_after / 2))

    def lead(self, worker: int) -> Call:
        run = partial(self._roles.consumers[worker].lead, now=self._now)
        call = partial(model.lead, worker=WORKERS[worker][0], now=self._now, dead_after=self._dead_after)
        return exact(run, call)

    def held(self, worker: int) -> Call:
        async def run() -> frozenset[Held]:
            return frozenset(await self._roles.consumers[worker].held())

        return exact(run, partial(model.holdings, worker=WORKERS[worker][0]))

    def leave(self, worker: int) -> Call:
        return exact(self._roles.consumers[worker].leave, partial(model.leave, worker=WORKERS[worker][0]))

    def has_due(self, worker: int) -> Call:
        run = partial(self._roles.consumers[worker].has_due, now=self._now)
        return exact(run, partial(model.has_due, queues=WORKERS[worker][1], now=self._now))

    def send(self, tasks: Sequence[Mapping[str, Any]]) -> Call:
        given = [self.new_task(**task) for task in tasks]
        run = partial(self._roles.producer.enqueue, given, now=self._now)
        return exact(run, partial(model.enqueue, tasks=given, now=self._now))

    def cancel(self, tasks: Sequence[int], running: bool) -> Call:
        """Cancel tasks by their numbers, or by their places among those that are running."""
        among = [row.task_id for row in self._present() if running and row.status is TaskStatus.RUNNING]
        ids = [among[number % len(among)] if among else str(UUID(int=number)) for number in tasks]
        ids = list(dict.fromkeys(ids))
        run = partial(self._roles.broker.control.cancel, ids, now=self._now)
        return exact(run, partial(model.cancel, task_ids=ids, now=self._now))

    def start(self, leases: Sequence[tuple[int, Which]], caller: int | None, retry_after_crash: float | None) -> Call:
        worker, held = self._pick(leases, caller, TaskStatus.CLAIMED)
        return self.started(worker, held, retry_after_crash)

    def started(self, worker: int, leases: Sequence[Lease], retry_after_crash: float | None) -> Call:
        """Start what `leases` name, whoever has them."""
        starts = [Start(lease, retry_after_crash) for lease in leases]
        run = partial(self._roles.consumers[worker].start, starts, now=self._now)
        return exact(run, partial(model.start, worker=WORKERS[worker][0], starts=starts, now=self._now))

    def finish(self, leases: Sequence[tuple[int, Which]], caller: int | None, **end: Any) -> Call:
        worker, held = self._pick(leases, caller, TaskStatus.RUNNING)
        return self.finished(worker, held, **end)

    def finished(
        self, worker: int, leases: Sequence[Lease], status: TaskStatus, retry_in: float, interrupted: bool, begun: bool
    ) -> Call:
        """Finish what `leases` name, whoever has them."""
        code = None if status is TaskStatus.COMPLETED else "A_CODE"
        ends = [Finish(lease, status, b"result", code, retry_in, interrupted, begun) for lease in leases]
        run = partial(self._roles.consumers[worker].finish, ends, now=self._now)
        call = partial(model.finish, worker=WORKERS[worker][0], ends=ends, now=self._now)
        return exact(run, call, worker, ahead=self._is_ahead(leases))

    def give_back(
        self, leases: Sequence[tuple[int, Which]], caller: int | None, delay: float, unknown: bool, running: bool
    ) -> Call:
        worker, held = self._pick(leases, caller, TaskStatus.RUNNING if running else TaskStatus.CLAIMED)
        tasks = [GiveBack(lease, delay, unknown, running) for lease in held]
        run = partial(self._roles.consumers[worker].give_back, tasks, now=self._now)
        call = partial(model.give_back, worker=WORKERS[worker][0], tasks=tasks, now=self._now)
        return exact(run, call, worker, ahead=self._is_ahead(held))

    def give_back_unknown(self, leases: Sequence[tuple[int, Which]], caller: int | None, heard: float | None) -> Call:
        """`heard`: how many seconds ago the worker had the answer to its last claim; None: to none."""
        worker, known = self._pick(leases, caller, TaskStatus.CLAIMED)
        heard_until = None if heard is None else self._now - timedelta(seconds=heard)
        consumer = self._roles.consumers[worker]
        run = partial(consumer.give_back_unknown, known, heard_until=heard_until, now=self._now)
        call = partial(model.give_back_unknown, worker=WORKERS[worker][0], known=known, heard_until=heard_until)
        return exact(run, partial(call, now=self._now), worker, ahead=True)

    def promote(self, worker: int, limit: int) -> Call:
        return self._free(self._roles.consumers[worker].promote, model.promote, worker, limit)

    def claim(self, worker: int, limit: int, startable: Collection[str], without: Collection[str] = ()) -> Call:
        name, queues = WORKERS[worker]
        call = partial(
            model.claim,
            worker=name,
            queues=queues,
            startable=startable,
            without=without,
            dead_after=self._dead_after,
        )
        run = partial(self._roles.consumers[worker].claim, startable=startable, without=without)
        return replace(self._free(run, call, worker, limit), claims=True)

    def expire(self, worker: int, limit: int) -> Call:
        return self._free(self._roles.maintenances[worker].expire, model.expire, worker, limit)

    def reap(self, worker: int, limit: int) -> Call:
        call = partial(model.reap, worker=WORKERS[worker][0], dead_after=self._dead_after, gap=self._dead_after / 2)
        return self._free(self._roles.maintenances[worker].reap, call, worker, limit)

    def _free(
        self, run: Callable[..., Awaitable[Any]], call: Callable[..., Iterable[World]], worker: int, limit: int
    ) -> Call:
        """A call that leaves the broker a choice: the model takes its answer."""
        given = {"limit": limit, "now": self._now}
        return Call(
            partial(run, **given),
            lambda answer, contended: partial(call, **given, answer=answer, contended=contended),
            worker,
        )

    def _pick(
        self, leases: Sequence[tuple[int, Which]], caller: int | None, fitting: TaskStatus
    ) -> tuple[int, list[Lease]]:
        """Who calls, and with which leases."""
        known = self._leases or [(0, Lease(str(UUID(int=1)), 1))]
        held = [(worker, lease) for worker, lease in known if self._holds(worker, lease, fitting)] or known
        picked = []
        for place, which in leases:
            among = held if which is Which.FITTING else known
            worker, lease = among[-1 - place % len(among)]
            wrong = {Which.OLDER: -1, Which.NEWER: 1}.get(which, 0)
            picked.append((worker, structs.replace(lease, claim_number=lease.claim_number + wrong)))
        (owner, _), *_ = picked
        return owner if caller is None else caller, list(dict.fromkeys(lease for _, lease in picked))

    def _is_ahead(self, leases: Iterable[Lease]) -> bool:
        """Whether there is one that no claim has brought yet."""
        return not {lease for _, lease in self._leases}.issuperset(leases)

    def _holds(self, worker: int, lease: Lease, status: TaskStatus) -> bool:
        task = self._worlds[0].holding(WORKERS[worker][0], lease)
        return task is not None and task.row.status is status

    def _present(self) -> list[TaskRow]:
        return [row for row in self._rows.values() if row is not None]

    def new_task(
        self,
        number: int,
        queue: str,
        priority: int,
        delay: float,
        good_for: float | None,
        name: str,
        key: str | None,
        changed: bool,
    ) -> NewTask:
        """The task of this number as it was first sent, or with other bytes; the delay has shrunk by its age."""
        task_id = str(UUID(int=number))
        if task_id not in self._sent:
            envelope = f"envelope {number}".encode()
            self._sent[task_id] = NewTask(
                task_id=task_id,
                sha=hashlib.sha256(envelope).digest(),
                envelope=envelope,
                task_name=name,
                queue=queue,
                priority=priority,
                sent_at=self._now,
                due_in=delay,
                good_until=None if good_for is None else self._now + timedelta(seconds=good_for),
                unique_key=key,
            )
        task = self._sent[task_id]
        task = structs.replace(task, due_in=max(task.due_in - (self._now - task.sent_at).total_seconds(), 0.0))
        if not changed:
            return task
        envelope = task.envelope + b", changed"
        return structs.replace(task, envelope=envelope, sha=hashlib.sha256(envelope).digest())


def _as_result(row: TaskRow) -> StoredResult:
    return StoredResult(row.task_id, row.task_name, row.status, row.error_code, row.result)


def _in_any_order(worlds: Sequence[World], steps: Sequence[Step]) -> list[World]:
    """The worlds after `steps` in whatever order."""
    found: list[World] = []
    reasons = []
    for order in permutations(steps):
        try:
            found += follow(worlds, *order)
        except Disagreement as reason:
            reasons.append(str(reason))
    require(bool(found), "; or the other way round: ".join(reasons))
    return found


async def _make(
    roles: Roles, calls: Sequence[Call], task_ids: Sequence[str]
) -> tuple[list[Any], dict[str, TaskRow | None], dict[str, StoredResult]]:
    """The answers, and what the reader shows afterwards."""
    answers: list[Any] = [None] * len(calls)

    async def make(place: int) -> None:
        answers[place] = await calls[place].run()

    if len(calls) == 1:
        await make(0)
    else:
        async with anyio.create_task_group() as group:
            for place in range(len(calls)):
                group.start_soon(make, place)
    reader = roles.broker.reader
    rows = {task_id: await reader.read(task_id) for task_id in task_ids}
    return answers, rows, {result.task_id: result for result in await reader.results(task_ids)}


async def _cut_off(run: Callable[[], Awaitable[T]], checkpoints: int) -> T | _CutOff:
    """The answer, if it comes before so many checkpoints of another task."""
    answer: T | _CutOff = _CutOff.ANSWER

    async def make() -> None:
        nonlocal answer
        answer = await run()

    async with anyio.create_task_group() as group:
        group.start_soon(make)
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return answer


@asynccontextmanager
async def open_roles(open_broker: OpenBroker) -> AsyncIterator[Roles]:
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(open_broker())
        producer = await stack.enter_async_context(broker.producer())
        consumers = [await stack.enter_async_context(broker.consumer(*worker)) for worker in WORKERS]
        maintenances = [await stack.enter_async_context(broker.maintenance(name)) for name, _ in WORKERS]
        yield Roles(broker, producer, tuple(consumers), tuple(maintenances))
