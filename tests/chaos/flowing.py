"""Workers that are killed in the middle of workflows: every node runs, once for each run, and nothing is stuck."""

from __future__ import annotations

import time
from random import Random

import anyio

from horsies import Ok, WorkflowHandle

from .application import FLOW_NODES, FLOW_RESULT, node_number
from .harness import Row, Stage


async def workflows_under_kills(stage: Stage) -> list[Row]:
    """Workflows are started all the time, each a chain into a fan-out into a join, while workers are killed."""
    seconds, random = (4.0 if stage.short else 45.0), Random(12)
    alive = await stage.workers.start_many(3, concurrency=8)
    handles: list[WorkflowHandle[int]] = []
    until, kills = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for _ in range(5):
            handles.append(await stage.producer.start_workflow())
            await anyio.sleep(random.uniform(0.0, 0.1))
        if random.random() < 0.4:
            alive.pop(random.randrange(len(alive))).kill()
            kills += 1
            alive += await stage.workers.start_many(1, concurrency=8)
    await stage.until(lambda: _all_ended(stage), "all workflows have ended")
    await stage.settle()
    for handle in handles:
        result = await handle.get(timeout=5)
        stage.expect(result == Ok(FLOW_RESULT), f"workflow {handle.workflow_id} came to {result}")
    rows = await stage.database.rows("SELECT workflow_id::text, id::text FROM {s}.tasks WHERE workflow_id IS NOT NULL")
    tasks = {
        handle.workflow_id: [task_id for owner, task_id in rows if owner == handle.workflow_id] for handle in handles
    }
    short = [workflow_id for workflow_id, of_one in tasks.items() if len(of_one) != FLOW_NODES]
    stage.expect(not short, f"{len(short)} workflows have not one task for each node, such as {short[:3]}")
    marked = await stage.database.number("SELECT count(*) FROM {s}.tasks WHERE advances")
    stage.expect(marked == 0, f"{marked} ends have not been followed up")
    stage.producer.sent.update({node_number(task_id): task_id for _, task_id in rows})
    return [await stage.judge(f"{len(handles)} workflows of {FLOW_NODES} nodes, workers killed {kills} times")]


async def _all_ended(stage: Stage) -> bool:
    return await stage.database.number("SELECT count(*) FROM {s}.workflows WHERE finished_at IS NULL") == 0
