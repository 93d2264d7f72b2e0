"""A world for simulations: senders, workers that come and go, faults. Its laws are checked whatever happens.

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
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import anyio.abc
from simulated_laws import LATENCY, Laws
from simulated_records import DAY, ENDS, HOUR, KINDS, MINUTE, Plan, Post, Run, Sent

from horsies import (
    AppConfig,
    Err,
    Horsies,
    Ok,
    QueueConfig,
    RecoveryConfig,
    Runtime,
    TaskContext,
    TaskError,
    TaskFunction,
    TaskHandle,
    TaskInfo,
    TaskResult,
    TaskSendOptions,
    TaskSendPayload,
    WorkerConfig,
)
from horsies.testing.simulation import AWAY, Simulation, calm

QUEUES = ("default", "mail")
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
        self.laws = Laws(self.simulation, rough=rough)
        self.sent: dict[str, Sent] = {}
        self.owners: dict[str, Sent] = {}
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
        posts = self.laws.posts.values()
        return self.laws.wrong + [f"{post.name} still has {post.running}" for post in posts if post.running]

    def summary(self) -> str:
        """What happened, counted."""
        trace = self.simulation.trace
        ends = Counter(event.details[1] for event in trace if event.name == "final")
        return f"{len(self.sent)} sends, {dict(ends)}, {self.simulation.steps} steps, {len(trace)} events"

    async def _live(self) -> None:
        async with Runtime(self.app, environment=self.simulation.environment) as rt:
            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(self._keep_sending, rt, group, f"s{number}")
                    group.start_soon(self._keep_employing, rt, f"w{number}")
                if self.laws.rough:
                    group.start_soon(self._keep_failing)
            last = self._post("last", QUEUES, 10)
            worker = rt.start_worker(WorkerConfig(name=last.name, concurrency=last.concurrency))
            await self._sleep(MINUTE)
            last.change(self._now(), is_claiming=True)
            for sent in self.owners.values():
                answer = await rt.handle(str(sent.task_id)).get()
                self.laws.check_end(sent, answer, await self._info(rt, sent))
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
                self.laws.complain(f"{key} was refused: {result.error}")
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
            self.laws.complain(f"{first.value.task_id} and {second.value.task_id} come from one payload")
        return first

    async def _accept(self, group: anyio.abc.TaskGroup, sent: Sent, handle: TaskHandle[Any]) -> None:
        sent.task_id = handle.task_id
        sent.accepted = self._now()
        self.simulation.record("accepted", sent.key, handle.task_id, handle.deduplicated)
        if handle.deduplicated:
            if sent.unique_key is None:
                self.laws.complain(f"{sent.key} was deduplicated without a unique key")
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
            manners = [self._drained, self._cancelled] + [self._cut_off] * self.laws.rough
            manner = choice(manners)
            self.simulation.record("employed", post.name, manner.__name__)
            await manner(rt, post, config)
            post.was_cut_off = post.was_cut_off or self.laws.was_outage(post.stops_at, self._now())
            self.simulation.record("left", post.name)
            allowed = STOPPING + (0.0 if manner == self._cancelled else config.drain_timeout)
            if self._now() - post.stops_at > allowed + (AWAY if self.laws.rough else 0.0):
                self.laws.complain(f"{post.name} left after {self._now() - post.stops_at} s, {allowed} s are allowed")
            if post.running:
                self.laws.complain(f"{post.name} has left, and {post.running} of its tasks run on")

    def _post(self, name: str, queues: tuple[str, ...], concurrency: int) -> Post:
        return self.laws.posts.setdefault(name, Post(name, queues, concurrency))

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
        await anyio.sleep(self.laws.patience)
        post.change(self._now(), is_claiming=not config.until_idle)
        await self._sleep(10 * HOUR)
        post.change(self._now(), is_claiming=False)
        post.stops_at = self._now()

    async def _keep_failing(self) -> None:
        """The database goes away for everybody."""
        while self._now() < self.end:
            await self._sleep(12 * HOUR)
            begin = self._now()
            self.laws.outages.append((begin, math.inf))
            with self.simulation.outage():
                await self._sleep(10 * MINUTE)
            self.laws.outages[-1] = (begin, self._now())

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
        sent, post = self.sent[key], self.laws.posts[ctx.worker_id.partition(":")[0]]
        self.laws.check_begin(sent, post, ctx)
        run = Run(post, ctx.attempt, self._now())
        self.simulation.record("began", key, ctx.attempt, post.name)
        sent.runs.append(run)
        post.change(self._now(), running=1)
        for name in sent.exclusive():
            self.laws.active[name] = run
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
        for name in self.sent[key].exclusive():
            if self.laws.active.get(name) is run:
                del self.laws.active[name]
        self.simulation.record("ended", key, run.attempt, run.end)


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
