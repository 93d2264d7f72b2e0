"""Schedulers that are killed: every slot is sent for exactly once, and none drifts."""

from __future__ import annotations

import time
from random import Random

import anyio

from .application import TICK, slot_number
from .harness import Row, Stage

STEP = round(TICK.total_seconds() * 1000)


async def schedulers_killed(stage: Stage) -> list[Row]:
    """Two schedulers, of which one or both are killed again and again, and one worker that is killed as well."""
    seconds, random = (6.0 if stage.short else 60.0), Random(11)
    places = [stage.workers.start_scheduler("scheduled") for _ in range(2)]
    (worker,) = await stage.workers.start_many(1, release="scheduled")
    await stage.until(lambda: _has_sent(stage), "a scheduler has sent")
    until, kills = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for scheduler in places:
            await scheduler.wait_ready()
        await anyio.sleep(random.uniform(0.0, 1.5))
        for index in random.choice(((0,), (1,), (0, 1))):
            places[index].kill()
            kills += 1
            places[index] = stage.workers.start_scheduler("scheduled")
        if random.random() < 0.2:
            worker.kill()
            (worker,) = await stage.workers.start_many(1, release="scheduled")
    for scheduler in places:
        await scheduler.wait_ready()
    sent = len(await _slots(stage))
    await stage.until(lambda: _has_sent(stage, sent + 2), "the last schedulers go on")
    for scheduler in places:
        scheduler.terminate()
    for scheduler in places:
        code = await scheduler.wait_exit(20)
        stage.expect(code == 0, f"a scheduler exited with {code} on SIGTERM: {scheduler.output()[-500:]}")
    worker.terminate()
    await worker.wait_exit(20)
    # The worker sends as well, and may have done so until it ended. What is left is for one that does not: it would end
    # with what it had sent since it looked.
    (worker,) = await stage.workers.start_many(1, "--until-idle")
    await worker.wait_exit(60)
    slots = await _slots(stage)
    expected = range(min(slots), max(slots) + 1, STEP)
    stage.expect(set(slots) <= set(expected), "a slot has drifted")
    stage.producer.sent.update({number: slots.get(number, "never sent") for number in expected})
    return [await stage.judge(f"two schedulers killed {kills} times in {seconds:g} s, a slot every {STEP} ms")]


async def _slots(stage: Stage) -> dict[int, str]:
    """The ids of all tasks that were sent, by their slot."""
    rows = await stage.database.rows("SELECT id::text FROM {s}.tasks WHERE task_name = 'tick'")
    return {slot_number(task_id): task_id for (task_id,) in rows}


async def _has_sent(stage: Stage, count: int = 1) -> bool:
    return len(await _slots(stage)) >= count
