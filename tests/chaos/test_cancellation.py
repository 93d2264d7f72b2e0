"""A scope around a runtime or a worker is cancelled at every step of a life: nothing outlives it.

`make test` takes some steps, HORSIES_DEEP=1 all of them, HORSIES_STEP=123 that one: of the life that failed, which is
`pytest tests/chaos/test_cancellation.py -k <its id>`.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import anyio
import anyio.lowlevel
import pytest

from horsies import AppConfig, Runtime, WorkerConfig
from horsies._declare.placement import Address
from horsies._worker.execution.process_main import HEAD, Load
from horsies._worker.execution.process_pool import _spawn
from horsies.abc import Consumer

from .leaks import Ground, open_ground, shown
from .lives import QUICK, WORKER, Script, apart
from .stepping import LOOPS, Steps, run

DEEP = os.environ.get("HORSIES_DEEP") == "1"
STEP = os.environ.get("HORSIES_STEP")
SAMPLES = 6
"""Steps of each series in `make test`."""
ENOUGH = 3
"""A series ends after so many lives that were over before their step came."""
MOST = 10
"""Faults told of one series."""
BOUND = 5.0
"""Seconds within which a cancelled runtime has given everything back."""

pytestmark = pytest.mark.timeout(3600 if DEEP else 120)


@dataclass
class Scene:
    """One life: what is to happen in it, and what was found wrong."""

    ground: Ground
    steps: Steps
    faults: list[str] = field(default_factory=list)


Life: TypeAlias = Callable[[Scene], Awaitable[None]]


async def around_runtime(scene: Scene) -> None:
    script = Script(scene.ground.config)
    with scene.steps.counted():
        async with Runtime(script.app) as rt:
            await script.live(rt)
    if scene.ground.lasts:
        scene.faults += scene.ground.held()
        scene.faults += script.faults(scene.ground.rows(TASKS))


async def around_worker(scene: Scene) -> None:
    script = Script(scene.ground.config)
    async with Runtime(script.app) as rt:
        endless = await script.send_all(rt)
        async with anyio.create_task_group() as group:
            group.start_soon(script.cancel_endless, endless)
            with scene.steps.counted():
                await rt.run_worker(WorkerConfig(concurrency=4, threads=1, until_idle=True))
            group.cancel_scope.cancel()
        scene.faults += scene.ground.held(rt)
        scene.faults += script.faults(scene.ground.rows(TASKS, rt))
        if scene.faults:
            return
        # The runtime lives on, and another worker ends what the first one left.
        (await endless.cancel()).unwrap()
        rt.start_worker(WORKER)
        for handle in (*script.handles, (await script.quick.handle(rt).send()).unwrap()):
            result = await handle.get(timeout=20)
            if result.is_err() and result.unwrap_err().code == "WAIT_TIMEOUT":
                scene.faults.append(f"task {handle.task_id} does not end")
        scene.faults += script.faults(scene.ground.rows(TASKS, rt))
    scene.faults += [f"{runs} runs of one task" for runs in script.runs.values() if runs > 2]


async def around_opening(scene: Scene) -> None:
    scene.ground.remove()
    script = Script(scene.ground.config)
    with scene.steps.counted():
        async with Runtime(script.app):
            pass
    async with Runtime(script.app) as rt:
        (await script.quick.handle(rt).send()).unwrap()


async def around_rebirth(scene: Scene) -> None:
    script = Script(scene.ground.config, QUICK)
    async with Runtime(script.app) as rt:
        with scene.steps.counted(at_once=False):
            await script.be_reborn(rt, scene.steps.begin)
        scene.faults += scene.ground.held(rt)
        scene.faults += script.faults(scene.ground.rows(TASKS, rt))
        if scene.faults:
            return
        await rt.run_worker(WorkerConfig(until_idle=True))
        scene.faults += script.faults(scene.ground.rows(TASKS, rt))
    if scene.steps.cancelled_at is None:
        assert script.runs.total() >= 4


async def around_processes(scene: Scene) -> None:
    script = Script(scene.ground.config)
    async with Runtime(script.app) as rt:
        for answer in await apart.handle(rt).send_many([(), ()]):
            answer.unwrap()
        with scene.steps.counted():
            await rt.run_worker(WorkerConfig(concurrency=1, until_idle=True))
        scene.faults += scene.ground.held(rt)
        scene.faults += scene.ground.processes()


TASKS = "SELECT id, task_name, status, error_code FROM tasks"
LIVES: dict[str, Life] = {
    "runtime": around_runtime,
    "worker": around_worker,
    "opening": around_opening,
    "rebirth": around_rebirth,
    "processes": around_processes,
}
VARIANTS = len(LIVES) * len(LOOPS)


@dataclass(frozen=True)
class Survival:
    """How one life ended."""

    taken: int
    was_cancelled: bool
    faults: str


def survive(life: Life, loop: str, ground: Ground, at: int | None) -> Survival:
    """Live once, cancelled at step `at`, and see what is left."""
    steps = Steps(at)
    scene = Scene(ground, steps)
    try:
        scene.faults += run(loop, lambda: life(scene), steps)
    except Exception as error:  # whatever it is, it is a fault of this step
        scene.faults.append("".join(traceback.format_exception(error)))
    if steps.lasted > BOUND:
        scene.faults.append(f"the cancellation took {steps.lasted:.1f} s")
    scene.faults += ground.left()
    told = f"\n\ncancelled at step {at} of {steps.taken}:{shown(scene.faults)}\n where{shown(steps.places)}"
    return Survival(steps.taken, steps.cancelled_at is not None, told if scene.faults else "")


def chosen(total: int, variant: int) -> Iterator[int]:
    """The steps at which to cancel a life that took `total` of them."""
    if STEP is not None:
        yield int(STEP)
    elif DEEP:
        yield from count(1)
    else:
        stride = max(1, total // SAMPLES)
        yield from range(1 + variant * stride // VARIANTS, total, stride)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", LIVES)
def test_a_cancelled_scope_leaves_nothing(name: str, loop: str, config: AppConfig) -> None:
    life, variant = LIVES[name], list(LIVES).index(name) * len(LOOPS) + LOOPS.index(loop)
    with open_ground(config) as ground, ground.listening():
        whole = survive(life, loop, ground, None)
        assert not whole.faults, whole.faults
        faults: list[str] = []
        uncancelled = 0
        for step in chosen(whole.taken, variant):
            ground.clear()
            survival = survive(life, loop, ground, step)
            faults += filter(None, [survival.faults])
            # No two lives take quite as many steps.
            uncancelled += not survival.was_cancelled
            if uncancelled == ENOUGH or len(faults) == MOST:
                break
    assert not faults, "".join(faults)


@asynccontextmanager
async def hanging(rt: Runtime, call: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[anyio.Event]:
    """`call` of every consumer never returns; the event tells that it was called."""
    called = anyio.Event()
    consumer = rt._engine.broker.consumer

    async def hang(*_: object, **__: object) -> None:
        called.set()
        await anyio.sleep_forever()

    @asynccontextmanager
    async def hung(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
        async with consumer(worker_id, queues) as real:
            monkeypatch.setattr(real, call, hang)
            yield real

    monkeypatch.setattr(rt._engine.broker, "consumer", hung)
    yield called


@pytest.mark.anyio
@pytest.mark.parametrize("stop", ["cancel", "drain"])
async def test_who_is_stopped_while_signing_on_is_not_registered(
    stop: str, config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(config)
    with open_ground(config) as ground:
        async with Runtime(script.app) as rt, hanging(rt, "beat", monkeypatch) as called:
            async with anyio.create_task_group() as group:
                group.start_soon(rt.run_worker)
                await called.wait()
                assert [fault for fault in ground.held(rt) if "registered" in fault]
                if stop == "cancel":
                    group.cancel_scope.cancel()
                else:
                    rt._engine._workers[0].drain_nowait()
            assert list(ground.held(rt)) == []


@pytest.mark.anyio
async def test_a_start_that_was_cut_short_and_not_written_is_no_lost_result(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(config)
    with open_ground(config) as ground:
        async with Runtime(script.app) as rt:
            (await script.again.handle(rt).send()).unwrap()
            async with hanging(rt, "start", monkeypatch) as called:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as group:
                        group.start_soon(rt.run_worker)
                        await called.wait()
                        (worker,) = rt._engine._workers
                        scope.cancel()
            assert list(ground.held(rt)) == []
            assert (worker.statistics().given_back, worker.statistics().lost) == (1, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("call", ["send", "get"])
@pytest.mark.parametrize("when", ["closing", "closed"])
async def test_who_is_cancelled_along_with_the_runtime_hears_of_that_alone(
    when: str, call: str, config: AppConfig
) -> None:
    script = Script(config)
    answers: list[object] = []
    go = anyio.Event()

    async def cancel(scope: anyio.CancelScope) -> None:
        await anyio.wait_all_tasks_blocked()
        go.set()
        scope.cancel()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with Runtime(script.app) as rt:
                quick = script.quick.handle(rt)
                handle = (await quick.send()).unwrap()
                if when == "closing":
                    # On asyncio a task that is just being woken hears of a cancellation later than the others.
                    group.start_soon(cancel, scope)
                    await go.wait()
                else:
                    scope.cancel()
                    with anyio.move_on_after(20, shield=True):
                        while not (rt._engine._waiters._closed and rt._engine._batcher._closed):
                            await anyio.lowlevel.checkpoint()
                answers.append(await (quick.send() if call == "send" else handle.get()))
    assert scope.cancelled_caught
    assert answers == []


@pytest.mark.anyio
async def test_a_process_whose_answer_comes_together_with_a_cancellation_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = await _spawn()
    receive = child._answers.receive_exactly
    with anyio.CancelScope() as scope:

        async def receive_and_cancel(size: int) -> bytes:
            received = await receive(size)
            if size != HEAD:
                scope.cancel()
            return received

        monkeypatch.setattr(child._answers, "receive_exactly", receive_and_cancel)
        await child.ask(Load("root", Address("math", "sqrt"), None))
    assert scope.cancelled_caught
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
