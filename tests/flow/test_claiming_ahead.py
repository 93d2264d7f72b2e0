"""A quick worker claims more than it has slots for; that is nobody's loss when its tasks turn out to be slow."""

from __future__ import annotations

import threading
from collections import Counter

import anyio
import psycopg
import pytest

from horsies import AppConfig, Horsies, Ok, QueueConfig, RetryPolicy, Runtime, WorkerConfig
from horsies._runtime.engine import Engine
from horsies._worker.intake import dispatcher
from horsies._worker.intake.decide import Timings
from horsies._worker.intake.prefetch import Prefetch

from .conftest import until

pytestmark = pytest.mark.anyio


class Quick(Prefetch):
    """As if the worker had just got through many tasks, wherever its configuration lets it claim ahead at all."""

    wanted = 2

    def ahead(self, now: float) -> int:
        return min(self._most, self.wanted)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "Prefetch", Quick)


class Blocking:
    """An application whose one task waits to be let go."""

    def __init__(self, config: AppConfig) -> None:
        self.app = Horsies(config)
        self.go_on = anyio.Event()
        self.runs = Counter[int]()

        @self.app.task(retry=RetryPolicy.fixed([0.01]), retry_for=("WORKER_CRASHED",))
        async def block(n: int) -> int:
            self.runs[n] += 1
            await self.go_on.wait()
            return n

        self.block = block


async def test_what_stands_behind_slow_tasks_goes_to_another_worker(
    config: AppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "timings", Timings(patience=0.05))
    slow = Blocking(config)
    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = [answer.unwrap() for answer in await slow.block.handle(rt).send_many([(n,) for n in range(4)])]
        await until(lambda: worker.statistics().ready == 2)
        monkeypatch.setattr(Quick, "wanted", 0)
        await until(lambda: worker.statistics().given_back >= 2 and not worker.statistics().ready)
        assert worker.statistics().running == 2
        other = rt.start_worker(WorkerConfig(concurrency=2))
        await until(lambda: other.statistics().running == 2)
        slow.go_on.set()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
    assert slow.runs == dict.fromkeys(range(4), 1)


async def test_what_is_ahead_waits_for_a_slot_wherever_it_will_run(config: AppConfig) -> None:
    """Threads are free while the nursery is full, but the concurrency is that of both together."""
    slow = Blocking(config)
    go_on, most = threading.Event(), 0

    @slow.app.task(retry=RetryPolicy.fixed([0.01]), retry_for=("WORKER_CRASHED",))
    def hold() -> None:
        nonlocal most
        most = max(most, worker.statistics().running)
        go_on.wait(20)

    async with Runtime(slow.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        await slow.block.handle(rt).send_many([(n,) for n in range(2)])
        await until(lambda: worker.statistics().running == 2)
        handles = [answer.unwrap() for answer in await hold.handle(rt).send_many([()] * 2)]
        await until(lambda: worker.statistics().claimed == 4)
        go_on.set()
        slow.go_on.set()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(None)] * 2
    assert most <= 2


@pytest.mark.parametrize("cap", [{"cluster_wide_cap": 50}, {"queues": (QueueConfig("default", max_concurrency=50),)}])
async def test_where_there_is_a_cap_nothing_is_claimed_ahead(config: AppConfig, cap: dict[str, object]) -> None:
    capped = Blocking(AppConfig.for_database_url(config.url, schema=config.schema, **cap))
    async with Runtime(capped.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        await capped.block.handle(rt).send_many([(n,) for n in range(4)])
        await until(lambda: worker.statistics().running == 2)
        assert worker.statistics().ready == 0
        capped.go_on.set()
        await until(lambda: worker.statistics().completed == 4)
    assert worker.statistics().given_back == 0


async def test_a_claim_that_a_crash_of_the_server_undid_is_not_run_twice(
    postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quick, "wanted", 1)
    monkeypatch.setattr(Engine, "timings", Timings(patience=60.0))
    blocking = Blocking(AppConfig.for_database_url(postgres_url, schema=schema))
    block = blocking.block
    async with Runtime(blocking.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2))
        handles = [answer.unwrap() for answer in await block.handle(rt).send_many([(n,) for n in range(3)])]
        await until(lambda: (worker.statistics().running, worker.statistics().ready) == (2, 1))
        # The commit of a claim does not wait for the disk: what a crash loses of it is all of it.
        with psycopg.connect(postgres_url) as connection:
            connection.execute(
                f"UPDATE {schema}.tasks SET phase = 1, status = 'PENDING', worker_id = NULL, claimed_at = NULL, "
                "claim_number = claim_number - 1 WHERE status = 'CLAIMED'"
            )
        monkeypatch.setattr(Quick, "wanted", 2)
        handles.append((await block.handle(rt).send(3)).unwrap())
        await until(lambda: worker.statistics().claimed == 4)
        blocking.go_on.set()
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(n) for n in range(4)]
    assert blocking.runs == dict.fromkeys(range(4), 1)
    assert worker.statistics().lost == 0
