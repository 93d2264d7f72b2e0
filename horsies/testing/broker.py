"""The suite every broker passes. A plugin's author subclasses it in a pytest module:

    class TestMine(BrokerConformance):
        @pytest.fixture
        async def broker(self, anyio_backend): ...   # yields an open Broker on an empty database

Instants are parameters throughout; no test sleeps. The suite needs pytest and anyio's plugin.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import anyio
import pytest

from horsies.abc import (
    Broker,
    ClaimedTask,
    Consumer,
    EnqueueOutcome,
    Finish,
    GiveBack,
    Lease,
    Listener,
    NewTask,
    Producer,
    StartOutcome,
    TaskRow,
    TaskStatus,
    Topic,
)

T0 = datetime(2040, 1, 1, tzinfo=UTC)
"""The beginning of time in these tests: the suite sets the clock, so any instant does."""
QUEUES = (("fast", 1), ("slow", 90))

P, C, R = TaskStatus.PENDING, TaskStatus.CLAIMED, TaskStatus.RUNNING
CHANGES = frozenset(
    {(P, C), (P, TaskStatus.EXPIRED), (C, R), (C, P), (C, TaskStatus.EXPIRED), (C, TaskStatus.FAILED)}
    | {(R, TaskStatus.COMPLETED), (R, TaskStatus.FAILED), (R, P)}
)
"""Every change of status that one call of a broker's method may make."""


def at(seconds: float) -> datetime:
    """`seconds` after the beginning."""
    return T0 + timedelta(seconds=seconds)


def new_task(n: int, *, queue: str = "fast", priority: int = 50, due_in: float = 0.0, **fields: object) -> NewTask:
    """The n-th task; its envelope is any bytes, because a broker never looks inside."""
    envelope = f"envelope {n}".encode()
    task = NewTask(
        task_id=str(UUID(int=n)),
        sha=hashlib.sha256(envelope).digest(),
        envelope=envelope,
        task_name="a_task",
        queue=queue,
        priority=priority,
        sent_at=T0,
        due_in=due_in,
        good_until=None,
    )
    return replace(task, **fields)  # type: ignore[arg-type]  # the fields of NewTask


class Stage:
    """A broker with its roles at hand."""

    def __init__(self, broker: Broker, producer: Producer, stack: AsyncExitStack) -> None:
        self.broker = broker
        self.producer = producer
        self._stack = stack

    async def worker(self, name: str = "w1", queues: Sequence[tuple[str, int]] = QUEUES) -> Consumer:
        """A worker that is alive at the beginning."""
        consumer = await self._stack.enter_async_context(self.broker.consumer(name, queues))
        await consumer.beat(now=T0)
        return consumer

    async def send(self, *tasks: NewTask, now: datetime = T0) -> list[EnqueueOutcome]:
        return await self.producer.enqueue(tasks, now=now)

    async def started(self, consumer: Consumer, task: NewTask) -> Lease:
        """`task` sent, claimed and started at the beginning."""
        await self.send(task)
        (claimed,) = (await consumer.claim(1, now=T0)).tasks
        assert await consumer.start([claimed.lease], now=T0) == [StartOutcome.STARTED]
        return claimed.lease

    async def row(self, n: int) -> TaskRow:
        row = await self.broker.reader.read(str(UUID(int=n)))
        assert row is not None
        return row

    async def status(self, n: int) -> TaskStatus:
        return (await self.row(n)).status


def ids(tasks: Sequence[ClaimedTask]) -> list[int]:
    """The numbers of claimed tasks, in order."""
    return [UUID(task.lease.task_id).int for task in tasks]


def done(lease: Lease, status: TaskStatus = TaskStatus.COMPLETED, **fields: object) -> Finish:
    code = None if status is TaskStatus.COMPLETED else "A_CODE"
    return replace(Finish(lease, status, b"result", code), **fields)  # type: ignore[arg-type]


@pytest.mark.anyio
class BrokerConformance:
    """Subclass it and provide the fixture `broker`."""

    @pytest.fixture
    async def stage(self, broker: Broker) -> AsyncIterator[Stage]:
        async with AsyncExitStack() as stack:
            producer = await stack.enter_async_context(broker.producer())
            yield Stage(broker, producer, stack)

    async def test_a_send_is_there_once(self, stage: Stage) -> None:
        one, other = new_task(1), new_task(2)
        changed = replace(one, sha=b"\1" * 32)
        assert await stage.send(one, other) == [EnqueueOutcome.INSERTED] * 2
        assert await stage.send(one, changed) == [EnqueueOutcome.REPLAYED, EnqueueOutcome.MISMATCH]
        row = await stage.row(1)
        assert (row.envelope, row.status, row.sent_at, row.due_at) == (one.envelope, TaskStatus.PENDING, T0, T0)

    async def test_one_id_twice_in_a_batch(self, stage: Stage) -> None:
        one = new_task(1)
        outcomes = await stage.send(one, one, replace(one, sha=b"\1" * 32))
        assert outcomes == [EnqueueOutcome.INSERTED, EnqueueOutcome.REPLAYED, EnqueueOutcome.MISMATCH]

    async def test_a_replay_changes_nothing_of_a_finished_task(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        await worker.finish([done(lease)], now=at(1))
        before = await stage.row(1)
        assert await stage.send(new_task(1), now=at(2)) == [EnqueueOutcome.REPLAYED]
        assert await stage.row(1) == before
        assert (await worker.claim(5, now=at(3))).tasks == ()

    async def test_claims_come_in_order(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, queue="slow", priority=1), new_task(2, priority=60))
        await stage.send(new_task(3, priority=60), new_task(4, priority=10), now=at(-1))
        await stage.send(new_task(6), new_task(5))
        claim = await worker.claim(10, now=at(1))
        assert ids(claim.tasks) == [4, 5, 6, 3, 2, 1]
        assert claim.tasks[0].overdue == pytest.approx(2)

    async def test_the_limit_is_a_true_bound_and_only_served_queues_count(self, stage: Stage) -> None:
        worker = await stage.worker(queues=(("slow", 1),))
        await stage.send(*(new_task(n) for n in range(1, 6)), *(new_task(n, queue="slow") for n in range(6, 10)))
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
        worker = await stage.worker()
        await stage.send(new_task(1))
        assert (await worker.claim(1, now=at(10_000))).tasks == ()
        await worker.leave()
        assert (await worker.claim(1, now=at(1))).tasks == ()
        await worker.beat(now=at(1))
        assert ids((await worker.claim(1, now=at(1))).tasks) == [1]

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

    async def test_start_is_fenced(self, stage: Stage) -> None:
        one, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(new_task(1))
        (claimed,) = (await one.claim(1, now=T0)).tasks
        stale = replace(claimed.lease, claim_number=claimed.lease.claim_number - 1)
        assert await other.start([claimed.lease], now=T0) == [StartOutcome.LOST]
        assert await one.start([stale, claimed.lease], now=T0) == [StartOutcome.LOST, StartOutcome.STARTED]
        assert await one.start([claimed.lease], now=T0) == [StartOutcome.LOST]
        row = await stage.row(1)
        assert (row.status, row.attempt, row.started_at, row.worker_id) == (TaskStatus.RUNNING, 1, T0, "w1")

    @pytest.mark.parametrize(("good_until", "expired"), [(5.0, True), (5.001, False)])
    async def test_the_deadline_is_strict_at_the_claim(self, stage: Stage, good_until: float, expired: bool) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, good_until=at(good_until)), new_task(2))
        claim = await worker.claim(5, now=at(5))
        assert (ids(claim.tasks), claim.expired) == (([2], 1) if expired else ([1, 2], 0))
        assert await stage.status(1) is (TaskStatus.EXPIRED if expired else TaskStatus.CLAIMED)

    @pytest.mark.parametrize(("good_until", "outcome"), [(5.0, StartOutcome.EXPIRED), (5.001, StartOutcome.STARTED)])
    async def test_the_deadline_is_strict_at_the_start(
        self, stage: Stage, good_until: float, outcome: StartOutcome
    ) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, good_until=at(good_until)))
        (claimed,) = (await worker.claim(1, now=at(1))).tasks
        assert await worker.start([claimed.lease], now=at(5)) == [outcome]
        assert (await stage.row(1)).attempt == (outcome is StartOutcome.STARTED)

    async def test_expired_rows_in_front_do_not_hide_what_stands_behind(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(*(new_task(n, priority=1, good_until=at(1)) for n in range(1, 51)), new_task(99))
        claim = await worker.claim(1, now=at(2))
        assert ids(claim.tasks) == [99] or claim.expired > 0
        assert await stage.status(1) is TaskStatus.EXPIRED

    async def test_expiry_is_bounded_and_takes_the_oldest_deadline_first(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(*(new_task(n, good_until=at(10 - n)) for n in range(1, 5)), new_task(5, due_in=60))
        await stage.send(new_task(6, due_in=60, good_until=at(1)))
        assert await worker.expire(2, now=at(9)) == 2
        assert [await stage.status(n) for n in (6, 4, 3)] == [
            TaskStatus.EXPIRED,
            TaskStatus.EXPIRED,
            TaskStatus.PENDING,
        ]
        assert await worker.expire(10, now=at(9)) == 3
        assert await worker.expire(10, now=at(9)) == 0

    async def test_finish_is_fenced_and_happens_once(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        lease = await stage.started(worker, new_task(1))
        assert await other.finish([done(lease)], now=at(1)) == [False]
        assert await worker.finish([done(replace(lease, claim_number=99))], now=at(1)) == [False]
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

    async def test_only_a_failure_may_end_what_never_started(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1))
        (claimed,) = (await worker.claim(1, now=T0)).tasks
        assert await worker.finish([done(claimed.lease)], now=at(1)) == [False]
        assert await worker.finish([done(claimed.lease, TaskStatus.PENDING)], now=at(1)) == [False]
        assert await worker.finish([done(claimed.lease, TaskStatus.FAILED)], now=at(1)) == [True]
        row = await stage.row(1)
        assert (row.status, row.attempt, row.error_code) == (TaskStatus.FAILED, 0, "A_CODE")

    async def test_a_retry_waits_and_is_remembered(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        assert await worker.finish([done(lease, TaskStatus.PENDING, retry_in=2.0)], now=at(1)) == [True]
        row = await stage.row(1)
        assert (row.status, row.retries, row.due_at, row.worker_id) == (TaskStatus.PENDING, 1, at(3), None)
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
        await worker.finish([done(lease, TaskStatus.PENDING, interrupted=True)], now=at(1))
        (again,) = (await worker.claim(1, now=at(1))).tasks
        assert (again.attempt, again.retries) == (1, 0)

    async def test_giving_back_burns_no_attempt_and_keeps_the_first_due_time(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.send(new_task(1))
        (claimed,) = (await worker.claim(1, now=at(1))).tasks
        assert await other.give_back([GiveBack(claimed.lease)], now=at(1)) == [False]
        assert await worker.give_back([GiveBack(claimed.lease, 2.0)], now=at(1)) == [True]
        assert await worker.give_back([GiveBack(claimed.lease)], now=at(1)) == [False]
        assert (await other.claim(1, now=at(2))).tasks == ()
        await other.promote(1, now=at(3))
        (again,) = (await other.claim(1, now=at(3))).tasks
        assert again.attempt == 0
        assert again.overdue == pytest.approx(3)
        assert (await stage.row(1)).due_at == T0

    async def test_leaving_gives_back_what_was_never_started(self, stage: Stage) -> None:
        worker, other = await stage.worker("w1"), await stage.worker("w2")
        await stage.started(worker, new_task(1))
        await stage.send(new_task(2), new_task(3))
        await worker.claim(5, now=at(1))
        assert await worker.leave() == 2
        assert [await stage.status(n) for n in (1, 2, 3)] == [
            TaskStatus.RUNNING,
            TaskStatus.PENDING,
            TaskStatus.PENDING,
        ]
        assert ids((await other.claim(5, now=at(1))).tasks) == [2, 3]

    async def test_ids_that_are_not_there_are_left_out(self, stage: Stage) -> None:
        await stage.send(new_task(1))
        asked = [str(UUID(int=n)) for n in (1, 2)]
        found = await stage.broker.reader.results([*asked, "nonsense", ""])
        assert [stored.task_id for stored in found] == asked[:1]
        assert await stage.broker.reader.results([]) == []
        for nonsense in (asked[1], "nonsense", ""):
            assert await stage.broker.reader.read(nonsense) is None

    async def test_sends_and_ends_are_noticed(self, stage: Stage) -> None:
        worker = await stage.worker()
        with anyio.fail_after(20):
            async with stage.broker.listen(Topic.QUEUES) as queues, stage.broker.listen(Topic.FINISHED) as finished:
                await stage.send(new_task(1), new_task(2, queue="slow", due_in=5))
                assert await heard(queues, {"fast", "+slow"})
                (claimed,) = (await worker.claim(1, now=at(1))).tasks
                await worker.start([claimed.lease], now=at(1))
                await worker.finish([done(claimed.lease)], now=at(1))
                assert await heard(finished, {claimed.lease.task_id})
                await stage.send(new_task(3, good_until=at(1)))
                await worker.expire(5, now=at(2))
                assert await heard(finished, {str(UUID(int=3))})

    async def test_another_attempt_is_noticed(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        with anyio.fail_after(20):
            async with stage.broker.listen(Topic.QUEUES) as queues:
                await worker.finish([done(lease, TaskStatus.PENDING, retry_in=2.0)], now=at(1))
                assert await heard(queues, {"+fast"})
                await worker.promote(5, now=at(3))
                assert await heard(queues, {"fast"})

    async def test_an_expiry_at_the_claim_and_at_the_start_is_noticed(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, good_until=at(2)))
        (claimed,) = (await worker.claim(1, now=at(1))).tasks
        await stage.send(new_task(2, good_until=at(2)))
        with anyio.fail_after(20):
            async with stage.broker.listen(Topic.FINISHED) as finished:
                await worker.claim(1, now=at(3))
                assert await heard(finished, {str(UUID(int=2))})
                await worker.start([claimed.lease], now=at(3))
                assert await heard(finished, {claimed.lease.task_id})

    async def test_a_commit_between_two_waits_is_noticed(self, stage: Stage) -> None:
        with anyio.fail_after(20):
            async with stage.broker.listen(Topic.QUEUES) as queues:
                for n in (1, 2):
                    await stage.send(new_task(n))
                    assert await heard(queues, {"fast"})

    async def test_what_is_no_id_is_found_nowhere(self, stage: Stage) -> None:
        for nonsense in ("\0", "\ud800", "'", str(UUID(int=1)) + "\n"):
            assert await stage.broker.reader.results([nonsense]) == []
            assert await stage.broker.reader.read(nonsense) is None

    async def test_a_heartbeat_of_exactly_dead_after_is_too_old(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1))
        assert (await worker.claim(1, now=at(20))).tasks == ()
        assert ids((await worker.claim(1, now=at(19.999))).tasks) == [1]

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
                    leases += [task.lease for task in (await worker.claim(4, now=now)).tasks]
                case 2 | 3:
                    await worker.start(leases[-4:], now=now)
                case 4 | 5:
                    status = random.choice((TaskStatus.COMPLETED, TaskStatus.FAILED, P))
                    await worker.finish(
                        [done(lease, status, retry_in=random.choice((0, 1))) for lease in some], now=now
                    )
                case 6:
                    await worker.give_back([GiveBack(lease, random.choice((0, 1))) for lease in some], now=now)
                case _:
                    await worker.expire(1, now=now)
            rows = [await stage.broker.reader.read(task_id) for task_id in before]
            after = {row.task_id: row.status for row in rows if row is not None}
            seen |= {(before[task_id], after[task_id]) for task_id in before if before[task_id] != after[task_id]}
            before = after
        assert seen <= CHANGES
        assert (P, C) in seen
        assert any(old is R for old, _ in seen)

    async def test_empty_batches_are_nothing(self, stage: Stage) -> None:
        worker = await stage.worker()
        assert await stage.send() == []
        assert await worker.start([], now=T0) == []
        assert await worker.finish([], now=T0) == []
        assert await worker.give_back([], now=T0) == []


async def heard(listener: Listener, names: set[str]) -> bool:
    """Receive until all of `names` were heard; an empty name stands for any."""
    missing = set(names)
    while missing:
        received = await listener.receive()
        if "" in received:
            return True
        missing -= set(received)
    return True
