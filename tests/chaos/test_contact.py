"""After an outage one answer ends the pauses of all loops."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import anyio
import anyio.to_thread
import pytest

from horsies import (
    AppConfig,
    Every,
    Horsies,
    NodeRef,
    Ok,
    PoolConfig,
    RecoveryConfig,
    ResilienceConfig,
    Runtime,
    WorkerConfig,
    WorkflowBuilder,
)
from horsies.testing.postgres import EmbeddedServer, embedded_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

NEVER = 600.0
"""Seconds: a loop that sleeps its own pause, or polls, fails the test."""


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    with embedded_server(durable=False) as server:
        yield server


async def test_the_answer_to_a_send_ends_every_pause(
    server: EmbeddedServer, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Horsies(
        AppConfig.for_database_url(
            server.url,
            schema=schema,
            resilience=ResilienceConfig(retry_initial=NEVER, retry_max=NEVER, poll_interval=NEVER),
            recovery=RecoveryConfig(heartbeat_interval=NEVER, dead_after=4 * NEVER, reap_interval=NEVER),
            pool=PoolConfig(timeout=2.0),
        )
    )
    release = anyio.Event()

    @app.task("held")
    async def held(n: int) -> int:
        await release.wait()
        return n

    @app.task("quick")
    async def quick(n: int) -> int:
        return n

    @app.workflow("chain")
    def chain(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(quick.node(wf.task(held.node(1))))

    app.schedule("tick", quick, Every(timedelta(seconds=0.5)), args=(7,))

    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=20))
        handles = [(await held.handle(rt).send(n)).unwrap() for n in range(3)]
        workflow = (await chain.handle(rt).start()).unwrap()
        results: list[object] = []

        async def wait() -> None:
            results.extend([await handle.get() for handle in handles])
            results.append(await workflow.get())

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await logged(caplog, lambda: worker.statistics().running == 4)
            await anyio.to_thread.run_sync(server.stop)
            release.set()
            for loop in (
                "no notifications of finished tasks",
                f"worker {worker.worker_id}: no notifications",
                "results, trying again",
                "cannot look after the schedules",
            ):
                await logged(caplog, lambda loop=loop: loop in caplog.text)
            assert (await quick.handle(rt).send(1)).unwrap_err().retryable
            await anyio.to_thread.run_sync(server.start)
            with anyio.fail_after(60):
                answer = await quick.handle(rt).send(2)
                while answer.is_err():
                    answer = await quick.handle(rt).retry_send(answer.unwrap_err())
                assert await answer.unwrap().get() == Ok(2)
                while len(results) < 4:
                    await anyio.sleep(0.01)
        assert results == [*(Ok(n) for n in range(3)), Ok(1)]
        assert worker.statistics().lost == 0


async def logged(caplog: pytest.LogCaptureFixture, condition: object) -> None:
    """Wait for what no event tells."""
    assert callable(condition)
    with anyio.fail_after(30):
        while not condition():
            await anyio.sleep(0.01)
