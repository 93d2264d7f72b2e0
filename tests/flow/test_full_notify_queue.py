"""The server's NOTIFY queue is full, since a session that listens sits in a transaction: nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from secrets import token_hex

import anyio
import psycopg
import pytest

from horsies import (
    AppConfig,
    CancelOutcome,
    Every,
    Horsies,
    NodeRef,
    Ok,
    RecoveryConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    TaskError,
    TaskSendOptions,
    WorkerConfig,
    WorkflowBuilder,
)
from horsies.abc import BrokerError, NewTask
from horsies.plugins.postgres.driver import notices
from horsies.plugins.postgres.driver.session import Connections, Fetch, Target
from horsies.testing.postgres import EmbeddedServer, embedded_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with embedded_server(18, durable=False) as server:
        server.configure({"max_notify_queue_pages": "64"})
        server.stop()
        server.start()
        yield server


@contextmanager
def full_queue(url: str) -> Iterator[None]:
    """In the block no commit with a notice in it passes."""
    with psycopg.connect(url) as sitter, psycopg.connect(url, autocommit=True) as filler:
        sitter.execute("LISTEN something")
        sitter.commit()
        sitter.execute("SELECT 1")
        with suppress(psycopg.errors.ProgramLimitExceeded):
            while True:
                filler.execute("SELECT pg_notify('something', repeat('x', 7000))")
        yield
    with psycopg.connect(url, autocommit=True) as sweeper:
        sweeper.execute("SELECT pg_notification_queue_usage()")  # it removes what all have read


class Shop:
    """An application whose work comes by every road that notifies."""

    def __init__(self, url: str, schema: str) -> None:
        resilience = ResilienceConfig(poll_interval=0.2, retry_initial=0.02, retry_max=0.1)
        recovery = RecoveryConfig(heartbeat_interval=0.1, dead_after=2.0, reap_interval=0.1)
        self.app = app = Horsies(
            AppConfig.for_database_url(url, schema=schema, resilience=resilience, recovery=recovery)
        )
        self.failed: set[int] = set()

        @app.task
        async def double(n: int) -> int:
            return 2 * n

        @app.task(retry=RetryPolicy.fixed([0.05], jitter=False), retry_for=("AGAIN",))
        async def fails_once(n: int) -> int:
            if n not in self.failed:
                self.failed.add(n)
                raise TaskError("AGAIN")
            return n

        @app.task
        async def sleeps() -> None:
            await anyio.sleep_forever()

        @app.workflow("chain")
        def chain(wf: WorkflowBuilder) -> NodeRef[int]:
            return wf.task(double.node(wf.task(double.node(1))))

        app.schedule("tick", double, Every(timedelta(seconds=1)), args=(7,))
        self.double, self.fails_once, self.sleeps, self.chain = double, fails_once, sleeps, chain


async def test_everything_goes_on_without_notices(
    server: EmbeddedServer, schema: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No statement is quiet because of another here, so that the server refuses each by itself."""
    monkeypatch.setattr(notices, "QUIET", 0.0)
    shop = Shop(server.url, schema)
    double = shop.double.handle
    async with Runtime(shop.app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=5))
        with anyio.fail_after(60):
            with full_queue(server.url):
                handles = [(await double(rt).send(1)).unwrap(), (await double(rt).schedule(0.1, 1)).unwrap()]
                again = (await shop.fails_once.handle(rt).send(3)).unwrap()
                past = datetime.now(UTC) - timedelta(seconds=1)
                overdue = shop.double.handle(rt).with_options(TaskSendOptions(good_until=past))
                expired = (await overdue.send(1)).unwrap()
                running = (await shop.sleeps.handle(rt).send()).unwrap()
                workflow = (await shop.chain.handle(rt).start()).unwrap()
                assert [await handle.get() for handle in handles] == [Ok(2), Ok(2)]
                assert await again.get() == Ok(3)
                assert (await expired.get()).unwrap_err().code == "TASK_EXPIRED"
                assert await workflow.get() == Ok(4)
                while worker.statistics().running != 1:
                    await anyio.sleep(0.01)
                assert await running.cancel() == Ok(CancelOutcome.REQUESTED)
                assert (await running.get()).unwrap_err().code == "TASK_CANCELLED"
                later = (await double(rt).schedule(60, 1)).unwrap()
                assert await later.cancel() == Ok(CancelOutcome.CANCELLED)
                assert await rt.pause_queue("default") == Ok(True)
                assert await rt.resume_queue("default") == Ok(True)
                while not any(schedule.last_task_id for schedule in (await rt.schedules()).unwrap()):
                    await anyio.sleep(0.05)
                await worker.drain()
            assert not worker.left_behind
            rt.start_worker()
            assert await (await double(rt).send(5)).unwrap().get() == Ok(10)
    warnings = [record.message for record in caplog.records if "NOTIFY queue" in record.message]
    assert len(warnings) == 1
    assert "pg_notification_queue_usage() is 1.0" in warnings[0]
    assert worker.statistics().lost == 0


async def test_a_transaction_of_the_application_passes_at_its_second_try(server: EmbeddedServer, schema: str) -> None:
    shop = Shop(server.url, schema)
    async with Runtime(shop.app) as rt:
        with full_queue(server.url):
            with pytest.raises(psycopg.errors.ProgramLimitExceeded):
                async with rt.transaction() as connection:
                    assert (await shop.double.handle(rt).using(connection).send(1)).is_ok()
            async with rt.transaction() as connection:
                handle = (await shop.double.handle(rt).using(connection).send(1)).unwrap()
        rt.start_worker()
        assert await handle.get(timeout=30) == Ok(2)


async def test_another_limit_with_the_same_code_is_a_refusal(postgres_url: str, schema: str) -> None:
    """Neither is it worth another try, nor does it make anything quiet."""
    app = Horsies(AppConfig.for_database_url(postgres_url, schema=schema))
    async with Runtime(app) as rt, rt._engine.broker.producer() as producer:
        with psycopg.connect(postgres_url, autocommit=True) as owner:
            owner.execute(
                f"""
                CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                    BEGIN RAISE 'too much' USING ERRCODE = 'program_limit_exceeded'; END $$;
                CREATE TRIGGER refuse BEFORE INSERT ON {schema}.tasks FOR EACH ROW EXECUTE FUNCTION {schema}.refuse()
                """.encode()
            )
        task_id = "01900000-0000-7000-8000-000000000000"
        task = NewTask(task_id, b"sha", b"envelope", "task", "default", 50, datetime.now(UTC), 0.0, None)
        with pytest.raises(BrokerError) as raised:
            await producer.enqueue([task])
        assert (raised.value.code, raised.value.retryable) == ("54000", False)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("locks", [[], [1]])
async def test_a_session_repeats_what_it_runs(server: EmbeddedServer, pooled: bool, locks: list[int]) -> None:
    """One statement, a transaction of one that is a pipeline, and one of several; each only once."""
    table, target = f"counted_{token_hex(6)}", Target(server.url, 10.0, 10.0, pooled=pooled)
    insert = f"INSERT INTO {table} SELECT 1 RETURNING pg_notify('a', 'b') IS NULL, n"
    with psycopg.connect(server.url, autocommit=True) as owner:
        owner.execute(f"CREATE TABLE {table} (n bigint)".encode())
        with full_queue(server.url):
            async with Connections().open_session(target) as session:
                assert await session.fetch("insert", insert, {}, locks=locks) == [(False, 1)]
            async with Connections().open_session(target) as session:

                async def work(fetch: Fetch) -> int:
                    return sum([len(await fetch("insert", insert, {})) for _ in range(2)])

                assert await session.transact("insert", work) == 2
                assert await session.fetch("insert", insert, {}) == [(False, 1)]
        assert owner.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (4,)
