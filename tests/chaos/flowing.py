"""Workflows under workers that are killed, under siblings that end at once, and under clients that never agree."""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from random import Random
from typing import Any

import anyio

from horsies import NodeStatus, Ok, WorkflowHandle, WorkflowStatus

from .application import FLOW_NODES, FLOW_RESULT, JOINS, node_number
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
    await _wait_ended(stage)
    for handle in handles:
        result = await handle.get(timeout=5)
        stage.expect(result == Ok(FLOW_RESULT), f"workflow {handle.workflow_id} came to {result}")
    rows = await _node_tasks(stage)
    tasks = {
        handle.workflow_id: [task_id for owner, task_id in rows if owner == handle.workflow_id] for handle in handles
    }
    short = [workflow_id for workflow_id, of_one in tasks.items() if len(of_one) != FLOW_NODES]
    stage.expect(not short, f"{len(short)} workflows have not one task for each node, such as {short[:3]}")
    return [await stage.judge(f"{len(handles)} workflows of {FLOW_NODES} nodes, workers killed {kills} times")]


async def siblings_at_once(stage: Stage) -> list[Row]:
    """A hundred siblings in four processes end at the same moment, into joins of every kind."""
    rounds = 2 if stage.short else 12
    await stage.workers.start_many(4, concurrency=60)
    runs: list[WorkflowHandle[Any]] = []
    release = stage.log.path.with_name("released")
    for number in range(rounds):
        release.unlink(missing_ok=True)
        run = await stage.producer.start_workflow("race" if number % 2 else "siblings")
        runs.append(run)
        await stage.until(partial(_are_running, run, 100), "a hundred siblings run")
        release.touch()
        await stage.until(lambda: _all_ended(stage), "the workflow has ended")
    await _wait_ended(stage)
    for number, run in enumerate(runs):
        nodes = (await run.tasks()).unwrap()
        joins = [node for node in nodes if node.node_id.startswith("join")]
        stage.expect(
            await run.status() == Ok(WorkflowStatus.COMPLETED), f"round {number} ended as {await run.status()}"
        )
        stage.expect(
            all(node.status is NodeStatus.COMPLETED for node in joins), f"round {number}: joins ended as {joins}"
        )
        completed = [node.status for node in nodes].count(NodeStatus.COMPLETED) - len(joins)
        stage.expect(completed == 100 or (number % 2 == 1 and completed >= 50), f"{completed} siblings are COMPLETED")
    rows = await _node_tasks(stage)
    wanted = sum(101 if number % 2 else 100 + len(JOINS) for number in range(rounds))
    stage.expect(len(rows) == wanted, f"{len(rows)} tasks for {wanted} nodes")
    title = f"100 siblings in 4 processes ending at once, into joins of all, any and half, {rounds} times"
    return [await stage.judge(title)]


async def storm_of_wishes(stage: Stage) -> list[Row]:
    """Six clients pause, resume, cancel and look, all the time, at workflows that fail, race and have others inside."""
    seconds, random = (4.0 if stage.short else 120.0), Random(7)
    await stage.workers.start_many(4, concurrency=16)
    runs: list[WorkflowHandle[Any]] = []
    told: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until:
            run = random.choice(runs[-40:])
            wish = random.choice(["pause", "resume", "resume", "rerun", "rerun", "look", "cancel"])
            if wish == "cancel" and random.random() < 0.7:
                continue
            answer: Any
            match wish:
                case "pause":
                    answer = await run.pause()
                case "cancel":
                    answer = await run.cancel()
                case "look":
                    answer = await run.tasks()
                case _:
                    answer = await run.resume(rerun_failed=wish == "rerun")
            told[wish] += 1
            stage.expect(isinstance(answer, Ok), f"{wish} was answered {answer}")

    async def starter() -> None:
        while time.monotonic() < until:
            runs.append(await stage.producer.start_workflow("wishes"))
            await anyio.sleep(0.05)

    async with anyio.create_task_group() as group:
        group.start_soon(starter)
        await stage.until(lambda: len(runs) > 5, "some workflows are started")
        for _ in range(6):
            group.start_soon(client)
    for run in runs:
        # Whatever is paused by now, by somebody or by a failure, is not to stay so.
        for _ in range(50):
            result = await run.get(timeout=20)
            if isinstance(result, Ok) or result.error.code != "WORKFLOW_PAUSED":
                break
            stage.expect(isinstance(await run.resume(rerun_failed=True), Ok), "the last resume")
        else:
            await run.cancel()
    await _wait_ended(stage)
    for run in runs:
        for node in (await run.tasks()).unwrap():
            stage.expect(node.status.is_terminal, f"{run.workflow_id}: {node} has not ended")
    said = [line for worker in stage.workers.all for line in worker.output().splitlines()]
    complaints = [line for line in said if "deadlock" in line or "lock timeout" in line]
    stage.expect(not complaints, f"workers complain: {complaints[:3]}")
    await _node_tasks(stage)
    title = f"{len(runs)} workflows under {sum(told.values()):,} pauses, resumes, cancellations and looks"
    return [await stage.judge(title, codes_of_its_own=["MOODY"])]


async def _wait_ended(stage: Stage) -> None:
    """Until all workflows have ended, and what they have told each other is done."""
    await stage.until(lambda: _all_ended(stage), "all workflows have ended", seconds=40)
    await stage.settle()
    marked = "SELECT (SELECT count(*) FROM {s}.tasks WHERE advances) + (SELECT count(*) FROM {s}.workflow_signals)"

    async def is_done() -> bool:
        return await stage.database.number(marked) == 0

    await stage.until(is_done, "all ends have been followed up, and all signals taken")


async def _are_running(run: WorkflowHandle[Any], count: int) -> bool:
    return [node.status for node in (await run.tasks()).unwrap()].count(NodeStatus.RUNNING) >= count


async def _node_tasks(stage: Stage) -> list[tuple[str, str]]:
    """The tasks of nodes, each with its workflow; they are what is judged."""
    rows = await stage.database.rows("SELECT workflow_id::text, id::text FROM {s}.tasks WHERE workflow_id IS NOT NULL")
    stage.producer.sent.update({node_number(task_id): task_id for _, task_id in rows})
    return [(owner, task_id) for owner, task_id in rows]


async def _all_ended(stage: Stage) -> bool:
    return await stage.database.number("SELECT count(*) FROM {s}.workflows WHERE finished_at IS NULL") == 0
