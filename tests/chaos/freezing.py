"""A worker that stands still for longer than makes it dead, and then wakes up."""

from __future__ import annotations

import anyio

from .application import RECOVERY
from .harness import DEATH_BOUND, RETURN_BOUND, Row, Stage
from .producer import MIX
from .runs import Note


async def frozen_worker(stage: Stage) -> list[Row]:
    """SIGSTOP under load until the others have everything; SIGCONT. The thawed one owns nothing, and works again."""
    (frozen,) = await stage.workers.start_many(1)
    kinds = ("once", "once_in_thread", "patient_again", "patient_again")
    held = [await stage.producer.send(kind, 60.0) for kind in kinds]
    await stage.until(lambda: stage.began(held), "the tasks run on the worker that is to be frozen")
    before = {line.worker_id for line in stage.lines(Note.BEGAN)}
    await stage.workers.start_many(2)
    await anyio.sleep(RECOVERY.dead_after + RECOVERY.reap_interval)
    async with stage.producer.load(40, MIX):
        await anyio.sleep(0.5)
        froze = frozen.freeze()
        took = await stage.returned(frozen.pid, froze)
        ids = [stage.producer.sent[number] for number in held]
        await stage.until(lambda: _have_ended(stage, ids), "the tasks of the frozen worker end elsewhere")
        ended = await _rows(stage, ids)
        thawed = frozen.thaw()

        def are_cancelled() -> bool:
            return set(held) <= {line.number for line in stage.lines(Note.CANCELLED) if line.pid == frozen.pid}

        def works_again() -> bool:
            return any(line.pid == frozen.pid and line.worker_id not in before for line in stage.lines(Note.BEGAN))

        await stage.until(are_cancelled, "user code that still ran on the thawed worker is cancelled")
        again = await stage.until(works_again, "the thawed worker works again, under a new id")
    await stage.settle()
    stage.expect(await _rows(stage, ids) == ended, "the thawed worker changed rows that were no longer its")
    return [
        await stage.judge(
            "SIGSTOP for longer than dead_after, the tasks it ran",
            recovery=took,
            bound=DEATH_BOUND,
            numbers=held,
            may_fail=True,
            may_overlap=True,
        ),
        await stage.judge(
            "SIGCONT, the load around it",
            recovery=again - thawed,
            bound=RETURN_BOUND,
            numbers=stage.producer.sent.keys() - set(held),
            may_fail=True,
            may_overlap=True,
        ),
    ]


async def _have_ended(stage: Stage, ids: list[str]) -> bool:
    statuses = await stage.database.statuses()
    return all(statuses[one][0] in ("COMPLETED", "FAILED") for one in ids)


async def _rows(stage: Stage, ids: list[str]) -> list[object]:
    query = "SELECT task::text FROM {s}.tasks AS task WHERE id = ANY (%s::uuid[]) ORDER BY id"
    return [row for (row,) in await stage.database.rows(query, ids)]
