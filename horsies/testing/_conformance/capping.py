"""Paused queues, and how many tasks may be held at once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from horsies.abc import Broker, Consumer, Finish, Start, TaskStatus, Topic

from .stage import Stage, at, done, heard, ids, new_task


class Capping:
    """Paused queues, and how many tasks may be held at once."""

    @pytest.fixture
    async def capped(self, capped_broker: Broker) -> AsyncIterator[Stage]:
        """On a broker that lets 2 tasks of the queue `fast` be held, and 3 of all."""
        async with Stage.on(capped_broker) as stage:
            yield stage

    async def test_a_cap_counts_what_is_claimed_and_what_runs(self, capped: Stage) -> None:
        one, other = await capped.worker("w1"), await capped.worker("w2")
        await capped.send(*(new_task(n) for n in range(1, 9)))
        first, _ = (await one.claim(10, now=at(1))).tasks
        assert (await one.claim(10, now=at(1))).tasks == ()
        await one.start([Start(first.lease)], now=at(1))
        assert (await other.claim(10, now=at(1))).tasks == ()
        await one.finish([done(first.lease)], now=at(2))
        assert ids((await other.claim(10, now=at(2))).tasks) == [3]
        await one.leave()
        assert ids((await other.claim(10, now=at(2))).tasks) == [2]

    async def test_a_cap_holds_up_no_other_queue(self, capped: Stage) -> None:
        worker = await capped.worker()
        await capped.send(*(new_task(n) for n in range(1, 5)), new_task(9, queue="slow"))
        assert ids((await worker.claim(10, now=at(1))).tasks) == [1, 2, 9]

    async def test_the_cap_of_all_counts_every_queue(self, capped: Stage) -> None:
        slow, fast = await capped.worker("w1", queues=(("slow", 1),)), await capped.worker("w2", queues=(("fast", 1),))
        await capped.send(*(new_task(n, queue="slow") for n in range(1, 6)), new_task(9))
        assert ids((await slow.claim(10, now=at(1))).tasks) == [1, 2, 3]
        assert (await fast.claim(10, now=at(1))).tasks == ()

    async def test_what_expires_at_the_claim_takes_no_room(self, capped: Stage) -> None:
        worker = await capped.worker()
        await capped.send(*(new_task(n, good_until=at(1)) for n in range(1, 5)), *(new_task(n) for n in range(5, 9)))
        claim = await worker.claim(10, now=at(1))
        assert ids(claim.tasks) == [5, 6]

    async def test_many_who_claim_at_once_stay_under_the_cap(self, capped: Stage) -> None:
        workers = [await capped.worker(f"w{n}") for n in range(6)]
        await capped.send(*(new_task(n) for n in range(1, 41)))
        most, held, ended = 0, 0, 0

        async def work(worker: Consumer) -> None:
            nonlocal most, held, ended
            with anyio.fail_after(30):
                while ended < 40:
                    claimed = (await worker.claim(4, now=at(1))).tasks
                    held += len(claimed)
                    most = max(most, held)
                    await worker.start([Start(task.lease) for task in claimed], now=at(1))
                    # Given up before it is: what others count is never less than this.
                    held -= len(claimed)
                    await worker.finish([done(task.lease) for task in claimed], now=at(1))
                    ended += len(claimed)

        async with anyio.create_task_group() as group:
            for worker in workers:
                group.start_soon(work, worker)
        assert (most, ended) == (2, 40)

    async def test_an_end_that_makes_room_is_noticed(self, capped: Stage) -> None:
        worker = await capped.worker()
        lease = await capped.started(worker, new_task(1))
        with anyio.fail_after(10):
            async with capped.broker.listen(Topic.WORK) as work:
                await worker.finish([Finish(lease, TaskStatus.COMPLETED, b"", None)], now=at(1))
                assert await heard(work, {"ready:fast"})

    async def test_a_death_that_makes_room_is_noticed(self, capped: Stage) -> None:
        await capped.started(await capped.worker(), new_task(1))
        with anyio.fail_after(10):
            async with capped.broker.listen(Topic.WORK) as work:
                await capped.reap(10, now=at(60))
                assert await heard(work, {"ready:fast"})

    async def test_a_paused_queue_is_not_claimed_from(self, stage: Stage) -> None:
        worker = await stage.worker()
        held = await stage.claimed(worker, new_task(1))
        await stage.send(new_task(2), new_task(3, queue="slow"), new_task(4, due_in=1))
        assert await stage.broker.control.pause("fast", now=at(1))
        assert not await stage.broker.control.pause("fast", now=at(2))
        assert ids((await worker.claim(5, now=at(1))).tasks) == [3]
        assert not await worker.has_due(now=at(9))
        # What was claimed before may go on.
        await worker.start([Start(held)], now=at(1))
        assert await worker.finish([done(held)], now=at(1)) == [True]
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work:
                assert await stage.broker.control.resume("fast")
                assert await heard(work, {"ready:fast"})
        assert not await stage.broker.control.resume("fast")
        assert await worker.has_due(now=at(1))
        assert ids((await worker.claim(5, now=at(1))).tasks) == [2]

    async def test_queues_show_what_stands_in_them(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.started(worker, new_task(1))
        await stage.claimed(worker, new_task(2))
        await worker.finish([done(await stage.started(worker, new_task(3)))], now=at(1))
        await stage.send(new_task(4), now=at(1))
        await stage.send(new_task(5), new_task(6, due_in=60), new_task(7, queue="slow", due_in=60), now=at(2))
        await stage.broker.control.pause("fast", now=at(3))
        await stage.broker.control.pause("empty", now=at(4))
        rows = {row.name: row for row in await stage.broker.reader.queues()}
        fast = rows["fast"]
        assert (fast.ready, fast.delayed, fast.claimed, fast.running) == (2, 1, 1, 1)
        assert (fast.paused_at, fast.oldest_due_at) == (at(3), at(1))
        slow, empty = rows["slow"], rows["empty"]
        assert (slow.ready, slow.delayed, slow.paused_at, slow.oldest_due_at) == (0, 1, None, None)
        assert (empty.ready, empty.delayed, empty.claimed, empty.running, empty.paused_at) == (0, 0, 0, 0, at(4))
        await stage.broker.control.resume("empty")
        assert {row.name: row.paused_at for row in await stage.broker.reader.queues()}["empty"] is None
