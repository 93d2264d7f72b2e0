"""Ends of a workflow's tasks and what follows from them, in one transaction."""

from __future__ import annotations

import anyio
import pytest
from msgspec.structs import replace

from horsies.abc import BrokerError, Consumer, Lease, Start, Step, TaskStatus, Topic, Workflows

from .stage import Stage, at, done, heard, new_task
from .workflows import FIRST, SECOND, Deciding, Given, begins, goes_on, node, noting, task_id


class Finishing:
    """Ends of a workflow's tasks and what follows from them, in one transaction."""

    async def test_ends_and_what_follows_are_written_together(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1), node(2)), now=at(0))
        await workflows.start(begins(SECOND, node(3, of=SECOND)), now=at(0))
        await stage.send(new_task(4))
        worker = await stage.worker()
        leases = [task.lease for task in (await worker.claim(4, now=at(0))).tasks]
        await worker.start([Start(lease) for lease in leases], now=at(0))
        ends = [replace(done(lease), workflow_id=owner) for lease, owner in owned(leases)]
        deciding = Deciding(goes_on(FIRST, node(5)), goes_on(SECOND, status="COMPLETED"))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.FINISHED) as finished:
                assert await worker.finish(ends, decide=deciding, now=at(7)) == [True] * 4
                assert await heard(finished, {SECOND, task_id(4)})
        # With the ends that it was written with.
        assert {id_: sorted(n for n, *_ in marked) for id_, marked in deciding.ends.items()} == {
            FIRST: [1, 2],
            SECOND: [3],
        }
        assert await workflows.unadvanced(5) == []
        assert [await stage.status(n) for n in (1, 4, 5)] == ["COMPLETED", "COMPLETED", "PENDING"]
        row = await workflows.read(SECOND)
        assert row is not None
        assert (row.status, row.finished_at) == ("COMPLETED", at(7))

    async def test_an_end_that_is_not_written_is_not_followed_up(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1), state=b""), now=at(0))
        worker = await stage.worker()
        (claimed,) = (await worker.claim(1, now=at(0))).tasks
        await worker.start([Start(claimed.lease)], now=at(0))
        end = replace(done(claimed.lease), workflow_id=FIRST)
        stale = replace(end, lease=Lease(claimed.lease.task_id, claimed.lease.claim_number + 1))
        assert await worker.finish([stale], decide=noting, now=at(1)) == [False]
        again = replace(end, status=TaskStatus.PENDING, error_code="AGAIN", retry_in=5.0)
        assert await worker.finish([again], decide=noting, now=at(1)) == [True]
        row = await workflows.read(FIRST)
        assert row is not None
        assert row.state == b""

    @pytest.mark.parametrize("why", ["decide raises", "what follows is refused"])
    async def test_when_anything_fails_nothing_is_written(self, stage: Stage, workflows: Workflows, why: str) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(0))
        worker = await stage.worker()
        (claimed,) = (await worker.claim(1, now=at(0))).tasks
        await worker.start([Start(claimed.lease)], now=at(0))
        end = replace(done(claimed.lease), workflow_id=FIRST)

        def refuse(given: Given) -> list[Step]:
            raise LookupError("mine")

        decide = refuse if why == "decide raises" else Deciding(goes_on(status="OTHER"))
        with pytest.raises(LookupError if why == "decide raises" else BrokerError):
            await worker.finish([end], decide=decide, now=at(1))
        assert await stage.status(1) is TaskStatus.RUNNING
        assert await workflows.unadvanced(5) == []
        assert await worker.finish([end], now=at(2)) == [True]
        assert await workflows.unadvanced(5) == [FIRST]

    async def test_what_gets_no_step_stays_marked(self, stage: Stage, workflows: Workflows) -> None:
        await workflows.start(begins(FIRST, node(1)), now=at(0))
        worker = await stage.worker()
        (claimed,) = (await worker.claim(1, now=at(0))).tasks
        await worker.start([Start(claimed.lease)], now=at(0))
        end = replace(done(claimed.lease), workflow_id=FIRST)
        assert await worker.finish([end], decide=Deciding(), now=at(1)) == [True]
        assert await workflows.unadvanced(5) == [FIRST]

    async def test_finishes_at_once_follow_up_each_end_once(self, stage: Stage, workflows: Workflows) -> None:
        """Whoever finds a workflow in other hands leaves its mark, and goes on."""
        await workflows.start(begins(FIRST, *(node(n) for n in range(1, 25)), state=b""), now=at(0))
        workers = [await stage.worker(f"w{n}") for n in range(4)]
        shares = []
        for worker in workers:
            leases = [task.lease for task in (await worker.claim(6, now=at(0))).tasks]
            await worker.start([Start(lease) for lease in leases], now=at(0))
            shares.append((worker, leases))

        async def end(worker: Consumer, leases: list[Lease]) -> None:
            for lease in leases:
                one = replace(done(lease), workflow_id=FIRST)
                assert await worker.finish([one], decide=noting, now=at(1)) == [True]

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for worker, leases in shares:
                    group.start_soon(end, worker, leases)
        await workflows.advance([FIRST], noting, now=at(2))
        assert await workflows.unadvanced(5) == []
        row = await workflows.read(FIRST)
        assert row is not None
        assert sorted(row.state) == list(range(1, 25))


def owned(leases: list[Lease]) -> list[tuple[Lease, str | None]]:
    """Each of the first four tasks with the workflow that it is of."""
    owners = {task_id(1): FIRST, task_id(2): FIRST, task_id(3): SECOND}
    return [(lease, owners.get(lease.task_id)) for lease in leases]
