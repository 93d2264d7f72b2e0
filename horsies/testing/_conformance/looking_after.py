"""What one worker does for all: who it is, and what is removed."""

from __future__ import annotations

from datetime import timedelta

import pytest

from horsies import RecoveryConfig
from horsies.abc import Start, StartOutcome, TaskStatus

from .stage import Stage, at, beat_steadily, done, lead_steadily, new_task

DAY = timedelta(days=1)


class LookingAfter:
    """What one worker does for all: who it is, and what is removed."""

    async def test_one_leads_and_another_when_it_is_silent(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        assert [await worker.lead(now=at(1)) for worker in (one, other)] == [True, False]
        assert [await worker.lead(now=at(6)) for worker in (other, one)] == [False, True]
        # Renewed at 6 for half of dead_after: free again at 16.
        assert not await other.lead(now=at(15.999))
        assert await other.lead(now=at(16))
        assert not await one.lead(now=at(16))

    async def test_a_steady_worker_leaves_the_lease_to_another_steady_one(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        for worker in (one, other):
            await beat_steadily(worker, RecoveryConfig(), now=at(30))
        assert [await worker.lead(now=at(30)) for worker in (one, other, one)] == [True, False, True]

    async def test_a_steady_worker_takes_the_lease_from_a_newcomer(self, stage: Stage) -> None:
        """A newcomer may lead, but may find no worker dead for a while: a worker that may goes first."""
        old, new = await stage.worker("w1"), await stage.worker("w2")
        assert await old.beat(now=at(10))
        await new.join(now=at(19))
        assert await new.lead(now=at(19.5))
        assert not await old.lead(now=at(19.999))
        assert await old.lead(now=at(20))
        assert not await new.lead(now=at(20))

    async def test_a_worker_whose_heartbeat_came_late_is_steady_from_then_on(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        assert [await one.beat(now=at(10)), await other.beat(now=at(10.001))] == [True, True]
        assert await other.lead(now=at(19))
        assert await one.lead(now=at(20))  # steady for 20 s, which the other is not
        assert await one.beat(now=at(25))
        assert await one.lead(now=at(26))
        assert await other.beat(now=at(20))
        assert await other.beat(now=at(30))
        assert not await other.lead(now=at(30))
        assert await other.lead(now=at(30.001))  # and now one is not

    @pytest.mark.parametrize(
        ("joined", "beats", "led_at", "found"),
        [
            (0, (10, 20, 30), 30, 1),
            (0, (10, 20), 30, 1),
            (0, (10, 20), 20.001, 1),
            (0, (10, 20), 20, 0),
            (0, (10, 19.999), 30, 0),
            (0, (10, 20.001, 30), 30, 0),
            (10, (20, 30), 30, 1),
            (10.001, (20, 30), 30, 0),
            (0, (10, 20, 30), None, 0),
        ],
        ids=[
            "a steady leader",
            "its heartbeat is just fresh",
            "its lease is just valid",
            "its lease has expired",
            "its heartbeat is not fresh",
            "one of its heartbeats came late",
            "it is just steady for long enough",
            "it is not steady for long enough",
            "it does not lead",
        ],
    )
    async def test_only_a_steady_leader_finds_a_worker_dead(
        self, stage: Stage, joined: float, beats: tuple[float, ...], led_at: float | None, found: int
    ) -> None:
        dead, leader = await stage.worker("w1"), await stage.worker("w0")
        await stage.started(dead, new_task(1))
        await leader.join(now=at(joined))
        for seconds in beats:
            assert await leader.beat(now=at(seconds))
        if led_at is not None:
            assert await leader.lead(now=at(led_at))
        assert await stage.maintenance.reap(10, now=at(30)) == found
        assert await dead.beat(now=at(30)) is (found == 0)
        assert await stage.status(1) is (TaskStatus.FAILED if found else TaskStatus.RUNNING)

    async def test_a_steady_worker_that_does_not_lead_finds_no_worker_dead(self, stage: Stage) -> None:
        dead, other, leader = [await stage.worker(name) for name in ("w1", "w0", "w2")]
        await stage.started(dead, new_task(1))
        await lead_steadily(leader, RecoveryConfig(), now=at(30))
        await beat_steadily(other, RecoveryConfig(), now=at(30))
        assert await stage.maintenance.reap(10, now=at(30)) == 0
        assert await dead.beat(now=at(30))

    async def test_a_worker_that_is_not_registered_neither_leads_nor_finds_others_dead(self, stage: Stage) -> None:
        gone, leader, bystander = [await stage.worker(name) for name in ("w1", "w0", "w2")]
        await stage.started(gone, new_task(1))
        await gone.leave()
        await beat_steadily(bystander, RecoveryConfig(), now=at(30))
        await leader.leave()
        assert not await leader.lead(now=at(30))
        assert await stage.maintenance.reap(10, now=at(30)) == 0

    async def test_joining_again_is_a_heartbeat(self, stage: Stage) -> None:
        """The answer to the first may have been lost."""
        worker = await stage.worker()
        lease = await stage.claimed(worker, new_task(1))
        await worker.join(now=at(15))
        assert await stage.reap(10, now=at(34)) == 0
        assert await worker.beat(now=at(34))
        assert await worker.start([Start(lease)], now=at(34)) == [StartOutcome.STARTED]

    async def test_who_leaves_leads_no_more(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        assert await one.lead(now=at(1))
        await other.leave()
        await other.join(now=at(1))
        assert not await other.lead(now=at(1))
        await one.leave()
        assert await other.lead(now=at(1))

    async def test_the_dead_do_not_lead(self, stage: Stage) -> None:
        one = await stage.worker()
        await stage.reap(1, now=at(20))
        assert (await one.beat(now=at(20)), await one.lead(now=at(20))) == (False, False)

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
