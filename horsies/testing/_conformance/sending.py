"""What a send stores, and what it meets."""

from __future__ import annotations

from uuid import UUID

from msgspec.structs import replace

from horsies.abc import (
    EnqueueOutcome,
    Start,
    TaskStatus,
)

from .stage import T0, Stage, at, done, new_task


class Sending:
    """What a send stores, and what it meets."""

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

    async def test_a_unique_key_is_held_until_the_end(self, stage: Stage) -> None:
        worker = await stage.worker()
        one, two, three = (new_task(n, unique_key="k") for n in (1, 2, 3))
        same_key_of_another = new_task(4, unique_key="k", task_name="another", queue="slow")
        lease = await stage.started(worker, one)
        answers = await stage.producer.enqueue([two, same_key_of_another, one], now=at(1))
        assert [(answer.outcome, answer.task_id) for answer in answers] == [
            (EnqueueOutcome.DEDUPLICATED, one.task_id),
            (EnqueueOutcome.INSERTED, same_key_of_another.task_id),
            (EnqueueOutcome.REPLAYED, one.task_id),
        ]
        assert await stage.broker.reader.read(two.task_id) is None
        await worker.finish([done(lease, TaskStatus.PENDING, retry_in=5)], now=at(1))
        assert await stage.send(two, now=at(2)) == [EnqueueOutcome.DEDUPLICATED]
        await worker.promote(5, now=at(6))
        (again,) = (await worker.claim(1, now=at(6))).tasks
        await worker.start([Start(again.lease)], now=at(6))
        await worker.finish([done(again.lease)], now=at(6))
        assert await stage.send(three, one, two, now=at(7)) == [
            EnqueueOutcome.INSERTED,
            EnqueueOutcome.REPLAYED,
            EnqueueOutcome.DEDUPLICATED,
        ]

    async def test_the_holder_of_a_key_is_the_unfinished_one(self, stage: Stage) -> None:
        worker = await stage.worker()
        for n in (2, 9):
            lease = await stage.started(worker, new_task(n, unique_key="k"))
            await worker.finish([done(lease)], now=T0)
        await stage.send(new_task(5, unique_key="k"))
        (answer,) = await stage.producer.enqueue([new_task(6, unique_key="k")], now=at(1))
        assert (answer.outcome, answer.task_id) == (EnqueueOutcome.DEDUPLICATED, new_task(5).task_id)

    async def test_one_key_twice_in_a_batch(self, stage: Stage) -> None:
        tasks = [new_task(n, unique_key="k") for n in (1, 2)]
        answers = await stage.producer.enqueue(tasks, now=T0)
        assert [answer.outcome for answer in answers] == [EnqueueOutcome.INSERTED, EnqueueOutcome.DEDUPLICATED]
        assert {answer.task_id for answer in answers} == {tasks[0].task_id}

    async def test_ids_that_are_not_there_are_left_out(self, stage: Stage) -> None:
        await stage.send(new_task(1))
        asked = [str(UUID(int=n)) for n in (1, 2)]
        found = await stage.broker.reader.results([*asked, "nonsense", ""])
        assert [stored.task_id for stored in found] == asked[:1]
        assert await stage.broker.reader.results([]) == []
        for nonsense in (asked[1], "nonsense", ""):
            assert await stage.broker.reader.read(nonsense) is None

    async def test_what_is_no_id_is_found_nowhere(self, stage: Stage) -> None:
        for nonsense in ("\0", "\ud800", "'", str(UUID(int=1)) + "\n"):
            assert await stage.broker.reader.results([nonsense]) == []
            assert await stage.broker.reader.read(nonsense) is None

    async def test_empty_batches_are_nothing(self, stage: Stage) -> None:
        worker = await stage.worker()
        assert await stage.send() == []
        assert await worker.start([], now=T0) == []
        assert await worker.finish([], now=T0) == []
        assert await worker.give_back([], now=T0) == []
        assert await stage.broker.control.cancel([], now=T0) == []
