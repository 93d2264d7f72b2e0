"""Who is told of what."""

from __future__ import annotations

from uuid import UUID

import anyio

from horsies.abc import (
    Start,
    TaskStatus,
    Topic,
)

from .stage import Stage, at, done, heard, new_task


class Noticing:
    """Who is told of what."""

    async def test_sends_and_ends_are_noticed(self, stage: Stage) -> None:
        worker = await stage.worker()
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as queues, stage.broker.listen(Topic.FINISHED) as finished:
                await stage.send(new_task(1), new_task(2, queue="slow", due_in=5))
                assert await heard(queues, {"ready:fast", "delayed:slow"})
                (claimed,) = (await worker.claim(1, now=at(1))).tasks
                await worker.start([Start(claimed.lease)], now=at(1))
                await worker.finish([done(claimed.lease)], now=at(1))
                assert await heard(finished, {claimed.lease.task_id})
                await stage.send(new_task(3, good_until=at(1)))
                await stage.maintenance.expire(5, now=at(2))
                assert await heard(finished, {str(UUID(int=3))})

    async def test_another_attempt_is_noticed(self, stage: Stage) -> None:
        worker = await stage.worker()
        lease = await stage.started(worker, new_task(1))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as queues:
                await worker.finish([done(lease, TaskStatus.PENDING, retry_in=2.0)], now=at(1))
                assert await heard(queues, {"delayed:fast"})
                await worker.promote(5, now=at(3))
                assert await heard(queues, {"ready:fast"})

    async def test_an_expiry_at_the_claim_and_at_the_start_is_noticed(self, stage: Stage) -> None:
        worker = await stage.worker()
        await stage.send(new_task(1, good_until=at(2)))
        (claimed,) = (await worker.claim(1, now=at(1))).tasks
        await stage.send(new_task(2, good_until=at(2)))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.FINISHED) as finished:
                await worker.claim(1, now=at(3))
                assert await heard(finished, {str(UUID(int=2))})
                await worker.start([Start(claimed.lease)], now=at(3))
                assert await heard(finished, {claimed.lease.task_id})

    async def test_a_commit_between_two_waits_is_noticed(self, stage: Stage) -> None:
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as queues:
                for n in (1, 2):
                    await stage.send(new_task(n))
                    assert await heard(queues, {"ready:fast"})

    async def test_cancelling_is_noticed(self, stage: Stage) -> None:
        worker = await stage.worker()
        running = await stage.started(worker, new_task(1))
        await stage.send(new_task(2))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work, stage.broker.listen(Topic.FINISHED) as finished:
                await stage.broker.control.cancel([running.task_id, str(UUID(int=2))], now=at(1))
                assert await heard(work, {f"cancel:{running.task_id}"})
                assert await heard(finished, {str(UUID(int=2))})

    async def test_reaping_is_noticed(self, stage: Stage) -> None:
        dead = await stage.worker()
        await stage.started(dead, new_task(1))
        await stage.claimed(dead, new_task(2))
        await stage.started(dead, new_task(3, queue="slow"), retry_after_crash=5.0)
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.WORK) as work, stage.broker.listen(Topic.FINISHED) as finished:
                await stage.reap(10, now=at(60))
                assert await heard(work, {"ready:fast", "delayed:slow"})
                assert await heard(finished, {str(UUID(int=1))})
