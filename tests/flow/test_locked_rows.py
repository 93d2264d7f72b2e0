"""Somebody else's transaction has locked the row of a task that has ended: its result waits, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import psycopg
import pytest

from horsies import AppConfig, Horsies, Ok, RecoveryConfig, ResilienceConfig, RetryPolicy, Runtime, WorkerConfig
from horsies.abc import Claim, Consumer

pytestmark = pytest.mark.anyio

RECOVERY = RecoveryConfig(heartbeat_interval=0.1, dead_after=1.0, reap_interval=0.1)
RESILIENCE = ResilienceConfig(retry_max=0.5)


async def test_a_locked_row_holds_up_its_own_result_only(postgres_url: str, schema: str) -> None:
    app = Horsies(AppConfig.for_database_url(postgres_url, schema=schema, recovery=RECOVERY, resilience=RESILIENCE))
    started, release, runs = anyio.Event(), anyio.Event(), list[int]()

    @app.task
    async def held(n: int) -> int:
        runs.append(n)
        started.set()
        await release.wait()
        return n

    @app.task
    async def quick(n: int) -> int:
        await anyio.sleep(0.01)
        return n

    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=30))
        waiting = (await held.handle(rt).send(1)).unwrap()
        await started.wait()
        with psycopg.connect(postgres_url) as locker:
            locker.execute(f"SELECT FROM {schema}.tasks WHERE id = %s FOR UPDATE", (waiting.task_id,))
            release.set()
            began = anyio.current_time()
            # Longer than a worker may be silent, so its heartbeat got through as well.
            while anyio.current_time() < began + 2 * RECOVERY.dead_after:
                handles = [answer.unwrap() for answer in await quick.handle(rt).send_many([(n,) for n in range(50)])]
                with anyio.fail_after(RECOVERY.dead_after * 4):
                    assert [await handle.get() for handle in handles] == [Ok(n) for n in range(50)]
            info = (await waiting.info()).unwrap()
            assert info is not None
            assert info.status == "RUNNING"
        assert await waiting.get(timeout=10) == Ok(1)
        assert runs == [1]
        assert worker.statistics().lost == 0


async def test_a_result_that_waits_for_a_lock_is_written_before_the_worker_is_gone(
    postgres_url: str, schema: str
) -> None:
    app = Horsies(AppConfig.for_database_url(postgres_url, schema=schema))
    started, release, ended = anyio.Event(), anyio.Event(), anyio.Event()

    @app.task
    async def held() -> str:
        started.set()
        await release.wait()
        ended.set()
        return "written"

    async with Runtime(app) as rt:
        worker = rt.start_worker()
        handle = (await held.handle(rt).send()).unwrap()
        await started.wait()
        async with anyio.create_task_group() as group:
            with psycopg.connect(postgres_url) as locker:
                locker.execute(f"SELECT FROM {schema}.tasks WHERE id = %s FOR UPDATE", (handle.task_id,))
                release.set()
                await ended.wait()
                group.start_soon(worker.drain)
                await anyio.sleep(1.0)  # no race: however long, the drain must not end before the lock does
        assert await handle.get(timeout=1) == Ok("written")


async def test_a_task_whose_row_is_locked_when_it_is_to_start_starts_later(
    postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Horsies(AppConfig.for_database_url(postgres_url, schema=schema, recovery=RECOVERY, resilience=RESILIENCE))
    runs: list[int] = []

    @app.task(retry=RetryPolicy.fixed([1.0]), retry_for=("WORKER_CRASHED",))
    async def note(n: int) -> int:
        runs.append(n)
        return n

    async with Runtime(app) as rt:
        handles = [answer.unwrap() for answer in await note.handle(rt).send_many([(n,) for n in range(5)])]
        consumer = rt._engine.broker.consumer
        with psycopg.connect(postgres_url) as locker:

            @asynccontextmanager
            async def locking(worker_id: str, queues: Sequence[tuple[str, int]]) -> AsyncIterator[Consumer]:
                """Between the claim and the start somebody locks the row."""
                async with consumer(worker_id, queues) as real:
                    claim = real.claim

                    async def lock(limit: int, **given: Any) -> Claim:
                        claimed = await claim(limit, **given)
                        if not claimed.tasks:
                            return claimed  # it may be under way still when the lock is released below
                        locker.execute(f"SELECT FROM {schema}.tasks WHERE id = %s FOR UPDATE", (handles[2].task_id,))
                        return claimed

                    monkeypatch.setattr(real, "claim", lock)
                    yield real

            monkeypatch.setattr(rt._engine.broker, "consumer", locking)
            rt.start_worker()
            for n in (0, 1, 3, 4):
                assert await handles[n].get(timeout=20) == Ok(n)
            assert sorted(runs) == [0, 1, 3, 4]
            monkeypatch.undo()
            locker.rollback()
            assert await handles[2].get(timeout=20) == Ok(2)
            assert sorted(runs) == [0, 1, 2, 3, 4]
