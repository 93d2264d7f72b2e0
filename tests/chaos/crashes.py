"""Workers that are killed: at each point in the life of a task, and again and again."""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from .application import CLAIMED, POINTS, RECOVERY, RESULT, RUNNING, STARTED
from .harness import DEATH_BOUND, SLACK, Row, Stage
from .producer import MIX
from .runs import Note
from .workers import WorkerProcess

KEPT, UNDONE = "finish_kept", "finish_undone"
GATES = {KEPT: 4_711, UNDONE: 4_712}
"""Queues whose finish waits at a gate inside its own statement. One gate opens, and the statement commits without
anybody to hear of it; at the other the server breaks it off. Whoever waits does so asleep, since a wait for a lock is
cut short, and under the name `at 4711`."""

TITLES = {
    CLAIMED: "SIGKILL after the claim, before the start",
    STARTED: "SIGKILL after the start, before user code",
    RUNNING: "SIGKILL in user code",
    RESULT: "SIGKILL with the result, before the finish is sent",
    KEPT: "SIGKILL while the finish is written; it commits",
    UNDONE: "SIGKILL while the finish is written; it is broken off",
}
EXPECTED = {CLAIMED: (2, 0, 0), STARTED: (1, 1, 0), RUNNING: (1, 1, 1), RESULT: (1, 1, 1), UNDONE: (1, 1, 1)}
"""For each pair of a task that runs at most once and one that is retried: completed, failed, re-run."""
SUCCESSION = RECOVERY.dead_after / 2 + RECOVERY.heartbeat_interval
"""Seconds that the death of the leader may add for those who are dead already: its lease has to run out, and a
successor takes it with a heartbeat."""


@dataclass
class Death:
    """A kill: when, whether of the leader, and the seconds until the tasks were back."""

    at: float
    led: bool
    took: float = 0.0


async def killed_at_each_phase(stage: Stage) -> list[Row]:
    """One worker stands still at each point with tasks of both kinds in its hands; all are killed at once."""
    pairs = dict.fromkeys(TITLES, 2 if stage.short else 20) | {UNDONE: 1}
    numbers: dict[str, list[int]] = {queue: [] for queue in TITLES}
    for queue in TITLES:
        for task in ("again",) if queue == KEPT else ("once", "again") * pairs[queue]:
            numbers[queue].append(await stage.producer.send(task, queue=queue))
    with stage.database.connect() as gatekeeper:
        for queue, gate in GATES.items():
            gatekeeper.execute("SELECT pg_advisory_lock(%s)", (gate,))
            await _build_gate(stage, queue, gate)
        victims = {
            queue: stage.workers.start("--queues", queue, hold=queue if queue in POINTS else None, concurrency=100)
            for queue in TITLES
        }
        for queue, victim in victims.items():
            await stage.until(lambda q=queue, v=victim: _stands(stage, q, v), f"the worker stands at {queue}")
        # The heir serves every queue, so it comes when all is taken; a newcomer would be slower to judge than promised.
        (heir,) = await stage.workers.start_many(1, concurrency=50)
        await anyio.sleep(RECOVERY.dead_after + RECOVERY.reap_interval)
        killed = {queue: victim.kill() for queue, victim in victims.items()}
        await stage.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", f"at {GATES[UNDONE]}"
        )
    took = {queue: await stage.returned(victim.pid, killed[queue]) for queue, victim in victims.items()}
    await stage.settle()
    stage.expect(heir.exit_code is None, "the surviving worker survived")
    rows = []
    for queue, title in TITLES.items():
        row = await stage.judge(
            title, recovery=took[queue], bound=DEATH_BOUND, numbers=numbers[queue], may_fail=queue != CLAIMED
        )
        expected = (1, 0, 0) if queue == KEPT else tuple(pairs[queue] * each for each in EXPECTED[queue])
        seen = (row.completed, row.failed, row.rerun)
        rows.append(row.with_fault(seen == expected, f"completed, failed, re-run are {seen} and should be {expected}"))
    return rows


async def killed_repeatedly(stage: Stage) -> list[Row]:
    """Under a steady load, one of four workers is killed every two seconds or so, and another takes its place."""
    kills, every = (3, 0.5) if stage.short else (30, 1.5)
    alive = await stage.workers.start_many(4)
    deaths: list[Death] = []

    async def measure(victim: WorkerProcess) -> None:
        leads = await stage.database.leader() == victim.pid
        death = Death(victim.kill(), leads)
        deaths.append(death)
        death.took = await stage.returned(victim.pid, death.at)

    async with anyio.create_task_group() as group, stage.producer.load(40, MIX):
        for _ in range(kills):
            await anyio.sleep(every)
            group.start_soon(measure, alive.pop(0))
            alive += await stage.workers.start_many(1)
    await stage.settle()
    alone, together = [0.0], [0.0]
    for death in deaths:
        meanwhile = any(other.led and death.at < other.at < death.at + death.took for other in deaths)
        (together if meanwhile else alone).append(death.took)
    late = f"with the leader killed meanwhile, recovery took {max(together):.2f} s"
    stage.expect(max(together) <= DEATH_BOUND + SUCCESSION + SLACK, late)
    title = f"SIGKILL of one of four workers, {kills} times"
    if max(together) > 0:
        title += f" ({max(together):.2f} s where the leader was killed meanwhile)"
    return [await stage.judge(title, recovery=max(alone), bound=DEATH_BOUND, may_fail=True)]


async def _stands(stage: Stage, queue: str, victim: WorkerProcess) -> bool:
    if queue in POINTS:
        return any(line.pid == victim.pid for line in stage.lines(Note.HELD))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    return await stage.database.number(waiting, f"at {GATES[queue]}") > 0


async def _build_gate(stage: Stage, queue: str, gate: int) -> None:
    """From now on a finish in `queue` waits for `gate`, inside its statement."""
    await stage.database.execute(
        f"CREATE FUNCTION {{s}}.wait_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" PERFORM set_config('application_name', 'at {gate}', true);"
        f" WHILE NOT pg_try_advisory_xact_lock_shared({gate}) LOOP PERFORM pg_sleep(0.01); END LOOP;"
        " RETURN NEW; END $$"
    )
    await stage.database.execute(
        f"CREATE TRIGGER {queue} BEFORE UPDATE ON {{s}}.tasks FOR EACH ROW"
        f" WHEN (NEW.status = 'COMPLETED' AND NEW.queue = '{queue}') EXECUTE FUNCTION {{s}}.wait_{queue}()"
    )
