"""A scope around a runtime or a worker is cancelled at every step of a life: nothing outlives it.

`make test` takes some steps, HORSIES_DEEP=1 all of them, HORSIES_STEP=123 that one: of the life that failed, which is
`pytest tests/chaos/test_cancellation.py -k <its id>`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeAlias

import anyio
import pytest

from horsies import AppConfig, Runtime, WorkerConfig

from .leaks import Ground, open_ground, shown
from .lives import WORKER, Script
from .stepping import LOOPS, Steps, run

DEEP = os.environ.get("HORSIES_DEEP") == "1"
STEP = os.environ.get("HORSIES_STEP")
SAMPLES = 10
"""Steps of each series in `make test`."""
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
        # The runtime lives on, and another worker ends what the first one left.
        (await endless.cancel()).unwrap()
        rt.start_worker(WORKER)
        for handle in (*script.handles, (await script.quick.handle(rt).send()).unwrap()):
            (await handle.get(timeout=20)).is_ok()
        scene.faults += script.faults(scene.ground.rows(TASKS, rt))
    scene.faults += [f"{runs} runs of one task" for runs in script.runs.values() if runs > 2]


TASKS = "SELECT id, task_name, status, error_code FROM tasks"
LIVES: dict[str, Life] = {"runtime": around_runtime, "worker": around_worker}


def survive(life: Life, loop: str, ground: Ground, at: int | None) -> Steps:
    """Live once, cancelled at step `at`, and see that nothing is left."""
    steps = Steps(at)
    scene = Scene(ground, steps)
    scene.faults += run(loop, lambda: life(scene), steps)
    if steps.lasted > BOUND:
        scene.faults.append(f"the cancellation took {steps.lasted:.1f} s")
    scene.faults += (str(fault) for fault in ground.left())
    assert not scene.faults, f"cancelled at step {at} of {steps.taken}:{shown(scene.faults)}\nwhere{shown(steps.places)}"
    return steps


def chosen(total: int, variant: int) -> Iterator[int]:
    """The steps at which to cancel a life that took `total` of them."""
    if STEP is not None:
        yield int(STEP)
    elif DEEP:
        yield from count(1)
    else:
        stride = max(1, total // SAMPLES)
        yield from range(1 + variant * stride // (2 * len(LIVES) * len(LOOPS)) % stride, total, stride)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", LIVES)
def test_a_cancelled_scope_leaves_nothing(name: str, loop: str, config: AppConfig) -> None:
    life, variant = LIVES[name], list(LIVES).index(name) * len(LOOPS) + LOOPS.index(loop)
    with open_ground(config) as ground, ground.listening():
        whole = survive(life, loop, ground, None)
        for step in chosen(whole.taken, variant):
            ground.clear()
            if survive(life, loop, ground, step).cancelled_at is None and DEEP:
                break
