"""From RUNNING, or CLAIMED, to wherever it goes."""

from __future__ import annotations

from random import Random
from uuid import UUID

import anyio
import pytest
from msgspec.structs import replace

from horsies.abc import (
    CancelOutcome,
    GiveBack,
    Held,
    Lease,
    Start,
    StartOutcome,
    TaskStatus,
    Topic,
)

from .stage import STEPS, T0, C, P, R, Stage, at, done, heard, ids, new_task, requested


class Ending:
    """From RUNNING, or CLAIMED, to wherever it goes."""

    async def test_finish_is_fenced_and_happens_once(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        lease = await stage.started(worker, new_task(1))
        assert await other.finish([done(lease)], now=at(1)) == [False]
        assert await worker.finish([done(replace(lease, claim_number=99))], now=at(1)) == [False]
        assert await stage.status(1) is TaskStatus.RUNNING
        assert await worker.finish([done(lease)], now=at(1)) == [True]
        assert await worker.finish([done(lease, TaskStatus.FAILED)], now=at(2)) == [False]
        row = await stage.row(1)
        assert (row.status, row.result, row.error_code, row.finished_at) == (
            TaskStatus.COMPLETED,
            b"result",
            None,
            at(1),
        )
        (stored,) = await stage.broker.reader.results([lease.task_id])
        assert (stored.task_name, stored.status, stored.result) == ("a_task", TaskStatus.COMPLETED, b"result")

    async def test_a_stale_end_beside_the_true_one_takes_nothing_from_it(self, stage: Stage) -> None:
        """A worker that was taken for dead, and claimed its own task again, can end both attempts at once."""
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        stale = replace(lease, claim_number=lease.claim_number - 1)
        ends = [done(stale, TaskStatus.FAILED), done(lease), done(lease, TaskStatus.FAILED)]
        assert await worker.finish(ends, now=at(1)) == [False, True, False]
        assert await stage.status(1) is TaskStatus.COMPLETED

    @pytest.mark.parametrize("has_begun", [True, False])
    async def test_only_a_failure_may_end_what_never_started(self, stage: Stage, has_begun: bool) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1))
        (claimed,) = (await worker.claim(1, now=T0)).tasks
        assert await worker.finish([done(claimed.lease)], now=at(1)) == [False]
        assert await worker.finish([done(claimed.lease, TaskStatus.PENDING)], now=at(1)) == [False]
        end = done(claimed.lease, TaskStatus.FAILED, has_begun=has_begun)
        assert await worker.finish([end], now=at(1)) == [True]
        row = await stage.row(1)
        assert (row.status, row.attempt, row.error_code) == (TaskStatus.FAILED, 0, "A_CODE")

    async def test_a_retry_waits_and_is_remembered(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        assert await worker.finish([done(lease, TaskStatus.PENDING, retry_in=2.0)], now=at(1)) == [True]
        row = await stage.row(1)
        assert (row.status, row.retries, row.due_at, row.worker_id) == (TaskStatus.PENDING, 1, at(3), None)
        assert (row.error_code, row.result) == (None, None)
        (attempt,) = row.attempts
        assert (attempt.attempt, attempt.worker_id, attempt.error_code) == (1, "w1", "A_CODE")
        assert (attempt.started_at, attempt.finished_at, attempt.result) == (T0, at(1), b"result")
        assert (await worker.claim(1, now=at(2))).tasks == ()
        await worker.promote(1, now=at(3))
        (again,) = (await worker.claim(1, now=at(3))).tasks
        assert again.lease.claim_number > lease.claim_number
        assert (again.attempt, again.retries) == (1, 1)
        assert await worker.finish([done(lease)], now=at(3)) == [False]

    @pytest.mark.parametrize("good_until", [3.0, 2.5])
    async def test_a_retry_at_or_past_the_deadline_is_a_failure(self, stage: Stage, good_until: float) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1, good_until=at(good_until)))
        assert await worker.finish([done(lease, TaskStatus.PENDING, retry_in=2.0)], now=at(1)) == [True]
        row = await stage.row(1)
        assert (row.status, row.result, row.attempts) == (TaskStatus.FAILED, b"result", ())

    async def test_an_interrupted_task_is_due_at_once_and_has_used_no_retry(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        await worker.finish([done(lease, TaskStatus.PENDING, interrupted=True, retry_in=5.0)], now=at(1))
        (again,) = (await worker.claim(1, now=at(1))).tasks
        assert (again.attempt, again.retries) == (1, 0)

    async def test_giving_back_burns_no_attempt_and_keeps_the_first_due_time(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(new_task(1))
        (claimed,) = (await worker.claim(1, now=at(1))).tasks
        assert await other.give_back([GiveBack(claimed.lease)], now=at(1)) == [False]
        assert await worker.give_back([GiveBack(replace(claimed.lease, claim_number=99))], now=at(1)) == [False]
        assert await stage.status(1) is TaskStatus.CLAIMED
        assert await worker.give_back([GiveBack(claimed.lease, 2.0)], now=at(1)) == [True]
        assert await worker.give_back([GiveBack(claimed.lease)], now=at(1)) == [False]
        assert (await other.claim(1, now=at(2))).tasks == ()
        assert (await other.promote(1, now=at(2))).next_due_in == pytest.approx(1)
        await other.promote(1, now=at(3))
        (again,) = (await other.claim(1, now=at(3))).tasks
        assert again.attempt == 0
        assert again.unknown_for == 0
        await other.give_back([GiveBack(again.lease, 2.0)], now=at(3))
        await other.promote(1, now=at(5))
        (third,) = (await other.claim(1, now=at(5))).tasks
        assert (await stage.row(1)).due_at == T0
        await other.start([Start(third.lease)], now=at(5))
        assert (await stage.row(1)).due_at == T0
        assert await other.give_back([GiveBack(third.lease)], now=at(5)) == [False]

    async def test_leaving_gives_back_what_was_never_started(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.started(worker, new_task(1))
        await stage.claimed(other, new_task(4))
        await stage.send(new_task(2), new_task(3))
        await worker.claim(5, now=at(1))
        assert await worker.leave() == 2
        assert await stage.status(4) is TaskStatus.CLAIMED
        assert [await stage.status(n) for n in (1, 2, 3)] == [
            TaskStatus.RUNNING,
            TaskStatus.PENDING,
            TaskStatus.PENDING,
        ]
        assert ids((await other.claim(5, now=at(1))).tasks) == [2, 3]

    async def test_what_a_worker_does_not_know_of_is_given_back(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        running = await stage.started(worker, new_task(1))
        known = await stage.claimed(worker, new_task(2))
        await stage.claimed(other, new_task(3))
        await stage.claimed(worker, new_task(4))
        assert await worker.give_back_unknown([known, running]) == 1
        assert [await stage.status(n) for n in (1, 2, 3, 4)] == [
            TaskStatus.RUNNING,
            TaskStatus.CLAIMED,
            TaskStatus.CLAIMED,
            TaskStatus.PENDING,
        ]
        (again,) = (await worker.claim(5, now=at(1))).tasks
        assert again.attempt == 0
        assert await worker.give_back_unknown([running]) == 2
        assert await stage.status(1) is TaskStatus.RUNNING

    async def test_what_a_lost_claim_has_started_never_began(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1), new_task(2))
        leases = await stage.begun(worker, 2, now=T0)
        assert await worker.give_back_unknown([], heard_until=at(-0.001)) == 2
        rows = [await stage.row(n) for n in (1, 2)]
        assert [(row.status, row.attempt, row.started_at, row.attempts) for row in rows] == [(P, 0, None, ())] * 2
        again = await worker.claim(2, startable={"a_task"}, now=at(1))
        assert [task.attempt for task in again.tasks] == [0, 0]
        assert {task.lease for task in again.tasks}.isdisjoint(leases)

    async def test_a_task_whose_end_was_lost_with_the_history_gets_its_crash_verdict(self, stage: Stage) -> None:
        """The worker had the answer to the claim, so the task began, whatever became of its end."""
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        lost = await stage.started(worker, new_task(1))
        again = await stage.started(worker, new_task(2), retry_after_crash=3.0)
        known = await stage.started(worker, new_task(3))
        await stage.claimed(worker, new_task(4))
        await stage.started(other, new_task(5))
        await stage.claimed(other, new_task(6))
        assert await worker.give_back_unknown([known], heard_until=T0, now=at(1)) == 3
        assert [await stage.status(n) for n in (5, 6)] == [R, TaskStatus.CLAIMED]
        rows = [await stage.row(n) for n in range(1, 5)]
        assert [(row.status, row.error_code, row.attempt, row.retries) for row in rows] == [
            (TaskStatus.FAILED, "WORKER_CRASHED", 1, 0),
            (P, None, 1, 1),
            (R, None, 1, 0),
            (P, None, 0, 0),
        ]
        assert rows[1].due_at == at(4)
        assert await worker.finish([done(lost), done(again), done(known)], now=at(2)) == [False, False, True]

    async def test_giving_back_what_a_claim_has_started_counts_no_attempt(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(*(new_task(n) for n in range(1, 5)))
        leases = await stage.begun(worker, 4, now=T0)
        await stage.broker.control.cancel([leases[1].task_id], now=T0)
        gifts = [GiveBack(lease, delay, is_running=True) for lease, delay in zip(leases, (0.0, 0.0, 2.0), strict=False)]
        assert await other.give_back(gifts, now=at(1)) == [False] * 3
        assert await worker.give_back([GiveBack(leases[0])], now=at(1)) == [False]
        async with stage.broker.listen(Topic.FINISHED) as finished, stage.broker.listen(Topic.WORK) as work:
            assert await worker.give_back(gifts, now=at(1)) == [True] * 3
            with anyio.fail_after(10):
                assert await heard(finished, {leases[1].task_id})
                assert await heard(work, {"ready:fast", "delayed:fast"})
        rows = [await stage.row(n) for n in range(1, 5)]
        assert [(row.status, row.attempt, row.started_at, row.finished_at) for row in rows] == [
            (P, 0, None, None),
            (TaskStatus.CANCELLED, 0, None, at(1)),
            (P, 0, None, None),
            (R, 1, T0, None),
        ]

    async def test_a_worker_sees_what_it_holds(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        running = await stage.started(worker, new_task(1))
        claimed = await stage.claimed(worker, new_task(2))
        cancelled = await stage.started(worker, new_task(3))
        await stage.claimed(other, new_task(4))
        ended = await stage.started(worker, new_task(5))
        await worker.finish([done(ended)], now=at(1))
        await stage.broker.control.cancel([cancelled.task_id], now=at(1))
        assert sorted(await worker.held(), key=lambda held: held.lease.task_id) == [
            Held(running),
            Held(claimed),
            Held(cancelled, is_cancelled=True),
        ]

    async def test_the_time_of_being_unknown_counts_from_the_first_worker_that_says_so(self, stage: Stage) -> None:
        """Not from the due time, and not beyond a start."""
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(new_task(1))
        (claimed,) = (await worker.claim(1, now=at(10))).tasks
        await worker.beat(now=at(10))
        assert claimed.unknown_for == 0
        await worker.give_back([GiveBack(claimed.lease, 2.0, unknown=True)], now=at(11))
        await other.beat(now=at(13))
        await other.promote(1, now=at(13))
        (again,) = (await other.claim(1, now=at(13))).tasks
        assert again.unknown_for == pytest.approx(2)
        await other.give_back([GiveBack(again.lease, 1.0, unknown=True)], now=at(13))
        await other.promote(1, now=at(14))
        (third,) = (await other.claim(1, now=at(14))).tasks
        assert third.unknown_for == pytest.approx(3)
        assert await other.start([Start(third.lease)], now=at(14)) == [StartOutcome.STARTED]
        await other.finish([done(third.lease, TaskStatus.PENDING)], now=at(15))
        (fourth,) = (await other.claim(1, now=at(15))).tasks
        assert fourth.unknown_for == 0

    async def test_claim_numbers_never_come_back(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(*(new_task(n) for n in range(1, 4)))
        numbers: list[int] = []
        for _ in range(5):
            claim = await worker.claim(3, now=T0)
            assert {task.lease.claim_number > (numbers or [0])[-1] for task in claim.tasks[:1]} == {True}
            numbers.append(claim.tasks[0].lease.claim_number)
            await worker.give_back([GiveBack(task.lease) for task in claim.tasks], now=T0)

    async def test_what_a_lost_claim_has_started_and_somebody_cancelled_is_cancelled(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1), new_task(2))
        leases = await stage.begun(worker, 2, now=T0)
        assert await stage.broker.control.cancel([leases[0].task_id], now=T0) == [CancelOutcome.REQUESTED]
        async with stage.broker.listen(Topic.FINISHED) as listener:
            assert await worker.give_back_unknown([], now=at(1)) == 2
            with anyio.fail_after(10):
                assert await heard(listener, {leases[0].task_id})
        rows = [await stage.row(n) for n in (1, 2)]
        assert [(row.status, row.attempt, row.finished_at) for row in rows] == [
            (TaskStatus.CANCELLED, 0, at(1)),
            (P, 0, None),
        ]
        assert await requested(worker) == []

    async def test_what_never_began_has_burnt_no_attempt(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1), new_task(2), new_task(3))
        leases = await stage.begun(worker, 3, now=T0)
        assert await stage.broker.control.cancel([leases[1].task_id], now=T0) == [CancelOutcome.REQUESTED]
        begun = (False, False, True)
        ends = [
            done(lease, TaskStatus.FAILED, has_begun=has_begun) for lease, has_begun in zip(leases, begun, strict=True)
        ]
        assert await worker.finish(ends, now=at(1)) == [True] * 3
        rows = [await stage.row(n) for n in (1, 2, 3)]
        assert [(row.status, row.attempt, row.started_at) for row in rows] == [
            (TaskStatus.FAILED, 0, None),
            (TaskStatus.CANCELLED, 0, None),
            (TaskStatus.FAILED, 1, T0),
        ]

    async def test_the_dead_hold_nothing(self, stage: Stage) -> None:
        dead, living = await stage.worker("w1"), await stage.worker("w2")
        first = await stage.started(dead, new_task(1))
        again = await stage.started(dead, new_task(2), retry_after_crash=5.0)
        late = await stage.started(dead, new_task(3, good_until=at(25)), retry_after_crash=5.0)
        cancelled = await stage.started(dead, new_task(4), retry_after_crash=5.0)
        held = await stage.claimed(dead, new_task(5))
        await stage.claimed(dead, new_task(6, good_until=at(20)))
        await stage.broker.control.cancel([cancelled.task_id], now=at(1))
        assert await living.beat(now=at(19.999))
        assert await stage.reap(10, now=at(19.999)) == 0
        assert await living.beat(now=at(20))
        assert await stage.reap(4, now=at(20)) == 4
        assert await stage.reap(10, now=at(20)) == 2
        assert await stage.reap(10, now=at(20)) == 0
        rows = [await stage.row(n) for n in range(1, 7)]
        assert [(row.status, row.error_code, row.attempt, row.retries) for row in rows] == [
            (TaskStatus.FAILED, "WORKER_CRASHED", 1, 0),
            (TaskStatus.PENDING, None, 1, 1),
            (TaskStatus.FAILED, "WORKER_CRASHED", 1, 0),
            (TaskStatus.CANCELLED, "WORKER_CRASHED", 1, 0),
            (TaskStatus.PENDING, None, 0, 0),
            (TaskStatus.EXPIRED, None, 0, 0),
        ]
        assert (rows[1].due_at, rows[4].due_at) == (at(25), T0)
        (attempt,) = rows[1].attempts
        assert (attempt.worker_id, attempt.error_code, attempt.result) == ("w1", "WORKER_CRASHED", None)
        (stored,) = await stage.broker.reader.results([first.task_id])
        assert (stored.error_code, stored.result) == ("WORKER_CRASHED", None)
        # The living one is still alive, and goes on with what came back.
        assert ids((await living.claim(5, now=at(21))).tasks) == [5]
        # The other was frozen; now it thaws, hears that it is dead, and nothing is its own any more.
        assert not await dead.beat(now=at(21))
        assert (await dead.claim(5, now=at(21))).tasks == ()
        assert await dead.finish([done(lease) for lease in (first, again, late, cancelled)], now=at(21)) == [False] * 4
        assert await dead.start([Start(held)], now=at(21)) == [StartOutcome.LOST]

    async def test_a_database_that_was_away_kills_nobody(self, stage: Stage) -> None:
        """A heartbeat can be of any age: dead is only who was found dead."""
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        assert await worker.beat(now=at(1_000))
        assert await stage.reap(10, now=at(1_000)) == 0
        assert await worker.finish([done(lease)], now=at(1_001)) == [True]

    async def test_who_is_not_registered_holds_nothing(self, stage: Stage) -> None:
        gone = await stage.worker()
        await stage.started(gone, new_task(1))
        await gone.leave()
        assert await stage.reap(10, now=at(1)) == 1
        assert await stage.status(1) is TaskStatus.FAILED

    async def test_what_has_not_started_is_cancelled_at_once(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.claimed(worker, new_task(1))
        await stage.send(new_task(2), new_task(3, due_in=9))
        asked = [str(UUID(int=n)) for n in (1, 2, 3, 4)]
        outcomes = await stage.broker.control.cancel([*asked, "nonsense"], now=at(1))
        assert outcomes == [CancelOutcome.CANCELLED] * 3 + [CancelOutcome.NOT_FOUND] * 2
        assert await stage.broker.control.cancel(asked[:1], now=at(2)) == [CancelOutcome.ALREADY_FINISHED]
        assert await worker.start([Start(lease)], now=at(2)) == [StartOutcome.LOST]
        assert await worker.give_back([GiveBack(lease)], now=at(2)) == [False]
        assert await worker.finish([done(lease, TaskStatus.FAILED)], now=at(2)) == [False]
        row = await stage.row(1)
        assert (row.status, row.attempt, row.finished_at, row.worker_id) == (TaskStatus.CANCELLED, 0, at(1), None)
        await worker.promote(5, now=at(10))
        assert (await worker.claim(5, now=at(10))).tasks == ()

    @pytest.mark.parametrize(
        ("status", "ends"),
        [
            (TaskStatus.COMPLETED, TaskStatus.COMPLETED),
            (TaskStatus.FAILED, TaskStatus.CANCELLED),
            (TaskStatus.PENDING, TaskStatus.CANCELLED),
        ],
    )
    async def test_what_runs_is_asked_to_end_and_never_tried_again(
        self, stage: Stage, status: TaskStatus, ends: TaskStatus
    ) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        lease = await stage.started(worker, new_task(1))
        assert await requested(worker) == []
        for _ in range(2):
            assert await stage.broker.control.cancel([lease.task_id], now=at(1)) == [CancelOutcome.REQUESTED]
        row = await stage.row(1)
        assert (row.status, row.cancel_requested) == (TaskStatus.RUNNING, True)
        assert await requested(worker) == [lease]
        assert await requested(other) == []
        assert await worker.finish([done(lease, status, interrupted=status is P)], now=at(3)) == [True]
        row = await stage.row(1)
        assert (row.status, row.attempts) == (ends, ())
        assert await requested(worker) == []
        assert await stage.broker.control.cancel([lease.task_id]) == [CancelOutcome.ALREADY_FINISHED]

    @pytest.mark.parametrize("seed", range(3))
    async def test_no_change_of_status_but_those_of_the_table(self, stage: Stage, seed: int) -> None:
        """A walk over all methods at random instants, with stale and foreign leases."""
        random = Random(seed)
        workers = [await stage.worker("w1"), await stage.worker("w2")]
        numbers = range(1, 13)
        await stage.send(
            *(new_task(n, due_in=random.choice((0, 3)), good_until=random.choice((None, at(n)))) for n in numbers)
        )
        leases = [Lease(str(UUID(int=n)), 1) for n in numbers]
        before = dict.fromkeys((lease.task_id for lease in leases), P)
        seen = set()
        for second in range(60):
            worker, now = random.choice(workers), at(second / 4)
            some = random.sample(leases, 3)
            match random.randrange(8):
                case 0 | 1:
                    await worker.promote(5, now=now)
                    startable = random.choice(((), ("a_task",)))
                    leases += [task.lease for task in (await worker.claim(4, startable=startable, now=now)).tasks]
                case 2 | 3:
                    await worker.start([Start(lease) for lease in leases[-4:]], now=now)
                case 4 | 5:
                    status = random.choice((TaskStatus.COMPLETED, TaskStatus.FAILED, P))
                    await worker.finish(
                        [done(lease, status, retry_in=random.choice((0, 1))) for lease in some], now=now
                    )
                case 6:
                    await worker.give_back([GiveBack(lease, random.choice((0, 1))) for lease in some], now=now)
                case _:
                    await stage.maintenance.expire(1, now=now)
            rows = [await stage.broker.reader.read(task_id) for task_id in before]
            after = {row.task_id: row.status for row in rows if row is not None}
            seen |= {(before[task_id], after[task_id]) for task_id in before if before[task_id] != after[task_id]}
            before = after
        assert seen <= STEPS
        assert (P, C) in seen
        assert any(old is R for old, _ in seen)
