"""A worker that cannot write its results starts nothing more, and goes on once it can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import psycopg
import pytest

from horsies import AppConfig, Horsies, QueueConfig, ResilienceConfig, Runtime, Worker, WorkerConfig
from horsies._worker import completer

from .conftest import held_up

pytestmark = pytest.mark.anyio

NEVER = 600.0
"""Seconds: whoever waits for the poll interval fails the test."""
RESILIENCE = ResilienceConfig(retry_initial=0.02, retry_max=0.1, poll_interval=NEVER)
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@contextmanager
def full_disk(config: AppConfig) -> Iterator[None]:
    """In the block there is no room for results, while everything else can be written."""
    schema = config.schema
    with psycopg.connect(config.url, autocommit=True) as owner:
        owner.execute(
            f"""
            CREATE FUNCTION {schema}.fail() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER fail BEFORE UPDATE ON {schema}.tasks FOR EACH ROW WHEN (NEW.phase = 3)
                EXECUTE FUNCTION {schema}.fail()
            """.encode()
        )
        yield
        owner.execute(f"DROP TRIGGER fail ON {schema}.tasks".encode())


class Shop:
    """An application whose tasks count their runs."""

    def __init__(self, config: AppConfig) -> None:
        self.runs: Counter[int] = Counter()
        self.app = app = Horsies(
            AppConfig.for_database_url(
                config.url, schema=config.schema, resilience=RESILIENCE, queues=(QueueConfig("default"),)
            )
        )

        @app.task("make")
        async def make(n: int, size: int) -> str:
            self.runs[n] += 1
            return "x" * size

        @app.task("make_in_thread")
        def make_in_thread(n: int) -> None:
            self.runs[n] += 1

        self.make, self.make_in_thread = make, make_in_thread

    async def wait_done(self, rt: Runtime, total: int) -> None:
        """Wait until all is done; each must have run once."""
        with anyio.fail_after(50):
            while any(queue.ready + queue.claimed + queue.running for queue in (await rt.queues()).unwrap()):
                await anyio.sleep(0.02)
        assert self.runs == Counter(range(total))


async def wait_stuck(worker: Worker) -> None:
    """Wait until the worker has nothing more to do but to write."""
    with anyio.fail_after(20):
        while worker.statistics().started == 0 or worker.statistics().running:
            await anyio.sleep(0.01)
    await anyio.sleep(1.0)  # no race: however long, nothing more must start


@pytest.fixture
def shop(config: AppConfig) -> Shop:
    return Shop(config)


@on_postgres
async def test_a_worker_that_cannot_write_stops_after_so_many_results(shop: Shop) -> None:
    total, concurrency = completer.BUFFER + 1_000, 100
    async with Runtime(shop.app) as rt:
        await shop.make.handle(rt).send_many((n, 1) for n in range(total))
        with full_disk(shop.app.config):
            worker = rt.start_worker(WorkerConfig(concurrency=concurrency))
            await wait_stuck(worker)
            assert completer.BUFFER <= worker.statistics().started < completer.BUFFER + concurrency
        await shop.wait_done(rt, total)
        assert worker.statistics().lost == 0


@on_postgres
async def test_a_worker_that_cannot_write_stops_after_so_many_bytes(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completer, "BUFFER_BYTES", 1_000_000)
    async with Runtime(shop.app) as rt:
        await shop.make.handle(rt).send_many((n, 100_000) for n in range(100))
        with full_disk(shop.app.config):
            worker = rt.start_worker(WorkerConfig(concurrency=5))
            await wait_stuck(worker)
            assert 10 <= worker.statistics().started < 10 + 5
        await shop.wait_done(rt, 100)


@on_postgres
async def test_what_is_claimed_already_does_not_start_either(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completer, "BUFFER", 3)
    async with Runtime(shop.app) as rt:
        await shop.make_in_thread.handle(rt).send_many((n,) for n in range(20))
        with full_disk(shop.app.config):
            worker = rt.start_worker(WorkerConfig(concurrency=20, threads=1))
            await wait_stuck(worker)
            assert worker.statistics().claimed >= 20
            assert worker.statistics().started == 3
        await shop.wait_done(rt, 20)


@on_postgres
async def test_large_results_do_not_share_a_statement(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completer, "STATEMENT_BYTES", 250_000)
    batches = []
    write = completer.Completer._write

    async def counted(self: Any, batch: Any) -> None:
        batches.append([len(end.result) for end in batch])
        await write(self, batch)

    monkeypatch.setattr(completer.Completer, "_write", counted)
    async with Runtime(shop.app) as rt:
        sizes = [300_000, 100_000, 100_000, 100_000, 1]
        await shop.make.handle(rt).send_many((n, sizes[n % 5]) for n in range(50))
        with full_disk(shop.app.config):
            await wait_stuck(rt.start_worker(WorkerConfig(concurrency=50)))
        await shop.wait_done(rt, 50)
    assert sum(len(batch) for batch in batches) == 50
    assert [batch for batch in batches if len(batch) > 1 and sum(batch) > 250_000] == []
    assert max(len(batch) for batch in batches) > 1


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
async def test_nothing_is_lost_or_run_twice_when_nobody_can_write_for_a_while(shop: Shop) -> None:
    total, concurrency = 3_000, 100
    async with Runtime(shop.app) as rt:
        await shop.make.handle(rt).send_many((n, 1) for n in range(total))
        worker = rt.start_worker(WorkerConfig(concurrency=concurrency))
        while worker.statistics().completed < 500:
            await anyio.sleep(0.001)
        with held_up(shop.app.config):
            await wait_stuck(worker)
            assert worker.statistics().started < total
        await shop.wait_done(rt, total)
        assert worker.statistics().lost == 0
