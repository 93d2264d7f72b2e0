"""Many workers at once: a burst, a rolling restart, and caps that hold for all of them together."""

from __future__ import annotations

import time

import anyio

from .harness import DEATH_BOUND, SLACK, Row, Stage
from .producer import MIX
from .runs import Note, most_at_once, runs_of
from .workers import WorkerProcess

LONGEST_PASSING_ON = 10.0
"""Seconds for which a task that a worker does not know is left to others, at most."""
QUEUE_CAP, CLUSTER_CAP = 3, 10
CAPS = {"CHAOS_QUEUE_CAP": str(QUEUE_CAP), "CHAOS_CLUSTER_CAP": str(CLUSTER_CAP)}


async def burst(stage: Stage) -> list[Row]:
    """Very many short tasks, sent at once, for four workers."""
    size = 5_000 if stage.short else 100_000
    await stage.workers.start_many(4, concurrency=100)
    began = time.monotonic()
    await stage.producer.send_burst("once", size)
    await stage.settle()
    took = time.monotonic() - began
    return [await stage.judge(f"a burst of {size:,} tasks: {size / took:,.0f}/s with four workers")]


async def rolling_restart(stage: Stage) -> list[Row]:
    """Tasks of the new release are sent while only the old one runs; then workers are replaced one by one."""
    old = await stage.workers.start_many(3, release="old")
    async with stage.producer.load(40, (*MIX, ("novelty", 0.05))):
        await anyio.sleep(1.5 if stage.short else 10.0)
        early = set(stage.producer.sent)
        for worker in old:
            worker.terminate()
            code = await worker.wait_exit(20)
            stage.expect(code == 0, f"worker {worker.pid} exited with {code} on SIGTERM: {worker.output()[-500:]}")
            replaced = time.monotonic()
            await stage.workers.start_many(1)
    until = await stage.until(lambda: stage.began(early), "tasks that only the new release knows run")
    await stage.settle()
    strange = [line for line in stage.lines(Note.BEGAN) if line.task == "novelty" and line.pid in {w.pid for w in old}]
    stage.expect(not strange, "an old worker ran a task that it does not know")
    return [
        await stage.judge(
            "rolling restart to a release with one more task", recovery=until - replaced, bound=LONGEST_PASSING_ON
        )
    ]


async def caps(stage: Stage) -> list[Row]:
    """A queue of three at once and a cluster of ten at once, under eight workers of which some are killed."""
    kills, size, seconds = (1, 60, 0.2) if stage.short else (6, 600, 0.2)
    alive = await stage.workers.start_many(8, concurrency=10)
    capped = [await stage.producer.send("again", seconds, queue="capped") for _ in range(size)]
    others = [await stage.producer.send("again", seconds) for _ in range(2 * size)]
    took = 0.0
    for _ in range(kills):
        await anyio.sleep(1.0)
        victim = await _busiest(stage, alive)
        alive.remove(victim)
        killed = victim.kill()
        alive += await stage.workers.start_many(1, concurrency=10)
        took = max(took, await stage.returned(victim.pid, killed))
    await stage.settle()
    runs = runs_of(stage.log.lines())
    deaths = stage.workers.deaths
    of_queue = {number: runs[number] for number in capped}
    in_queue = most_at_once(of_queue, deaths)
    in_all = most_at_once(runs, deaths)
    stage.expect(in_queue <= QUEUE_CAP, f"{in_queue} tasks of the queue ran at once")
    stage.expect(in_all <= CLUSTER_CAP, f"{in_all} tasks of the cluster ran at once")
    instants = [line.at for line in stage.lines(Note.BEGAN, Note.ENDED) if line.number in of_queue]
    all_took, ideal = max(instants) - min(instants), size * seconds / QUEUE_CAP
    enough = 2 * ideal + kills * DEATH_BOUND + SLACK
    stage.expect(all_took <= enough, f"all took {all_took:.1f} s, {ideal:.1f} s are ideal, {enough:.1f} s enough")
    title = (
        f"caps: at most {in_queue} of {QUEUE_CAP} and {in_all} of {CLUSTER_CAP} at once with {kills} kills,"
        f" {ideal / all_took:.0%} of the queue's capacity"
    )
    return [await stage.judge(title, recovery=took, bound=DEATH_BOUND, numbers=[*capped, *others])]


async def _busiest(stage: Stage, alive: list[WorkerProcess]) -> WorkerProcess:
    """The worker that holds most tasks."""
    query = "SELECT split_part(worker_id, ':', 2) FROM {s}.tasks WHERE phase = 2 GROUP BY 1 ORDER BY count(*) DESC"
    by_pid = {worker.pid: worker for worker in alive}
    return next((by_pid[int(pid)] for (pid,) in await stage.database.rows(query) if int(pid) in by_pid), alive[0])
