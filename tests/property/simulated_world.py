"""A world for simulations: senders, workers that come and go, faults; and what must be true of it whatever happens.

Times are seconds since the simulation began. What each attempt of a task does is decided when the task is sent and
travels in its arguments, so that how it must end follows from what its user code did.

    python tests/property/simulated_world.py SEED HOURS gentle|rough

lives through one world and writes its fingerprint, and what was wrong in it.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import anyio
import anyio.abc

from horsies import (
    AppConfig,
    Err,
    Horsies,
    Ok,
    QueueConfig,
    RecoveryConfig,
    RetryPolicy,
    Runtime,
    TaskContext,
    TaskError,
    TaskFunction,
    TaskHandle,
    TaskInfo,
    TaskResult,
    TaskSendOptions,
    TaskSendPayload,
    TaskStatus,
    WorkerConfig,
)
from horsies.testing.simulation import AWAY, Simulation, calm

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
LATENCY = 0.05
QUEUES = ("default", "mail")
TIMELY = 1e-4
"""Seconds by which instants may differ that were rounded to microseconds."""
STOPPING = 5.0
"""Seconds that a worker may take to stop beside what its tasks are given."""

LOSABLE = (
    "start",
    "finish",
    "give_back",
    "give_back_unknown",
    "promote",
    "beat",
    "expire",
    "reap",
    "leave",
    "has_due",
    "results",
    "receive",
)
ROUGH_REQUESTS = dict.fromkeys(("claim", "enqueue", "cancel", *LOSABLE), 0.03)
ROUGH_ANSWERS = {"enqueue": 0.2, "cancel": 0.2, "claim": 0.03, **dict.fromkeys(LOSABLE, 0.03)}

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


class World:
    """Everything that happens in one simulation.

    Args:
        hours: how long new things happen; afterwards what was begun is left to end.
        rough: calls of the broker take time and get lost, the database goes away, workers are cut off from it.
        lost_requests, lost_answers: of a rough world, in place of a few of everything.
    """

    def __init__(
        self,
        seed: int,
        hours: float,
        *,
        rough: bool,
        lost_requests: Mapping[str, float] = ROUGH_REQUESTS,
        lost_answers: Mapping[str, float] = ROUGH_ANSWERS,
    ) -> None:
        self.simulation = Simulation(
            seed,
            latency=LATENCY if rough else 0.0,
            lost_requests=lost_requests if rough else {},
            lost_answers=lost_answers if rough else {},
        )
        self.random = self.simulation.random
        self.end = hours * HOUR
        self.rough = rough
        self.patience = 3 * MINUTE if rough else TIMELY
        self.sent: dict[str, Sent] = {}
        self.owners: dict[str, Sent] = {}
        self.posts: dict[str, Post] = {}
        self.active: dict[object, Run] = {}
        self.outages: list[tuple[float, float]] = []
        self.wrong: list[str] = []
        queues = tuple(QueueConfig(name) for name in QUEUES)
        app = Horsies(AppConfig.for_database_url("postgresql://localhost/elsewhere", queues=queues))
        for kind in KINDS:
            options = {"queue": kind.queue, "timeout": kind.timeout, "retry": kind.policy, "retry_for": kind.retry_for}
            app.task(kind.name, **options)(self._async_code() if kind.is_async else self._sync_code())
        # Three beats and a bit make a worker dead after 40 minutes: there are tasks that run longer.
        recovery = RecoveryConfig(heartbeat_interval=10 * MINUTE, dead_after=40 * MINUTE, reap_interval=10 * MINUTE)
        self.app = self.simulation.app(app, config=replace(calm(app.config), recovery=recovery))

    def live(self) -> list[str]:
        """Let everything happen; what was wrong."""
        self.simulation.run(self._live, limit=timedelta(seconds=self.end + 60 * DAY))
        self.wrong += [f"{post.name} still has {post.running}" for post in self.posts.values() if post.running]
        return self.wrong

    def summary(self) -> str:
        """What happened, counted."""
        trace = self.simulation.trace
        ends = Counter(event.details[1] for event in trace if event.name == "final")
        return f"{len(self.sent)} sends, {dict(ends)}, {self.simulation.steps} steps, {len(trace)} events"

    # What happens.

    async def _live(self) -> None:
        async with Runtime(self.app, environment=self.simulation.environment) as rt:
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(self._keep_sending, rt, group, f"s{number}")
                    group.start_soon(self._keep_employing, rt, f"w{number}")
                if self.rough:
                    group.start_soon(self._keep_failing)
            last = self._post("last", QUEUES, 10)
            worker = rt.start_worker(WorkerConfig(name=last.name, concurrency=last.concurrency))
            await self._sleep(MINUTE)
            last.change(self._now(), is_claiming=True)
            for sent in self.owners.values():
                answer = await rt.handle(str(sent.task_id)).get()
                self._check_end(sent, answer, await self._info(rt, sent))
            last.change(self._now(), is_claiming=False)
            await worker.drain()

    def _now(self) -> float:
        return anyio.current_time()

    async def _sleep(self, mean: float) -> None:
        await anyio.sleep(self.random.expovariate(1 / mean))

    async def _info(self, rt: Runtime, sent: Sent) -> TaskInfo:
        info = (await rt.handle(str(sent.task_id)).info()).unwrap()
        assert info is not None
        return info

    async def _keep_sending(self, rt: Runtime, group: anyio.abc.TaskGroup, name: str) -> None:
        number = 0
        while self._now() < self.end:
            await self._sleep(20 * MINUTE)
            number += 1
            await self._send(rt, group, f"{name}-{number}")

    async def _send(self, rt: Runtime, group: anyio.abc.TaskGroup, key: str) -> None:
        choice, uniform = self.random.choice, self.random.uniform
        kind = choice(KINDS)
        length = self.random.expovariate(1 / (20 * MINUTE)) if kind.is_async else 0.0
        plan = [(uniform(0, 2 * length), choice(ENDS)) for _ in range(6)]
        delay = choice((0.0, 0.0, 0.0, uniform(0, HOUR), uniform(0, 2 * DAY)))
        valid_for = choice((None, None, None, uniform(-HOUR, HOUR), uniform(0, 3 * DAY), uniform(0, 4 * LATENCY)))
        good_until = None if valid_for is None else self._now() + valid_for
        options = TaskSendOptions(
            good_until=None if good_until is None else self.simulation.start + timedelta(seconds=good_until),
            priority=choice((None, self.random.randint(1, 100))),
            queue=choice((None, *QUEUES)),
            unique_key=choice((None, None, None, f"key {self.random.randrange(3)}")),
        )
        queue = options.queue or kind.queue
        sent = self.sent[key] = Sent(key, kind, plan, queue, self._now() + delay, good_until, options.unique_key)
        function: TaskFunction[Any, Any] = rt.bind(self.app.tasks[kind.name]).with_options(options)
        result = await (function.schedule(delay, key, plan) if delay else function.send(key, plan))
        while isinstance(result, Err):
            if not result.error.retryable:
                self._complain(f"{key} was refused: {result.error}")
            if self.random.random() < 0.1:
                return
            await self._sleep(5 * MINUTE)
            result = await self._replay(function, result.error.payload, delay)
        await self._accept(group, sent, result.value)

    async def _replay(self, function: TaskFunction[Any, Any], payload: TaskSendPayload | None, delay: float) -> Any:
        """Twice, as if by another process; it is once."""
        assert payload is not None
        copy = TaskSendPayload.from_bytes(payload.to_bytes())
        replay = function.retry_schedule if delay else function.retry_send
        first, second = await replay(copy), await replay(copy)
        if first.is_ok() and second.is_ok() and first.value.task_id != second.value.task_id:
            self._complain(f"{first.value.task_id} and {second.value.task_id} come from one payload")
        return first

    async def _accept(self, group: anyio.abc.TaskGroup, sent: Sent, handle: TaskHandle[Any]) -> None:
        sent.task_id = handle.task_id
        sent.accepted = self._now()
        self.simulation.record("accepted", sent.key, handle.task_id, handle.deduplicated)
        if handle.deduplicated:
            if sent.unique_key is None:
                self._complain(f"{sent.key} was deduplicated without a unique key")
            return
        self.owners[handle.task_id] = sent
        if self.random.random() < 0.1:
            group.start_soon(self._cancel, sent, handle)
        if self.random.random() < 0.5:
            group.start_soon(self._wait, sent, handle)

    async def _cancel(self, sent: Sent, handle: TaskHandle[Any]) -> None:
        await self._sleep(HOUR)
        sent.cancel_asked = True
        self.simulation.record("cancelled", sent.key, str(await handle.cancel()))

    async def _wait(self, sent: Sent, handle: TaskHandle[Any]) -> None:
        await self._sleep(10 * MINUTE)
        begin = self._now()
        answer = await handle.get(timeout=self.random.expovariate(1 / DAY))
        if answer.is_ok() or answer.unwrap_err().code not in ("WAIT_TIMEOUT", "BROKER_ERROR"):
            sent.waits.append((begin, self._now()))

    async def _keep_employing(self, rt: Runtime, slot: str) -> None:
        """Workers, one after the other."""
        choice = self.random.choice
        number = 0
        while self._now() < self.end:
            if choice((True, False)):
                await self._sleep(HOUR)
            number += 1
            queues = choice((QUEUES, QUEUES, QUEUES[:1], QUEUES[1:]))
            post = self._post(f"{slot}.{number}", queues, choice((1, 2, 5, 10)))
            config = WorkerConfig(
                name=post.name,
                queues=queues,
                concurrency=post.concurrency,
                threads=choice((None, 1)),
                drain_timeout=choice((0.0, 30.0, 2 * HOUR)),
                until_idle=self.random.random() < 0.1,
            )
            manners = [self._drained, self._cancelled] + [self._cut_off] * self.rough
            manner = choice(manners)
            self.simulation.record("employed", post.name, manner.__name__)
            await manner(rt, post, config)
            post.was_cut_off = post.was_cut_off or self._was_outage(post.stops_at, self._now())
            self.simulation.record("left", post.name)
            allowed = STOPPING + (0.0 if manner == self._cancelled else config.drain_timeout)
            if self._now() - post.stops_at > allowed + (AWAY if self.rough else 0.0):
                self._complain(f"{post.name} left after {self._now() - post.stops_at} s, {allowed} s are allowed")
            if post.running:
                self._complain(f"{post.name} has left, and {post.running} of its tasks run on")

    def _post(self, name: str, queues: tuple[str, ...], concurrency: int) -> Post:
        return self.posts.setdefault(name, Post(name, queues, concurrency))

    async def _drained(self, rt: Runtime, post: Post, config: WorkerConfig) -> None:
        worker = rt.start_worker(config)
        await self._work(post, config)
        await worker.drain()

    async def _cancelled(self, rt: Runtime, post: Post, config: WorkerConfig) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(rt.run_worker, config)
            await self._work(post, config)
            group.cancel_scope.cancel()

    async def _cut_off(self, rt: Runtime, post: Post, config: WorkerConfig) -> None:
        """The worker loses the database, often for long enough to be taken for dead, lives on, and comes back."""
        worker = rt.start_worker(config)
        await self._work(post, config)
        post.was_cut_off = True
        with self.simulation.outage(post.name):
            await self._sleep(2 * HOUR)
        await self._sleep(HOUR)
        post.stops_at = self._now()
        await worker.drain()

    async def _work(self, post: Post, config: WorkerConfig) -> None:
        """Let it work for some hours. It needs a moment until it claims, and one that stops when idle may any time."""
        await anyio.sleep(self.patience)
        post.change(self._now(), is_claiming=not config.until_idle)
        await self._sleep(10 * HOUR)
        post.change(self._now(), is_claiming=False)
        post.stops_at = self._now()

    async def _keep_failing(self) -> None:
        """The database goes away for everybody."""
        while self._now() < self.end:
            await self._sleep(12 * HOUR)
            begin = self._now()
            self.outages.append((begin, math.inf))
            with self.simulation.outage():
                await self._sleep(10 * MINUTE)
            self.outages[-1] = (begin, self._now())

    # What the tasks do.

    def _async_code(self) -> Callable[..., Any]:
        async def code(ctx: TaskContext, key: str, plan: Plan) -> TaskResult[list[str | int]]:
            run = self._begin(ctx, key)
            try:
                seconds, run_end = plan[min(ctx.attempt, len(plan)) - 1]
                await anyio.sleep(seconds)
                return self._come_to(run, key, run_end)
            finally:
                self._leave(run, key)

        return code

    def _sync_code(self) -> Callable[..., Any]:
        def code(ctx: TaskContext, key: str, plan: Plan) -> TaskResult[list[str | int]]:
            run = self._begin(ctx, key)
            try:
                return self._come_to(run, key, plan[min(ctx.attempt, len(plan)) - 1][1])
            finally:
                self._leave(run, key)

        return code

    def _begin(self, ctx: TaskContext, key: str) -> Run:
        sent, post = self.sent[key], self.posts[ctx.worker_id.partition(":")[0]]
        self._check_begin(sent, post, ctx)
        run = Run(post, ctx.attempt, self._now())
        self.simulation.record("began", key, ctx.attempt, post.name)
        sent.runs.append(run)
        post.change(self._now(), running=1)
        for name in self._exclusive(sent):
            self.active[name] = run
        return run

    def _come_to(self, run: Run, key: str, end: str) -> TaskResult[list[str | int]]:
        run.end = end
        match end:
            case "value":
                return Ok(run.value(key))
            case "return an error":
                return Err(TaskError("BROKEN", key))
            case "raise":
                raise ValueError(key)
        raise TaskError(end, key)

    def _leave(self, run: Run, key: str) -> None:
        run.ended = self._now()
        run.post.change(run.ended, running=-1)
        for name in self._exclusive(self.sent[key]):
            if self.active.get(name) is run:
                del self.active[name]
        self.simulation.record("ended", key, run.attempt, run.end)

    @staticmethod
    def _exclusive(sent: Sent) -> list[object]:
        """Names under which no other attempt may run at the same time: the task's, and that of its unique key."""
        return [sent.key] if sent.unique_key is None else [sent.key, (sent.kind.name, sent.unique_key)]

    # What must be true.

    def _complain(self, what: str) -> None:
        self.wrong.append(f"{self._now():.3f}: {what}")

    def _check_begin(self, sent: Sent, post: Post, ctx: TaskContext) -> None:
        now, key = self._now(), sent.key
        if now < sent.due - TIMELY:
            self._complain(f"{key} began {sent.due - now} s before it was due")
        # User code begins when the worker hears that the start was written, which is when it counts.
        if sent.good_until is not None and now >= sent.good_until + (LATENCY / 2 if self.rough else 0.0):
            self._complain(f"{key} began {now - sent.good_until} s after its good_until")
        if ctx.queue != sent.queue or ctx.queue not in post.queues:
            self._complain(f"{key} of queue {sent.queue} runs on {post.name}, which serves {post.queues}")
        if post.running >= post.concurrency:
            self._complain(f"{post.name} runs more than {post.concurrency} tasks")
        for name in self._exclusive(sent):
            if name in self.active and not self.active[name].post.was_cut_off:
                self._complain(f"{key} began while another attempt of {name} runs")
        self._check_prompt(sent, now)

    def _check_prompt(self, sent: Sent, now: float) -> None:
        """Nobody who had room let it wait."""
        due = self._certainly_due(sent)
        if due is None or now <= due + self.patience:
            return
        # The delay of a retry counts from when the end of the attempt was written, which an outage puts off.
        known = sent.runs[-1].ended if sent.runs else due
        if self._was_outage(min(known or due, due) - self.patience, due + self.patience):
            return
        for post in self.posts.values():
            if sent.queue in post.queues and post.had_room(due, due + self.patience, now):
                self._complain(f"{sent.key} was due at {due:.3f}, and {post.name} had room")

    def _certainly_due(self, sent: Sent) -> float | None:
        """An instant at which it was due at the latest; None where that is not known."""
        if not sent.runs:
            return None if sent.accepted is None else max(sent.due, sent.accepted)
        last = sent.runs[-1]
        if last.ended is None or any(run.post.was_cut_off for run in sent.runs):
            return None
        delay = sent.longest_delay()
        if delay is None:
            self._complain(f"{sent.key} is tried again after {sent.code(last)}")
            return None
        return last.ended + delay

    def _was_outage(self, begin: float, end: float) -> bool:
        return any(since <= end and begin <= until for since, until in self.outages)

    def _check_end(self, sent: Sent, answer: TaskResult[Any], info: TaskInfo) -> None:
        key, runs = sent.key, sent.runs
        self.simulation.record("final", key, str(info.status), info.attempt, info.error_code)
        if not info.status.is_terminal:
            self._complain(f"{key} has an answer and is {info.status}")
        if any(run.ended is None for run in runs):
            self._complain(f"{key} is {info.status} and still runs")
        excused = sum(run.end is None or run.post.was_cut_off for run in runs)
        if len(runs) > 1 + len(sent.kind.delays) + excused:
            self._complain(f"{key} ran {len(runs)} times")
        if len(runs) > info.attempt or (len(runs) < info.attempt and not self.rough):
            self._complain(f"{key} ran {len(runs)} times, and {info.attempt} are stored")
        self._check_waits(sent, info)
        match info.status:
            case TaskStatus.COMPLETED:
                returned = [run.value(key) if run.end == "value" else run.end for run in runs]
                if answer.is_err() or answer.unwrap() != returned[-1]:
                    self._complain(f"{key} is {answer}, its user code returned {returned}")
            case TaskStatus.FAILED:
                self._check_failed(sent, answer, info)
            case TaskStatus.CANCELLED:
                if not sent.cancel_asked:
                    self._complain(f"{key} is CANCELLED, and nobody asked for it")
            case TaskStatus.EXPIRED:
                self._check_expired(sent, info)

    def _check_waits(self, sent: Sent, info: TaskInfo) -> None:
        finished = self._seconds(info.finished_at)
        for begin, answered in sent.waits:
            late = answered - max(begin, finished)
            if answered < finished - TIMELY:
                self._complain(f"{sent.key}: a waiter was answered before the end")
            if late > self.patience and not self._was_outage(answered - late, answered):
                self._complain(f"{sent.key}: a waiter was answered {late} s after the end")

    def _seconds(self, instant: datetime | None) -> float:
        assert instant is not None
        return (instant - self.simulation.start).total_seconds()

    def _check_failed(self, sent: Sent, answer: TaskResult[Any], info: TaskInfo) -> None:
        """It failed for what its last attempt came to, and no retry was left out."""
        if not sent.runs:
            # A start whose answer was lost, and no time for another: RUNNING cannot become EXPIRED.
            is_too_late = sent.good_until is not None and sent.good_until <= self._seconds(info.finished_at)
            if not (self.rough and is_too_late and info.attempt > 0):
                self._complain(f"{sent.key} is FAILED, and never ran: {answer}")
            return
        last = sent.runs[-1]
        assert last.ended is not None
        # Whoever was cut off cannot write what came out, and is taken for dead.
        expected = {sent.code(last)} | ({"WORKER_CRASHED"} if last.post.was_cut_off else set())
        code = answer.unwrap_err().code
        if code not in expected or code != info.error_code:
            self._complain(f"{sent.key} FAILED with {code} ({info.error_code} is stored), expected {expected}")
        if sent.cancel_asked or any(run.post.was_cut_off for run in sent.runs):
            return
        delay = sent.longest_delay()
        if delay is not None and (sent.good_until is None or last.ended + delay + self.patience < sent.good_until):
            self._complain(f"{sent.key} FAILED with {code}, although a retry was left")

    def _check_expired(self, sent: Sent, info: TaskInfo) -> None:
        if sent.good_until is None:
            self._complain(f"{sent.key} is EXPIRED without a deadline")
        elif self._seconds(info.finished_at) < sent.good_until - TIMELY:
            self._complain(f"{sent.key} is EXPIRED before its deadline")
        # Only between two attempts can a task expire that has run.
        if any(not sent.kind.is_retried(str(sent.code(run))) for run in sent.runs):
            self._complain(f"{sent.key} is EXPIRED, and ran to {[sent.code(run) for run in sent.runs]}")


def main() -> None:
    seed, hours, manner = sys.argv[1:]
    logging.getLogger("horsies").addHandler(logging.NullHandler())
    world = World(int(seed), float(hours), rough=manner == "rough")
    begin = time.perf_counter()
    wrong = world.live()
    sys.stdout.write(f"{world.simulation.fingerprint()} {wrong}\n")
    sys.stderr.write(f"{time.perf_counter() - begin:.1f} s: {world.summary()}\n")


if __name__ == "__main__":
    main()
