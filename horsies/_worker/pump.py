"""The pump of a worker: promotes, claims and starts tasks, for as long as there are slots.

State of a claimed task: in `_ready` here (CLAIMED), in `_starting` while the database is told, then among the runner's
jobs (RUNNING), then in the finisher's buffer. Each is in one place only. No more run than the concurrency says; those
before them exceed it by what is claimed ahead (see `pace`).

One claim at a time is under way beside the rest, so that what a quick task costs the database and what it costs here
take place at the same time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from functools import partial

import anyio
import anyio.abc
from msgspec.structs import replace

from .._core.config import WorkerConfig
from .._core.errors import BrokerError
from .._core.status import TaskStatus
from .._task.context import ContextLogger
from .._task.host import Host
from .._task.nursery import open_nursery
from ..abc import Consumer, Finish, GiveBack, Lease, Notice, Start, StartOutcome
from .backoff import pauses
from .finisher import Finisher
from .job import Job, conclude_interrupted, prepare
from .pace import PATIENCE, Pace
from .runner import Runner

PROMOTE_BATCH = 500
CLAIM_BATCH = 500
DOUBT = 5.0
"""Seconds beyond the statement timeout for which a call that failed may still be at work on the server."""
DOUBT_POLL = 1.0
"""Seconds between looks meanwhile."""
LOCKED_POLL = 1.0
"""Seconds before another try to start a task whose row somebody has locked."""
IDLE_RECHECK = 0.05
"""Seconds before an `until_idle` worker looks again at due tasks that others hold locked."""


class Pump:
    """Starts tasks of the queues of `consumer`, at most `config.concurrency` at once.

    Args:
        silence: seconds without a heartbeat after which nothing more is claimed.
        counts: the worker's, for its statistics.
    """

    def __init__(
        self,
        host: Host,
        consumer: Consumer,
        finisher: Finisher,
        runner: Runner,
        config: WorkerConfig,
        *,
        worker_id: str,
        log: ContextLogger,
        queues: Iterable[str],
        silence: float,
        counts: Counter[str],
    ) -> None:
        self._host = host
        self._consumer = consumer
        self._finisher = finisher
        self._config = config
        self.worker_id = worker_id
        self._log = log
        self._queues = frozenset(queues)
        self._silence = silence
        self._resilience = host.app.config.resilience
        self._ready: deque[Job] = deque()
        self._starting: list[Job] = []
        self._is_claiming = False
        self._claimed_all = False
        self._claim_failure: BrokerError | None = None
        self._runner = runner
        runner.changed = self._slot_freed
        finisher.freed = partial(self._slot_freed, False)
        self._unsure: set[Lease] = set()
        self.is_stopping = False
        self.is_retiring = False
        self._wake = anyio.Event()
        self._hungry = True
        self._next_due = 0.0
        self._in_doubt_until = 0.0
        self._look_at = 0.0
        self.last_beat = self._last_start = anyio.current_time()
        self.counts = counts
        capped = host.app.config.cluster_wide_cap is not None or any(
            queue.max_concurrency is not None for queue in host.app.config.queues if queue.name in self._queues
        )
        self._pace = Pace(0 if capped else config.concurrency, self.last_beat)

    @property
    def ready(self) -> int:
        return len(self._ready) + len(self._starting)

    @property
    def running(self) -> int:
        return len(self._runner.jobs)

    def stop_nowait(self) -> None:
        """Claim nothing more; `run` returns once what it is doing is done."""
        self.is_stopping = True
        self._wake.set()

    def retire_nowait(self, reason: str) -> None:
        """As `stop_nowait`, but of the worker's own accord: what runs has all the time it needs."""
        if not self.is_stopping:
            self.is_retiring = True
            self._log.info("worker %s ends once what it runs has ended: %s", self.worker_id, reason)
            self.stop_nowait()

    def notice(self, names: Iterable[str]) -> None:
        """Heed notices of `Topic.WORK`."""
        for name in names:
            if name.startswith(Notice.CANCEL):
                self.cancel(name.removeprefix(Notice.CANCEL))
            elif name.startswith(Notice.READY):
                self._hungry = self._hungry or name.removeprefix(Notice.READY) in self._queues
            else:
                self._next_due = 0.0
                self._hungry = self._hungry or not name
        self._wake.set()

    def cancel(self, task_id: str) -> None:
        """Cancel a task that runs here, or is about to."""
        for job in (*self._ready, *self._starting, *self._runner.jobs.values()):
            if job.claimed.lease.task_id == task_id:
                job.cancel()

    async def run(self, running: anyio.abc.TaskGroup) -> None:
        """Claim and start tasks into `running` until told to stop, or (`until_idle`) until there is nothing to do."""
        async with open_nursery() as claims:
            await self._keep_starting(running, claims)

    async def _keep_starting(self, running: anyio.abc.TaskGroup, claims: anyio.abc.TaskGroup) -> None:
        waits = pauses(self._resilience, self._host.environment.random)
        while not self.is_stopping:
            if self.counts["started"] == self._config.max_tasks:
                self.retire_nowait(f"it has started {self._config.max_tasks} tasks, which is its max_tasks")
                return
            try:
                if await self.run_once(running, claims):
                    waits = pauses(self._resilience, self._host.environment.random)
                    continue
                if self._config.until_idle and not (self._runner.jobs or self._ready or self._is_claiming):
                    await self._finisher.wait_written()
                    if not await self._has_due():
                        return
                    self._hungry = True
                    await self._wait_woken(IDLE_RECHECK)
                    continue
            except BrokerError as error:
                if not error.retryable:
                    raise
                pause = next(waits)
                # What the failed call did, it may still be doing, for as long as the server lets a statement run.
                self._in_doubt_until = anyio.current_time() + self._resilience.statement_timeout + DOUBT
                self._look_at = 0.0
                self._log.warning("worker %s: %s; trying again in %.1f s", self.worker_id, error.message, pause)
                self._hungry = True
                await anyio.sleep(pause)
                continue
            await self._wait_for_work()

    async def run_once(self, running: anyio.abc.TaskGroup, claims: anyio.abc.TaskGroup) -> bool:
        """One round of promote, claim and start; whether another should follow at once.

        Args:
            running: where the started tasks go.
            claims: where a claim goes on; its answer brings about another round.
        """
        if self._claim_failure is not None:
            failure, self._claim_failure = self._claim_failure, None
            raise failure
        if anyio.current_time() >= self._next_due:
            await self._promote()
        if not self._is_claiming:
            await self._resolve_doubt()
        await self._give_back_excess()
        if not self._finisher.has_room:
            return False  # it goes on when that is written which has ended
        self._take_startable()
        if self._may_claim() and (room := self._room()) > 0:
            if not self._starting and not self._runner.jobs:
                await self._claim(room)
                return True
            self._is_claiming = True
            claims.start_soon(self._claim_aside, room)
        if not self._starting:
            return False
        await self._start(running)
        return True

    def _may_claim(self) -> bool:
        if not self._hungry or self._is_claiming or not self.is_alive():
            return False
        # What follows a short claim mostly finds nothing, and need not slow down the start of what was found.
        return self._claimed_all or not self._starting

    async def _claim_aside(self, room: int) -> None:
        try:
            await self._claim(room)
        except BrokerError as error:
            self._claim_failure = error
        finally:
            self._is_claiming = False
            self._wake.set()

    def _room(self) -> int:
        """How many more tasks may be claimed."""
        excess, ahead = self._excess(), self._pace.ahead(anyio.current_time())
        room = min(ahead - excess, CLAIM_BATCH)
        if excess >= 0 and room * 2 < ahead:
            return 0  # there is enough to do: a few at a time would cost a statement each
        most = self._config.max_tasks
        return room if most is None else min(room, most - self.counts["started"] - self.ready)

    def _excess(self) -> int:
        """How many tasks are claimed beyond the concurrency; below 0: how many slots are free."""
        return len(self._runner.jobs) + self.ready - self._config.concurrency

    async def _give_back_excess(self) -> None:
        """Give back what was claimed ahead and turns out to stand behind slow tasks."""
        excess = self._excess()
        if excess > 0 and anyio.current_time() - self._last_start >= PATIENCE:
            self._last_start = anyio.current_time()
            leases = [job.claimed.lease for job in list(self._ready)[-excess:]]
            gifts = {lease: GiveBack(lease) for lease in leases if lease not in self._unsure}
            await self._give_back(list(gifts.values()))
            self._ready = deque(job for job in self._ready if job.claimed.lease not in gifts)

    async def give_back_ready(self) -> None:
        """Give back what was claimed and not started."""
        self.settle_unsure()
        try:
            await self._give_back([GiveBack(job.claimed.lease) for job in self._ready])
        except BrokerError as error:
            # Leaving gives back all there is.
            self._log.warning("worker %s: %s", self.worker_id, error.message)
        self._ready.clear()

    def settle_unsure(self) -> None:
        """For a worker that stops: see that what it may have started is run by another."""
        for job in self._ready:
            if job.claimed.lease in self._unsure:
                self._finisher.add_nowait(_never_ran(job), has_started=False)
        self._unsure.clear()

    async def wait_ended(self) -> None:
        """Wait until nothing runs."""
        while self._runner.jobs:
            await self._wait_woken(None)

    async def _promote(self) -> None:
        asked_at, self._next_due = self._next_due, float("inf")
        try:
            promotion = await self._consumer.promote(PROMOTE_BATCH)
        except BrokerError:
            self._next_due = asked_at
            raise
        due_in = 0.0 if promotion.promoted == PROMOTE_BATCH else promotion.next_due_in
        if due_in is not None:
            # A notice that came while the answer was under way asks to look again.
            self._next_due = min(self._next_due, anyio.current_time() + due_in)
        self._hungry = self._hungry or promotion.promoted > 0

    async def _claim(self, room: int) -> None:
        self._hungry = False
        claim = await self._consumer.claim(room)
        found = len(claim.tasks) + claim.expired
        self._hungry = self._hungry or found > 0
        self._claimed_all = found >= room
        self.counts["claimed"] += len(claim.tasks)
        self.counts["expired"] += claim.expired
        gifts = []
        known = {job.claimed.lease for job in (*self._ready, *self._starting)}
        for row in claim.tasks:
            if row.lease in known:
                continue  # a crash of the server undid that claim, and this one is the same again
            match prepare(self._host, row):
                case Job() as job:
                    self._ready.append(job)
                case Finish() as end:
                    self._runner.log_failure(row, str(end.error_code), attempt=row.attempt)
                    self.counts["failed"] += 1
                    self._finisher.add_nowait(end)
                case GiveBack() as gift:
                    gifts.append(gift)
        await self._give_back(gifts)

    async def _resolve_doubt(self) -> None:
        """Give back what a claim took whose answer was lost. No claim may be under way."""
        now = anyio.current_time()
        if self._look_at <= now < self._in_doubt_until:
            known = [job.claimed.lease for job in self._ready]
            self.counts["given_back"] += await self._consumer.give_back_unknown(known)
            self._look_at = now + DOUBT_POLL

    async def _has_due(self) -> bool:
        self._look_at = 0.0
        await self._resolve_doubt()
        return await self._consumer.has_due()

    async def _give_back(self, gifts: list[GiveBack]) -> None:
        if gifts:
            self.counts["given_back"] += sum(await self._consumer.give_back(gifts))

    def _take_startable(self) -> None:
        """Take out of `_ready` all for which there is a slot where they run."""
        waiting, slots = deque[Job](), dict(self._runner.free)
        now = anyio.current_time()
        for job in self._ready:
            if slots[job.task.place] > 0 and job.not_before <= now:
                slots[job.task.place] -= 1
                self._starting.append(job)
            else:
                waiting.append(job)
        self._ready = waiting

    async def _start(self, running: anyio.abc.TaskGroup) -> None:
        """Start what was taken."""
        batch = self._starting
        leases = [job.claimed.lease for job in batch]
        try:
            outcomes = await self._consumer.start([Start(job.claimed.lease, job.retry_after_crash) for job in batch])
        except BaseException:
            self._unsure.update(leases)
            self._ready.extendleft(reversed(batch))
            raise
        finally:
            self._starting = []
        self._last_start = anyio.current_time()
        for job, outcome in zip(batch, outcomes, strict=True):
            if outcome is StartOutcome.STARTED:
                self._runner.run_soon(job, running)
            elif outcome is StartOutcome.LOCKED:
                job.not_before = anyio.current_time() + LOCKED_POLL
                self._ready.append(job)
            elif outcome is StartOutcome.LOST and job.claimed.lease in self._unsure:
                self._finisher.add_nowait(_never_ran(job))
            self.counts["expired"] += outcome is StartOutcome.EXPIRED
        self._unsure.difference_update(set(leases) - {job.claimed.lease for job in self._ready})

    def _slot_freed(self, again: bool) -> None:
        if again:
            self._next_due = 0.0
        else:
            self._pace.count_end()
        self._wake.set()

    def is_alive(self) -> bool:
        """Whether the heartbeat is young enough to claim; the claim itself has the database ask the same."""
        return anyio.current_time() - self.last_beat < self._silence

    async def _wait_for_work(self) -> None:
        """Wait for a notice, a freed slot, the next due time or the poll interval; not for long while in doubt."""
        now = anyio.current_time()
        timeout = min(self._resilience.poll_interval, max(0.0, self._next_due - now))
        if self._excess() > 0:
            timeout = min(timeout, max(0.0, self._last_start + PATIENCE - now))
        for job in self._ready:
            if job.not_before > now:
                timeout = min(timeout, job.not_before - now)
        if now < self._in_doubt_until:
            timeout = min(timeout, DOUBT_POLL)
        if not await self._wait_woken(timeout):
            self._hungry = True
            if timeout >= self._resilience.poll_interval:
                self._next_due = 0.0

    async def _wait_woken(self, timeout: float | None) -> bool:
        with anyio.move_on_after(timeout):
            await self._wake.wait()
        woken = self._wake.is_set()
        self._wake = anyio.Event()
        return woken


def _never_ran(job: Job) -> Finish:
    """For a start whose answer was lost. It may have been written, but user code has not run, so it may run again."""
    return replace(conclude_interrupted(job), status=TaskStatus.PENDING, interrupted=True)
