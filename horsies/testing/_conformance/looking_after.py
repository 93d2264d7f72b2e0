"""What one worker does for all: who it is, and what is removed."""

from __future__ import annotations

from datetime import timedelta

from horsies.abc import Start, StartOutcome, TaskStatus

from .stage import Stage, at, done, new_task

DAY = timedelta(days=1)


class LookingAfter:
    """What one worker does for all: who it is, and what is removed."""

    async def test_one_leads_and_another_when_it_is_silent(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        assert [(await worker.beat(watching=True, now=at(1))).leads for worker in (one, other)] == [True, False]
        assert [(await worker.beat(watching=True, now=at(6))).leads for worker in (other, one)] == [False, True]
        # Renewed at 6 for half of dead_after: free again at 16.
        assert not (await other.beat(watching=True, now=at(15.999))).leads
        assert (await other.beat(watching=True, now=at(16))).leads
        assert not (await one.beat(watching=True, now=at(16))).leads

    async def test_who_is_watching_takes_over_from_who_is_not(self, stage: Stage) -> None:
        """A newcomer may lead, but finds nobody dead for a while: whoever can goes first."""
        new, old = await stage.worker("w1"), await stage.worker("w2")
        assert (await new.beat(watching=False, now=at(1))).leads
        assert not (await old.beat(watching=False, now=at(1))).leads
        assert (await old.beat(watching=True, now=at(1))).leads
        assert not (await new.beat(watching=False, now=at(2))).leads
        assert not (await new.beat(watching=True, now=at(2))).leads

    async def test_joining_again_is_a_heartbeat(self, stage: Stage) -> None:
        """The answer to the first may have been lost."""
        worker = await stage.worker()
        lease = await stage.claimed(worker, new_task(1))
        await worker.join(now=at(15))
        assert await stage.maintenance.reap(10, now=at(34)) == 0
        assert (await worker.beat(watching=True, now=at(34))).alive
        assert await worker.start([Start(lease)], now=at(34)) == [StartOutcome.STARTED]

    async def test_who_leaves_leads_no_more(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        assert (await one.beat(watching=True, now=at(1))).leads
        await other.leave()
        await other.join(now=at(1))
        assert not (await other.beat(watching=True, now=at(1))).leads
        await one.leave()
        assert (await other.beat(watching=True, now=at(1))).leads

    async def test_the_dead_do_not_lead(self, stage: Stage) -> None:
        one = await stage.worker()
        await stage.maintenance.reap(1, now=at(20))
        answer = await one.beat(watching=True, now=at(20))
        assert (answer.alive, answer.leads) == (False, False)
        assert (await (await stage.worker("w2")).beat(watching=True, now=at(20))).leads

    async def test_what_ended_long_ago_is_removed_the_oldest_first(self, stage: Stage) -> None:
        worker = await stage.worker()
        leases = [await stage.started(worker, new_task(n)) for n in range(1, 5)]
        for n, lease in enumerate(leases[:3], start=1):
            await worker.finish([done(lease)], now=at(n))
        await stage.send(new_task(5, due_in=3600))
        late = at(3) + DAY
        assert await stage.maintenance.prune(1, finished_after=DAY, now=late) == 1
        assert await stage.broker.reader.read(leases[0].task_id) is None
        assert await stage.status(2) is TaskStatus.COMPLETED
        assert await stage.maintenance.prune(10, finished_after=DAY, now=late) == 2
        assert await stage.maintenance.prune(10, finished_after=DAY, now=late) == 0
        assert [await stage.status(n) for n in (4, 5)] == [TaskStatus.RUNNING, TaskStatus.PENDING]

    async def test_its_attempts_go_with_a_task(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        await worker.finish([done(lease, TaskStatus.PENDING)], now=at(1))
        (again,) = (await worker.claim(1, now=at(2))).tasks
        await worker.finish([done(again.lease, TaskStatus.FAILED)], now=at(3))
        assert len((await stage.row(1)).attempts) == 1
        assert await stage.maintenance.prune(10, finished_after=DAY, now=at(3 + 86_400)) == 1
        await stage.send(new_task(1))
        assert (await stage.row(1)).attempts == ()
