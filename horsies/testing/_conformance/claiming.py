"""From PENDING to RUNNING: order, bounds, deadlines and fences."""

from __future__ import annotations

from uuid import UUID

import anyio
import pytest
from msgspec.structs import replace

from horsies.abc import (
    Consumer,
    GiveBack,
    Start,
    StartOutcome,
    TaskStatus,
)

from .stage import T0, C, R, Stage, at, done, ids, new_task


class Claiming:
    """From PENDING to RUNNING: order, bounds, deadlines and fences."""

    async def test_claims_come_in_order(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, queue="slow", priority=1), new_task(2, priority=60))
        await stage.send(new_task(3, priority=60), new_task(4, priority=10), now=at(-1))
        await stage.send(new_task(6), new_task(5))
        claim = await worker.claim(10, now=at(1))
        assert ids(claim.tasks) == [4, 5, 6, 3, 2, 1]
        assert claim.claimed_at == at(1)
        assert (await worker.claim(10, now=at(1))).claimed_at is None

    async def test_the_best_come_first_however_few_are_asked_for(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(*(new_task(n, priority=100 - n) for n in range(1, 7)), new_task(9, queue="slow", priority=1))
        assert ids((await worker.claim(2, now=at(1))).tasks) == [6, 5]
        assert ids((await worker.claim(2, now=at(1))).tasks) == [4, 3]

    async def test_queues_of_one_rank_are_one_queue(self, stage: Stage) -> None:
        worker = await stage.worker(queues=(("slow", 1), ("fast", 1)))
        await stage.send(*(new_task(n, priority=n, queue="slow" if n % 2 else "fast") for n in range(1, 7)))
        assert ids((await worker.claim(4, now=at(1))).tasks) == [1, 2, 3, 4]

    async def test_what_is_due_by_a_later_clock_is_not_due_yet(self, stage: Stage) -> None:
        """The database's clock may step back, or another server take over."""
        worker = await stage.worker()
        await stage.send(new_task(1, priority=1), now=at(5))
        assert (await worker.claim(1, now=at(4.999))).tasks == ()
        await stage.send(new_task(2), new_task(3, queue="slow"), now=at(1))
        assert ids((await worker.claim(2, now=at(4.999))).tasks) == [2, 3]
        assert ids((await worker.claim(1, now=at(5))).tasks) == [1]

    async def test_the_limit_is_a_true_bound_and_only_served_queues_count(self, stage: Stage) -> None:
        worker = await stage.worker(queues=(("slow", 1),))
        await stage.send(*(new_task(n) for n in range(1, 6)), *(new_task(n, queue="slow") for n in range(6, 10)))
        assert await worker.has_due(now=at(1))
        assert ids((await worker.claim(3, now=at(1))).tasks) == [6, 7, 8]
        assert ids((await worker.claim(3, now=at(1))).tasks) == [9]
        assert not await worker.has_due(now=at(1))

    async def test_two_workers_share_and_never_meet(self, stage: Stage) -> None:
        workers = [await stage.worker(f"w{n}") for n in range(3)]
        await stage.send(*(new_task(n) for n in range(1, 61)))
        got: list[int] = []

        async def drain(worker: Consumer) -> None:
            for _ in range(30):
                got.extend(ids((await worker.claim(7, now=at(1))).tasks))

        async with anyio.create_task_group() as group:
            for worker in workers:
                group.start_soon(drain, worker)
        assert sorted(got) == list(range(1, 61))

    async def test_only_a_living_worker_claims(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(new_task(1))
        assert await other.beat(now=at(10_000))
        assert (await worker.claim(1, now=at(10_000))).tasks == ()
        await worker.leave()
        assert (await worker.claim(1, now=at(1))).tasks == ()
        assert not await worker.beat(now=at(1))
        assert (await worker.claim(1, now=at(1))).tasks == ()
        await worker.join(now=at(1))
        assert ids((await worker.claim(1, now=at(1))).tasks) == [1]

    async def test_a_heartbeat_of_exactly_dead_after_is_too_old(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1))
        assert (await worker.claim(1, now=at(20))).tasks == ()
        assert ids((await worker.claim(1, now=at(19.999))).tasks) == [1]
        await stage.send(new_task(2))
        await worker.beat(now=at(19.999))
        assert ids((await worker.claim(1, now=at(39))).tasks) == [2]

    async def test_a_delayed_task_waits_for_its_promotion(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, due_in=1.5), new_task(2, due_in=3))
        promotion = await worker.promote(10, now=at(0.5))
        assert promotion.promoted == 0
        assert promotion.next_due_in == pytest.approx(1.0)
        assert (await worker.claim(5, now=at(1))).tasks == ()
        assert await worker.has_due(now=at(1.5))
        promotion = await worker.promote(10, now=at(1.5))
        assert promotion.promoted == 1
        assert promotion.next_due_in == pytest.approx(1.5)
        assert ids((await worker.claim(5, now=at(1.5))).tasks) == [1]
        assert (await worker.promote(10, now=at(9))).next_due_in is None

    async def test_promotion_is_bounded(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(*(new_task(n, due_in=1) for n in range(1, 6)))
        promotion = await worker.promote(3, now=at(2))
        assert (promotion.promoted, promotion.next_due_in) == (3, 0.0)
        assert len((await worker.claim(9, now=at(2))).tasks) == 3
        assert (await worker.promote(3, now=at(2))).promoted == 2

    async def test_start_is_fenced(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(new_task(1))
        (claimed,) = (await one.claim(1, now=T0)).tasks
        stale = replace(claimed.lease, claim_number=claimed.lease.claim_number - 1)
        assert await other.start([Start(claimed.lease)], now=T0) == [StartOutcome.LOST]
        assert await one.start([Start(stale)], now=T0) == [StartOutcome.LOST]
        assert await stage.status(1) is TaskStatus.CLAIMED
        assert await one.start([Start(stale), Start(claimed.lease)], now=T0) == [
            StartOutcome.LOST,
            StartOutcome.STARTED,
        ]
        assert await one.start([Start(claimed.lease)], now=T0) == [StartOutcome.LOST]
        row = await stage.row(1)
        assert (row.status, row.attempt, row.started_at, row.worker_id) == (TaskStatus.RUNNING, 1, T0, "w1")

    async def test_a_claim_may_start_what_it_takes(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(new_task(1), new_task(2, task_name="another"), new_task(3, good_until=at(2)))
        claim = await worker.claim(5, startable={"a_task", "unheard of"}, now=at(1))
        assert [task.attempt for task in claim.tasks] == [0, 0, 0]
        for task in claim.tasks:
            row = await stage.row(UUID(task.lease.task_id).int)
            assert (row.worker_id, row.claimed_at) == ("w1", at(1))
            if not task.is_running:
                assert (row.status, row.attempt, row.started_at) == (C, 0, None)
                continue
            assert row.task_name == "a_task"
            assert (row.status, row.attempt, row.started_at) == (R, 1, at(1))
            assert await worker.start([Start(task.lease)], now=at(1)) == [StartOutcome.LOST]
            assert await other.finish([done(task.lease)], now=at(2)) == [False]
            assert await worker.finish([done(task.lease)], now=at(2)) == [True]
            assert await stage.status(UUID(task.lease.task_id).int) is TaskStatus.COMPLETED

    async def test_a_claim_passes_over_the_names_that_it_is_to_leave(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(*(new_task(n, priority=n, task_name="another") for n in range(1, 7)))
        await stage.send(new_task(7, priority=7), new_task(8, task_name="a third", priority=8, queue="slow"))
        await stage.send(new_task(9, priority=9, task_name="another", good_until=at(0.5)))
        assert ids((await worker.claim(2, without={"another"}, now=at(1))).tasks) == [7, 8]
        assert (await worker.claim(2, without=["another", "unheard of"], now=at(1))).tasks == ()
        assert ids((await worker.claim(4, without={"a_task"}, now=at(1))).tasks) == [1, 2, 3, 4]
        assert ids((await worker.claim(4, now=at(1))).tasks) == [5, 6]

    async def test_what_a_claim_started_fails_with_its_worker(self, stage: Stage) -> None:
        """Whatever an earlier attempt had stored for a crash."""
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        lease = await stage.started(worker, new_task(1), retry_after_crash=0.0)
        await worker.finish([done(lease, TaskStatus.PENDING)], now=at(1))
        await stage.begun(worker, 1, now=at(1))
        assert await other.beat(now=at(20))
        assert await stage.reap(10, now=at(20)) == 1
        row = await stage.row(1)
        assert (row.status, row.error_code, row.attempt) == (TaskStatus.FAILED, "WORKER_CRASHED", 2)

    async def test_what_was_deferred_has_its_first_due_time_once_it_runs(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.claimed(worker, new_task(1))
        await worker.give_back([GiveBack(lease, 3.0)], now=at(1))
        await worker.promote(1, now=at(5))
        (lease,) = await stage.begun(worker, 1, now=at(5))
        await worker.finish([done(lease, TaskStatus.PENDING, retry_in=1.0)], now=at(6))
        await worker.promote(1, now=at(8))
        (again,) = (await worker.claim(1, now=at(8))).tasks
        assert again.attempt == 1
        assert (await stage.row(1)).due_at == at(7)

    @pytest.mark.parametrize("startable", [(), ("a_task",)])
    @pytest.mark.parametrize(("good_until", "expired"), [(5.0, True), (5.001, False)])
    async def test_the_deadline_is_strict_at_the_claim(
        self, stage: Stage, good_until: float, expired: bool, startable: tuple[str, ...]
    ) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, good_until=at(good_until)), new_task(2))
        claim = await worker.claim(5, startable=startable, now=at(5))
        assert (ids(claim.tasks), claim.expired) == (([2], 1) if expired else ([1, 2], 0))
        row = await stage.row(1)
        assert row.status is (TaskStatus.EXPIRED if expired else R if claim.tasks[0].is_running else C)
        assert (row.attempt, row.started_at is not None) == ((1, True) if row.status is R else (0, False))

    @pytest.mark.parametrize(("good_until", "outcome"), [(5.0, StartOutcome.EXPIRED), (5.001, StartOutcome.STARTED)])
    async def test_the_deadline_is_strict_at_the_start(
        self, stage: Stage, good_until: float, outcome: StartOutcome
    ) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, good_until=at(good_until)))
        (claimed,) = (await worker.claim(1, now=at(1))).tasks
        assert await worker.start([Start(claimed.lease)], now=at(5)) == [outcome]
        assert (await stage.row(1)).attempt == (outcome is StartOutcome.STARTED)

    async def test_expired_rows_in_front_do_not_hide_what_stands_behind(self, stage: Stage) -> None:
        worker = await stage.worker()
        expired = [new_task(n, priority=1, good_until=at(2)) for n in range(1, 7_001)]
        for start in range(0, len(expired), 1_000):
            await stage.send(*expired[start : start + 1_000])
        await stage.send(new_task(9_999))
        claim = await worker.claim(1, now=at(2))
        assert ids(claim.tasks) == [9_999]
        assert 0 < claim.expired < 7_000
        while await stage.maintenance.expire(1_000, now=at(2)):
            pass
        assert [await stage.status(n) for n in (1, 7_000)] == [TaskStatus.EXPIRED] * 2

    async def test_expiry_takes_what_is_claimed_and_was_never_started(self, stage: Stage) -> None:
        worker = await stage.worker()
        running = await stage.started(worker, new_task(1, good_until=at(2)))
        held = await stage.claimed(worker, new_task(2, good_until=at(2)))
        await stage.claimed(worker, new_task(3, good_until=at(2.001)))
        assert await stage.maintenance.expire(10, now=at(1.999)) == 0
        assert await stage.maintenance.expire(10, now=at(2)) == 1
        assert await worker.start([Start(held)], now=at(2)) == [StartOutcome.LOST]
        assert [await stage.status(n) for n in (1, 2, 3)] == [
            TaskStatus.RUNNING,
            TaskStatus.EXPIRED,
            TaskStatus.CLAIMED,
        ]
        assert await worker.finish([done(running)], now=at(9)) == [True]

    async def test_expiry_is_bounded_and_takes_the_oldest_deadline_first(self, stage: Stage) -> None:
        await stage.send(*(new_task(n, good_until=at(10 - n)) for n in range(1, 5)), new_task(5, due_in=60))
        await stage.send(new_task(6, due_in=60, good_until=at(1)))
        assert await stage.maintenance.expire(2, now=at(9)) == 2
        assert [await stage.status(n) for n in (6, 4, 3)] == [
            TaskStatus.EXPIRED,
            TaskStatus.EXPIRED,
            TaskStatus.PENDING,
        ]
        assert await stage.maintenance.expire(10, now=at(9)) == 3
        assert await stage.maintenance.expire(10, now=at(9)) == 0
