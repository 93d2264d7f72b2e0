"""The dispatcher of a worker: promotes, claims and starts tasks, for as long as there are slots.

Where a claimed task is: it comes in (`claimer`), and if the claim has started it, it is among the executor's jobs, or
for a moment early (`arrivals`). Otherwise it waits for its start (`starter`), and then is among the jobs. When it has
ended it is in the completer's buffer. What goes back is among the `returns` until the database has answered. A task is
in one place only. No more run than the concurrency says. `prefetch` and `scarce_slots` say how many more are claimed.

A claim may start what leads to no other verdict than FAILED when the worker dies, because the task is not retried for
WORKER_CRASHED: then nothing is left to decide before it begins.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.streams.memory

from ..._core.config import WorkerConfig
from ..._core.errors import BrokerError
from ..._core.outcome import outlives_crash
from ..._declare.context import ContextLogger
from ..._declare.placement import Place
from ..._declare.task import Task
from ..._send.nursery import open_nursery
from ...abc import GiveBack, Intake, Lease, Notice
from ..completer import Completer
from ..execution.executor import Executor
from ..execution.job import Job
from ..gateway import WorkerGateway
from .arrivals import Arrivals, is_cancelled
from .claimer import Answers, Claimer, Room
from .decide import Orders, Snapshot, decide, pause_of, room_of
from .prefetch import Prefetch
from .returns import Returns
from .scarce_slots import ScarceSlots
from .starter import Starter

PROMOTE_BATCH = 500


class Dispatcher:
    """Starts tasks of its `queues`, at most `config.concurrency` at once.

    Args:
        silence: seconds without a heartbeat after which nothing more is claimed.
        counts: the worker's, for its statistics.

    Attributes:
        look_soon: called when the table should be asked what the worker holds, and whether to cancel any of it.
    """

    def __init__(
        self,
        gateway: WorkerGateway,
        intake: Intake,
        completer: Completer,
        executor: Executor,
        config: WorkerConfig,
        *,
        worker_id: str,
        log: ContextLogger,
        queues: Iterable[str],
        silence: float,
        counts: Counter[str],
    ) -> None:
        self._gateway = gateway
        self._intake = intake
        self._completer = completer
        self._config = config
        self.worker_id = worker_id
        self._log = log
        self._queues = frozenset(queues)
        self._silence = silence
        self._timings = gateway.timings
        self._resilience = gateway.app.config.resilience
        self._tasks: anyio.abc.TaskGroup
        self._returns = Returns(intake, counts)
        self._executor = executor
        executor.ended, executor.retrying = self._ended, self._will_be_tried_again
        self.look_soon: Callable[[], None] = lambda: None
        completer.freed = self._wake_up
        self.is_stopping = False
        self.is_retiring = False
        self._wake = anyio.Event()
        self._backoff = gateway.contact.backoff()
        self.starter = Starter(gateway, intake, completer, counts, log, until_idle=config.until_idle)
        self._claimer = Claimer(intake, self._resilience, counts, self._wake_up)
        self._startable = frozenset(name for name, task in gateway.app.tasks.items() if self._may_start(task))
        self._next_due = 0.0
        self.last_beat = anyio.current_time()
        self.counts = counts
        capped = gateway.app.config.cluster_wide_cap is not None or any(
            queue.max_concurrency is not None for queue in gateway.app.config.queues if queue.name in self._queues
        )
        self._arrivals = Arrivals(
            gateway,
            self._claimer,
            self.starter,
            executor,
            completer,
            self._returns,
            concurrency=config.concurrency,
            counts=counts,
            now=self.last_beat,
        )
        ahead = 0 if capped else config.concurrency
        self._prefetch = Prefetch(ahead, self.last_beat)
        self._scarce = ScarceSlots(
            executor.free,
            config.concurrency,
            gateway.app.tasks.values(),
            ahead=ahead,
            patience=self._timings.patience,
            now=self.last_beat,
        )

    @property
    def ready(self) -> int:
        """How many tasks wait for their beginning."""
        return len(self._claimer) + len(self._arrivals.early) + len(self.starter.ready) + len(self.starter.starting)

    @property
    def _not_begun(self) -> list[Job]:
        """The tasks that are here, decoded, and have not begun."""
        return [*self._arrivals.early, *self.starter.ready, *self.starter.starting]

    @property
    def running(self) -> int:
        return len(self._executor.jobs)

    @property
    def awaited(self) -> bool:
        """Whether a task runs whose result would count."""
        return not all(job.is_late for job in self._executor.jobs.values())

    def stop_nowait(self) -> None:
        """Claim nothing more; `run` returns once what it is doing is done."""
        self.is_stopping = True
        self._wake_up()

    def retire_nowait(self, reason: str) -> None:
        """As `stop_nowait`, but of the worker's own accord: what runs has all the time it needs."""
        if not self.is_stopping:
            self.is_retiring = True
            self._log.info("worker %s ends once what it runs has ended: %s", self.worker_id, reason)
            self.stop_nowait()

    def notice(self, names: Iterable[str]) -> None:
        """Heed notices of `Topic.WORK`. They are hints, which any role can send: only the table tells the truth."""
        for name in names:
            if name.startswith(Notice.CANCEL):
                if self._may_hold(name.removeprefix(Notice.CANCEL)):
                    self.look_soon()
            elif name.startswith(Notice.READY):
                self._claimer.hungry = self._claimer.hungry or name.removeprefix(Notice.READY) in self._queues
            else:
                self._next_due = 0.0
                self._claimer.hungry = self._claimer.hungry or not name
        self._wake_up()

    def cancel(self, lease: Lease) -> None:
        """Cancel a task that runs here, or is about to, as the database asks."""
        running = self._executor.jobs.get(lease)
        for job in self._not_begun if running is None else [running]:
            if job.claimed.lease == lease:
                job.cancel()
                self._executor.expect_end(job)
                return
        self._claimer.cancel(lease)

    def see_strangers(self, leases: Iterable[Lease]) -> None:
        """Heed that the database shows these tasks as held by this worker, which does not know them."""
        if count := self._claimer.count_lost(leases):
            self._log.warning(
                "worker %s: the database shows %d tasks as its own that it does not know, and it lets go of them. A "
                "failover or a restore may have taken back a part of the history",
                self.worker_id,
                count,
            )

    async def run(self, running: anyio.abc.TaskGroup) -> None:
        """Claim and start tasks into `running` until told to stop, or (`until_idle`) until there is nothing to do."""
        self._tasks = running
        running.start_soon(self._executor.hurry_threads)
        running.start_soon(self._executor.keep_time)
        try:
            answered, answers = anyio.create_memory_object_stream[Room](math.inf)
            with answers:  # for longer than there are claims, which may be answered after they are cancelled
                async with open_nursery() as taking:
                    taking.start_soon(self._take_in_aside, answers)
                    with answered:
                        async with open_nursery() as claims:
                            await self._keep_starting(claims, answered)
        finally:
            self.is_stopping = True  # also of a worker that is cancelled: what ends now leaves its slot to nobody

    async def _keep_starting(self, claims: anyio.abc.TaskGroup, answered: Answers) -> None:
        while not self.is_stopping:
            if self.counts["started"] == self._config.max_tasks:
                self.retire_nowait(f"it has started {self._config.max_tasks} tasks, which is its max_tasks")
                return
            try:
                if await self.run_once(claims, answered):
                    self._backoff.answered()
                    continue
                if self._config.until_idle and not (self.awaited or self.ready or self._claimer.is_under_way):
                    await self._completer.wait_written()
                    if not await self._has_due():
                        return
                    self._claimer.hungry = True
                    await self._wait_woken(self._timings.idle_recheck)
                    continue
            except BrokerError as error:
                if self._config.until_idle and not error.retryable:
                    raise
                self._claimer.doubt()
                self._claimer.hungry = True
                await self._backoff.failed(error, f"worker {self.worker_id}", self._log)
                continue
            await self._wait_for_work()

    async def run_once(self, claims: anyio.abc.TaskGroup, answered: Answers) -> bool:
        """Obey what is decided now; whether to decide again at once.

        Args:
            claims: where a claim goes on; its answer brings about another round.
            answered: where its answer arrives.
        """
        self._claimer.raise_failure()
        self._run_early()
        orders = decide(self._snapshot(), self._timings)
        if await self._keep_house(orders):
            orders = decide(self._snapshot(), self._timings)
        if (room := self._bounded(orders.claim)).tasks > 0:
            if orders.wait_for_claim:
                await self._claim_alone(room)
                return True
            self._claimer.is_under_way = True
            claims.start_soon(self._claimer.run_on, room, self._room, answered)
        if not orders.start:
            return False
        self.starter.take(self._executor.free, self._slots, anyio.current_time())
        started = await self.starter.run_once()
        if is_cancelled():
            self._arrivals.early.extend(started)  # given back: the parent of the running tasks may have ended
            return False
        self._arrivals.run_started(started, self._tasks)
        return True

    async def _keep_house(self, orders: Orders) -> bool:
        """Give back, promote and look as ordered; whether there was anything to do."""
        if orders.return_early:
            self._arrivals.return_early()
        self._return_excess(orders.return_last)
        has_returns = len(self._returns) > 0
        await self._returns.run_once()
        if orders.promote:
            await self._promote()
        if orders.look:
            await self._claimer.give_back_lost(self.known)
        return has_returns or orders.promote or orders.look

    async def _claim_alone(self, room: Room) -> None:
        """Claim when there is nothing else to do, and wait for the answer."""
        begun_at, tasks = self._arrivals.last_begun
        if anyio.current_time() - begun_at <= self._claimer.lasted:
            self._prefetch.count_answer(tasks, 0)
        await self._claimer.run_once(room)
        await self._take_in()
        if not self._claimer.full:
            await anyio.lowlevel.checkpoint()  # what has begun comes before a claim that may find nothing

    def _snapshot(self) -> Snapshot:
        now, running, ready, has_room = anyio.current_time(), self.running, self.ready, self._completer.has_room
        return Snapshot(
            now=now,
            may_claim=has_room and not self.is_stopping and self.is_alive(),
            has_room=has_room,
            concurrency=self._config.concurrency,
            running=running,
            ready=ready,
            starting=self.starter.count(self._executor.free, self._slots, now),
            early=len(self._arrivals.early),
            early_since=self._arrivals.early_since,
            put_off_until=self.starter.put_off_until(now),
            allowance=self._allowance - ready,
            ahead=self._prefetch.ahead(now),
            soon_free=self._prefetch.soon_free(running + ready),
            startable=self._startable,
            last_start=self._arrivals.last_start,
            next_due=self._next_due,
            next_excess=self._scarce.next_excess() if self._scarce else math.inf,
            is_hungry=self._claimer.hungry,
            was_full=self._claimer.full,
            is_claiming=self._claimer.is_under_way,
            rests_until=self._claimer.rests_until,
            is_in_doubt=self._claimer.is_in_doubt,
            is_time_to_look=self._claimer.is_time_to_look,
        )

    @property
    def _slots(self) -> int:
        """How many slots are free, in all places together."""
        return self._config.concurrency - self.running

    @property
    def _allowance(self) -> float:
        """How many tasks the worker may start yet."""
        return math.inf if self._config.max_tasks is None else self._config.max_tasks - self.counts["started"]

    def _may_start(self, task: Task[Any, Any]) -> bool:
        """Whether a claim may start a task like this one: a free slot is one for it, and no crash leads to a retry."""
        has_slots = self._executor.free[task.place] >= self._config.concurrency
        return has_slots and not outlives_crash(task.settings.retry_for)

    def _room(self) -> Room:
        """What may be claimed now."""
        return self._bounded(room_of(self._snapshot()))

    def _bounded(self, room: Room) -> Room:
        if room.tasks <= 0 or not self._scarce:
            return room
        return self._scarce.bounded(room, self._executor.free, self._waiting(), self._claimer, anyio.current_time())

    def _waiting(self) -> Counter[Place]:
        """How many tasks of each place are here and have not begun."""
        return self._scarce.count([*(job.task.name for job in self._not_begun), *self._claimer.names])

    def _return_excess(self, count: int) -> None:
        """Have given back the last `count` that wait for their start, and what has no slot in its place."""
        now = anyio.current_time()
        last = list(self.starter.ready)[-count:] if count else []
        if count:
            self._arrivals.last_start = now
        over = self._scarce.excess(self._executor.free, self._waiting(), now) if self._scarce else {}
        for place, extra in over.items():
            last += [job for job in self.starter.ready if job.task.place is place][-extra:]
        if last:
            leases = {job.claimed.lease for job in last} - self.starter.unsure
            self._returns.add(map(GiveBack, leases))
            self.starter.ready = deque(job for job in self.starter.ready if job.claimed.lease not in leases)

    async def give_back_ready(self) -> None:
        """Give back what was claimed and has not begun."""
        self.starter.settle_unsure()
        self._returns.add(GiveBack(job.claimed.lease) for job in self.starter.ready)
        self.starter.ready.clear()
        try:
            await self.give_back_lost()
        except BrokerError as error:
            # Leaving tries once more.
            self._log.warning("worker %s: %s", self.worker_id, error.message)

    async def give_back_lost(self) -> None:
        """For a worker that stops: give back what came in and was not taken, and what it never heard of."""
        self._returns.add(GiveBack(row.lease, is_running=row.is_running) for row in self._claimer.drop())
        self._arrivals.return_early()
        await self._returns.run_once()
        await self._claimer.give_back_lost(self.known, at_once=True)

    async def wait_ended(self) -> None:
        """Wait until nothing runs but what was abandoned."""
        while not all(job.is_abandoned for job in self._executor.jobs.values()):
            await self._wait_woken(None)

    async def wait_reported(self) -> None:
        """Wait until nothing runs whose result would count."""
        while self.awaited:
            await self._wait_woken(None)

    async def _promote(self) -> None:
        asked_at, self._next_due = self._next_due, float("inf")
        try:
            promotion = await self._intake.promote(PROMOTE_BATCH)
        except BrokerError:
            self._next_due = asked_at
            raise
        self._gateway.contact.answered()
        due_in = 0.0 if promotion.promoted == PROMOTE_BATCH else promotion.next_due_in
        if due_in is not None:
            # A notice that came while the answer was under way asks to look again.
            self._next_due = min(self._next_due, anyio.current_time() + due_in)
        self._claimer.hungry = self._claimer.hungry or promotion.promoted > 0

    async def _take_in_aside(self, answers: anyio.streams.memory.MemoryObjectReceiveStream[Room]) -> None:
        """Take in what comes while the dispatcher waits for something else: what is RUNNING is not to wait for that."""
        async for room in answers:
            try:
                await self._take_in(room.busy)
            except BrokerError as error:
                self._claimer.fail(error)
            self._wake_up()

    async def _take_in(self, busy: int = 0) -> None:
        """Decode what came in, and run what the claim has started; a worker that stops gives it back.

        Args:
            busy: how many tasks there were when the claim was sent, if there were any that run.
        """
        self._backoff.answered()
        if self.is_stopping:
            return
        self._prefetch.count_answer(busy, self.running + self.ready - len(self._claimer))
        self._arrivals.take_in(self._tasks)
        await self._returns.run_once()

    def _run_early(self) -> None:
        if not self.is_stopping:
            self._arrivals.run_early(self._tasks)

    def known(self) -> list[Lease]:
        """Everything that the worker knows it holds."""
        return [
            *(job.claimed.lease for job in (*self._not_begun, *self._executor.jobs.values())),
            *self._claimer.leases,
            *self._returns.leases,
            *self._completer.leases,
        ]

    def _may_hold(self, task_id: str) -> bool:
        """Whether the worker holds this task, or may hear so from a claim that is under way."""
        return self._claimer.is_under_way or any(lease.task_id == task_id for lease in self.known())

    async def _has_due(self) -> bool:
        await self._claimer.give_back_lost(self.known, at_once=True)
        await self._gateway.settle_workflows()
        return await self._intake.has_due()

    def _wake_up(self) -> None:
        self._wake.set()

    def _ended(self, job: Job) -> None:
        if job.task.name not in self._startable:
            self._prefetch.count_end()
        self._scarce.count_end(job.task.place)
        self._claimer.hungry = self._claimer.hungry or job.task.place in self._scarce.missed
        self._run_early()
        self._wake_up()

    def _will_be_tried_again(self) -> None:
        self._next_due = 0.0
        self._wake_up()

    def is_alive(self) -> bool:
        """Whether the heartbeat is young enough to claim; the claim itself has the database ask the same."""
        return anyio.current_time() - self.last_beat < self._silence

    async def _wait_for_work(self) -> None:
        """Wait for a notice, a freed slot, or the time to decide again."""
        timeout = pause_of(self._snapshot(), self._timings, self._resilience.poll_interval)
        if not await self._wait_woken(timeout):
            self._claimer.hungry = True
            if timeout >= self._resilience.poll_interval:
                self._next_due = 0.0

    async def _wait_woken(self, timeout: float | None) -> bool:
        with anyio.move_on_after(timeout):
            await self._wake.wait()
        woken = self._wake.is_set()
        self._wake = anyio.Event()
        return woken
