"""The application of the chaos tests. Its tasks note each of their runs; its workers can be held at a point."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio

from horsies import (
    AppConfig,
    Every,
    Horsies,
    NodeRef,
    PoolConfig,
    QueueConfig,
    RecoveryConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    TaskContext,
    TaskError,
    WorkflowBuilder,
    hookimpl,
    task,
)
from horsies.abc import Broker, BrokerFactory, Claim, Clock, Consumer, Finish, Start, StartOutcome

from .runs import Note, RunLog

RECOVERY = RecoveryConfig(heartbeat_interval=0.25, dead_after=2.0, reap_interval=0.5, resolution_grace=60.0)
RESILIENCE = ResilienceConfig(poll_interval=1.0, retry_initial=0.1, retry_max=1.0, statement_timeout=10.0)
POOL = PoolConfig(max_size=4, timeout=10.0)

CLAIMED, STARTED, RUNNING, RESULT, FINISH = "claimed", "started", "running", "result", "finish"
POINTS = (CLAIMED, STARTED, RUNNING, RESULT)
"""Where CHAOS_HOLD makes a worker process stand still: with all claimed, with all started, in user code,
before the finish is sent. Its heartbeat goes on."""

TWENTY_TIMES = RetryPolicy.fixed([0.2] * 20)
CRASHES = ("WORKER_CRASHED",)
RETRYING = frozenset({"again", "again_in_thread", "patient_again", "tick", "step", "at_once"})
"""Tasks that may run more than once."""


def _log() -> RunLog:
    return RunLog(Path(os.environ["CHAOS_LOG"]))


@asynccontextmanager
async def noted(context: TaskContext, number: int) -> AsyncIterator[None]:
    """Note when the block begins and how it ends."""
    log, names = _log(), (context.task_name, number, context.attempt, context.worker_id)
    log.note(Note.BEGAN, *names)
    await hold(RUNNING)
    try:
        yield
    except anyio.get_cancelled_exc_class():
        log.note(Note.CANCELLED, *names)
        raise
    log.note(Note.ENDED, *names)


async def _run(context: TaskContext, number: int, seconds: float) -> int:
    async with noted(context, number):
        await anyio.sleep(seconds)
    return number


def _run_in_thread(context: TaskContext, number: int, seconds: float) -> int:
    log, names = _log(), (context.task_name, number, context.attempt, context.worker_id)
    log.note(Note.BEGAN, *names)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if context.cancelled:
            log.note(Note.CANCELLED, *names)
            context.check_cancelled()
        time.sleep(min(left, 0.05))
    log.note(Note.ENDED, *names)
    return number


@task("once")
async def once(context: TaskContext, number: int, seconds: float) -> int:
    """At most once."""
    return await _run(context, number, seconds)


@task("once_in_thread")
def once_in_thread(context: TaskContext, number: int, seconds: float) -> int:
    return _run_in_thread(context, number, seconds)


@task("again", retry=TWENTY_TIMES, retry_for=CRASHES)
async def again(context: TaskContext, number: int, seconds: float) -> int:
    """Again after a crash."""
    return await _run(context, number, seconds)


@task("again_in_thread", retry=TWENTY_TIMES, retry_for=CRASHES)
def again_in_thread(context: TaskContext, number: int, seconds: float) -> int:
    return _run_in_thread(context, number, seconds)


@task("patient_again", retry=TWENTY_TIMES, retry_for=CRASHES)
async def patient_again(context: TaskContext, number: int, seconds: float) -> int:
    """The first attempt takes `seconds`, later ones half a second."""
    return await _run(context, number, seconds if context.attempt == 1 else 0.5)


@task("novelty")
async def novelty(context: TaskContext, number: int, seconds: float) -> int:
    """What only the newer release has."""
    return await _run(context, number, seconds)


TICK = timedelta(seconds=0.5)


@task("tick", retry=TWENTY_TIMES, retry_for=CRASHES)
async def tick(context: TaskContext) -> None:
    """What a schedule sends. Its number is the slot, in milliseconds since 1970, with which its id begins."""
    await _run(context, slot_number(context.task_id), 0.0)


def slot_number(task_id: str) -> int:
    return int(task_id.replace("-", "")[:12], 16)


@task("step", retry=TWENTY_TIMES, retry_for=CRASHES)
async def step(context: TaskContext, given: int) -> int:
    """A node of a workflow. Its number is the whole of its id."""
    await _run(context, node_number(context.task_id), 0.02)
    return given + 1


def node_number(task_id: str) -> int:
    return int(task_id.replace("-", ""), 16)


def flow(wf: WorkflowBuilder) -> NodeRef[int]:
    """A node, four that take its value, one that waits for these, and one more."""
    first = wf.task(step.node(0))
    wide = [wf.task(step.node(first)) for _ in range(4)]
    return wf.task(step.node(wf.task(step.node(wide[0]).waits_for(*wide))))


FLOW_NODES, FLOW_RESULT = 7, 4


@task("at_once", retry=TWENTY_TIMES, retry_for=CRASHES)
async def at_once(context: TaskContext, given: int) -> int:
    """A sibling: it waits for the file that lets all of them end at once."""
    async with noted(context, node_number(context.task_id)):
        while not released().exists():
            await anyio.sleep(0.002)
    return given


def released() -> Path:
    return Path(os.environ["CHAOS_LOG"]).with_name("released")


JOINS = (0, 1, 50, 100)
"""How many of a hundred siblings a node waits for: all, without saying so; any; half; all of them, as a quorum."""


def siblings(wf: WorkflowBuilder) -> None:
    """A hundred siblings, and nodes that wait for them, in every way."""
    wide = [wf.task(at_once.node(n)) for n in range(100)]
    for join in JOINS:
        node = step.node(join).waits_for(*wide).node_id(f"join of {join}")
        wf.task(node.join_quorum(join) if join else node)


def race(wf: WorkflowBuilder) -> None:
    """A hundred siblings, of which half are enough, and the rest are cancelled."""
    wide = [wf.task(at_once.node(n)) for n in range(100)]
    wf.task(step.node(1).waits_for(*wide).join_quorum(50, cancel_losers=True).node_id("join"))


@task("moody")
async def moody(context: TaskContext, given: int) -> int:
    """A node that fails every third time, by its id."""
    async with noted(context, node_number(context.task_id)):
        await anyio.sleep(0.01)
        if node_number(context.task_id) % 3 == 0:
            raise TaskError("MOODY")
    return given


def inner(wf: WorkflowBuilder) -> NodeRef[int]:
    return wf.task(moody.node(wf.task(step.node(1))))


OLD = (once, once_in_thread, again, again_in_thread, patient_again)
NEW = (*OLD, novelty, step, at_once, moody, tick)


def make_app(environ: Mapping[str, str], tasks: Sequence[Any] = NEW) -> Horsies:
    """The application on the database that HORSIES_DATABASE_URL and HORSIES_SCHEMA name.

    CHAOS_HOLD holds its workers at a point; CHAOS_QUEUE_CAP and CHAOS_CLUSTER_CAP are caps.
    """
    queue_cap, cluster_cap = (environ.get(name) for name in ("CHAOS_QUEUE_CAP", "CHAOS_CLUSTER_CAP"))
    config = AppConfig.for_database_url(
        environ["HORSIES_DATABASE_URL"],
        schema=environ["HORSIES_SCHEMA"],
        queues=(
            QueueConfig("default"),
            QueueConfig("capped", max_concurrency=None if queue_cap is None else int(queue_cap)),
            *(QueueConfig(point) for point in (*POINTS, "finish_kept", "finish_undone")),
        ),
        cluster_wide_cap=None if cluster_cap is None else int(cluster_cap),
        recovery=RECOVERY,
        resilience=RESILIENCE,
        pool=POOL,
    )
    held = environ.get("CHAOS_HOLD")
    app = Horsies(config, plugins=[Holding()], block_plugins=["horsies.plugins.postgres"]) if held else Horsies(config)
    for one in tasks:
        app.include(one)
    if step in tasks:
        for name, fn in (("flow", flow), ("siblings", siblings), ("race", race)):
            app.workflow(name)(fn)
        part = app.workflow("inner")(inner)

        @app.workflow("wishes", on_error="pause")
        def wishes(wf: WorkflowBuilder) -> NodeRef[int]:
            """What may fail, pauses when it does, and has a race and another workflow in it."""
            wide = [wf.task(moody.node(n)) for n in range(4)]
            first = wf.task(step.node(1).waits_for(*wide).join_any(cancel_losers=True))
            return wf.task(moody.node(wf.subworkflow(part.node().waits_for(first))))

    return app


def make_scheduled_app(environ: Mapping[str, str]) -> Horsies:
    """As `make_app`, with a schedule."""
    app = make_app(environ, (tick,))
    app.schedule("tick", tick, Every(TICK), catch_up="all")
    return app


async def hold(point: str) -> None:
    """Stand still for ever if this process is to do so at `point`."""
    if os.environ.get("CHAOS_HOLD") == point:
        _log().note(Note.HELD, point)
        await anyio.sleep_forever()


class HoldingConsumer:
    """A consumer that can be held before and after what matters."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    async def claim(self, limit: int, *, startable: Collection[str]) -> Claim:
        point = os.environ.get("CHAOS_HOLD")
        claim = await self._consumer.claim(limit, startable=() if point == CLAIMED else startable)
        if claim.tasks and point == STARTED:
            await self._consumer.start([Start(task.lease, 0.2) for task in claim.tasks if not task.is_running])
            await hold(STARTED)
        return claim

    async def start(self, starts: Sequence[Start], **given: Any) -> list[StartOutcome]:
        if starts:
            await hold(CLAIMED)
        return await self._consumer.start(starts, **given)

    async def finish(self, ends: Sequence[Finish], **given: Any) -> list[bool]:
        if ends:
            await hold(RESULT)
        return await self._consumer.finish(ends, **given)


class HoldingBroker:
    """The broker for Postgres, but for its consumers."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    @asynccontextmanager
    async def consumer(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        async with self._broker.consumer(*args, **kwargs) as consumer:
            yield HoldingConsumer(consumer)


class Holding:
    """A plugin in the place of the shipped one."""

    @hookimpl
    def horsies_brokers(self) -> Mapping[str, BrokerFactory]:
        return {"postgresql": self}

    @asynccontextmanager
    async def open(self, config: AppConfig, *, clock: Clock) -> AsyncIterator[Any]:
        async with Runtime(Horsies(config)).broker_factory().open(config, clock=clock) as broker:
            yield HoldingBroker(broker)


def die_with_parent() -> None:
    """End this process when whoever started it is gone: its end of our standard input closes then."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
