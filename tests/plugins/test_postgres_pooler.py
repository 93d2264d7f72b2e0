"""Everything through PgBouncer in transaction mode: with notifications by `listen_url`, and by polling alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
from pgbouncer import BINARY, PgBouncer, open_pgbouncer

from horsies import (
    AppConfig,
    BrokerError,
    CancelOutcome,
    Horsies,
    Ok,
    PoolConfig,
    RecoveryConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    Task,
    TaskContext,
    TaskError,
    TaskHandle,
    TaskSendErrorCode,
    TaskSendOptions,
)
from horsies.abc import Broker, EnqueueOutcome, Topic, Transactional
from horsies.plugins.postgres.queries import quoted
from horsies.testing.broker import CAPS, T0, BrokerConformance, ScheduleConformance, WorkflowConformance, new_task
from horsies.testing.postgres import embedded_server

needs_pgbouncer = pytest.mark.skipif(BINARY is None, reason="PgBouncer is not installed here")
pytestmark = pytest.mark.timeout(120)

QUICKLY = 20
"""Seconds: below the poll interval of those who are notified, and far above a few polls of those who are not."""
NOTIFIED: dict[str, Any] = {
    "resilience": ResilienceConfig(poll_interval=60.0),
    "recovery": RecoveryConfig(heartbeat_interval=60.0, dead_after=240.0),
}
POLLING: dict[str, Any] = {
    "resilience": ResilienceConfig(poll_interval=0.2),
    "recovery": RecoveryConfig(heartbeat_interval=0.2, dead_after=4.0),
}
QUICK_RETURN: dict[str, Any] = {
    "resilience": ResilienceConfig(poll_interval=0.2, retry_initial=0.02, retry_max=0.2, statement_timeout=2.0),
    "recovery": RecoveryConfig(heartbeat_interval=0.1, dead_after=4.0, reap_interval=0.2),
    "pool": PoolConfig(max_size=2, timeout=3.0),
}


@pytest.fixture(params=["listen_url", "polling"])
def config(request: pytest.FixtureRequest, pgbouncer: PgBouncer, postgres_url: str, schema: str) -> AppConfig:
    if request.param == "polling":
        return AppConfig(url=pgbouncer.url, schema=schema, **POLLING)
    return AppConfig(url=pgbouncer.url, schema=schema, listen_url=postgres_url, **NOTIFIED)


@dataclass
class Bench:
    """An application under test, and what its tasks noted."""

    app: Horsies
    add: Task[[int, int], int]
    fail: Task[[int], int]
    sleep: Task[[], None]
    runs: dict[int, int]
    started: list[str]


def bench_on(config: AppConfig) -> Bench:
    app = Horsies(config)
    runs: dict[int, int] = {}
    started: list[str] = []

    @app.task
    async def add(a: int, b: int) -> int:
        runs[a] = runs.get(a, 0) + 1
        return a + b

    @app.task(retry=RetryPolicy.fixed([0.05] * 3, jitter=False))
    async def fail(ctx: TaskContext, until: int) -> int:
        if ctx.attempt < until:
            raise TaskError("NOT_YET")
        return ctx.attempt

    @app.task
    async def sleep(ctx: TaskContext) -> None:
        started.append(ctx.task_id)
        await anyio.sleep_forever()

    return Bench(app, add, fail, sleep, runs, started)


@pytest.fixture
def bench(config: AppConfig) -> Bench:
    return bench_on(config)


async def all_done(handles: list[TaskHandle[Any]]) -> list[Any]:
    return [await handle.get(timeout=30) for handle in handles]


async def until(condition: Callable[[], object], *, within: float = QUICKLY) -> None:
    with anyio.fail_after(within):
        while not condition():
            await anyio.sleep(0.005)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "horsies.postgres"]


@needs_pgbouncer
class TestConformance(BrokerConformance, ScheduleConformance, WorkflowConformance):
    """The suite that third parties run."""

    @pytest.fixture
    def config(self, pgbouncer: PgBouncer, postgres_url: str, schema: str) -> AppConfig:
        return AppConfig(url=pgbouncer.url, listen_url=postgres_url, schema=schema)

    @pytest.fixture
    async def broker(self, anyio_backend: Any, config: AppConfig) -> AsyncIterator[Broker]:
        async with _open(config) as broker:
            yield broker

    @pytest.fixture
    async def capped_broker(self, anyio_backend: Any, config: AppConfig) -> AsyncIterator[Broker]:
        async with _open(replace(config, **CAPS)) as broker:
            yield broker


def _open(config: AppConfig) -> AbstractAsyncContextManager[Broker]:
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


@needs_pgbouncer
@pytest.mark.anyio
class TestEverythingWorks:
    async def test_sent_singly_together_in_bulk_and_later(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            add = bench.add.handle(rt)
            handles = [(await add.send(0, 0)).unwrap(), (await add.schedule(0.3, 1, 0)).unwrap()]

            async def send(n: int) -> None:
                handles.append((await add.send(n, 0)).unwrap())

            with anyio.fail_after(QUICKLY):
                async with anyio.create_task_group() as group:
                    for n in range(2, 102):
                        group.start_soon(send, n)
                many = await add.send_many([(n, 0) for n in range(102, 1_500)])
                handles += [answer.unwrap() for answer in many]
                assert {result.unwrap() for result in await all_done(handles)} == set(range(1_500))
            assert set(bench.runs.values()) == {1}

    async def test_results_in_the_order_of_their_ends(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            add = bench.add.handle(rt)
            last = (await add.schedule(1.0, 1, 0)).unwrap()
            first = (await add.send(2, 0)).unwrap()
            with anyio.fail_after(QUICKLY):
                async with rt.as_completed([last, first]) as done:
                    assert [handle.task_id async for handle in done] == [first.task_id, last.task_id]

    async def test_one_task_for_each_key(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt:
            keyed = bench.add.handle(rt).with_options(TaskSendOptions(unique_key="k"))
            handles: list[TaskHandle[int]] = []

            async def send() -> None:
                handles.append((await keyed.send(1, 2)).unwrap())

            with anyio.fail_after(QUICKLY):
                async with anyio.create_task_group() as group:
                    for _ in range(20):
                        group.start_soon(send)
            assert len({handle.task_id for handle in handles}) == 1
            assert sum(not handle.deduplicated for handle in handles) == 1
            rt.start_worker()
            with anyio.fail_after(QUICKLY):
                assert await handles[0].get() == Ok(3)
            assert not (await keyed.send(1, 2)).unwrap().deduplicated

    async def test_cancelled_before_and_while_it_runs(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            # Due after the worker has begun to listen.
            assert await (await bench.add.handle(rt).schedule(0.3, 1, 2)).unwrap().get(timeout=QUICKLY) == Ok(3)
            later = (await bench.add.handle(rt).schedule(3600, 1, 2)).unwrap()
            running = (await bench.sleep.handle(rt).send()).unwrap()
            await until(lambda: bench.started)
            with anyio.fail_after(QUICKLY):
                assert await later.cancel() == Ok(CancelOutcome.CANCELLED)
                assert await running.cancel() == Ok(CancelOutcome.REQUESTED)
                for handle in (later, running):
                    assert (await handle.get()).unwrap_err().code == "TASK_CANCELLED"

    async def test_retried(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            handle = (await bench.fail.handle(rt).send(3)).unwrap()
            with anyio.fail_after(QUICKLY):
                assert await handle.get() == Ok(3)
            info = (await handle.info(include_attempts=True)).unwrap()
            assert info is not None
            assert [attempt.error.code for attempt in info.attempts or ()] == ["NOT_YET", "NOT_YET"]

    async def test_in_a_transaction(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt:
            add = bench.add.handle(rt)
            async with rt.transaction() as connection:
                ours = (await add.using(connection).send(1, 0)).unwrap()
                assert (await ours.info()).unwrap() is None
            with psycopg.connect(bench.app.config.url, prepare_threshold=None) as mine:
                theirs = (await add.using(mine).send(2, 0)).unwrap()
            with psycopg.connect(bench.app.config.url, prepare_threshold=None) as mine:
                undone = (await add.using(mine).send(3, 0)).unwrap()
                mine.rollback()
            assert (await undone.info()).unwrap() is None
            rt.start_worker()
            with anyio.fail_after(QUICKLY):
                assert await all_done([ours, theirs]) == [Ok(1), Ok(2)]

    async def test_a_key_behind_an_open_transaction_is_waited_for_only_so_long(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt, rt._engine.broker.producer(lock_wait=0.05) as producer:
            assert isinstance(rt._engine.broker, Transactional)
            async with rt.transaction() as connection:
                await rt._engine.broker.joining(connection).enqueue([new_task(1, unique_key="k")])
                with anyio.fail_after(QUICKLY), pytest.raises(BrokerError, match="55P03"):
                    await producer.enqueue([new_task(2, unique_key="k")])
                await connection.execute(f"DELETE FROM {bench.app.config.schema}.tasks")
            (answer,) = await producer.enqueue([new_task(2, unique_key="k")])
            assert answer.outcome is EnqueueOutcome.INSERTED

    async def test_the_check_reaches_the_database(self, bench: Bench) -> None:
        async with Runtime(bench.app) as rt:
            assert (await rt.check_live()).startswith("PostgreSQL ")

    async def test_many_open_an_empty_database_at_once(self, bench: Bench) -> None:
        async def send(n: int) -> None:
            async with Runtime(bench.app) as rt:
                handles.append((await bench.add.handle(rt).send(n, 0)).unwrap())

        handles: list[TaskHandle[int]] = []
        with anyio.fail_after(QUICKLY):
            async with anyio.create_task_group() as group:
                for n in range(5):
                    group.start_soon(send, n)
        assert len(handles) == 5


@needs_pgbouncer
@pytest.mark.anyio
class TestWhatIsInBetween:
    """Found out at opening, told once, and never a reason to leave something in a session that is not ours."""

    async def test_a_pooled_url_is_told_once(
        self, pgbouncer: PgBouncer, schema: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench = bench_on(AppConfig(url=pgbouncer.url, schema=schema))
        async with (
            Runtime(bench.app) as rt,
            rt._engine.broker.listen(Topic.WORK),
            rt._engine.broker.listen(Topic.FINISHED),
        ):
            pass
        (warning,) = warnings(caplog)
        assert warning.startswith("url goes through a pooler")
        assert "set listen_url to a direct connection" in warning
        assert "poll_interval (5 s)" in warning

    async def test_nothing_is_said_of_a_direct_connection(
        self, pgbouncer: PgBouncer, postgres_url: str, schema: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        for url, listen_url in ((postgres_url, None), (pgbouncer.url, postgres_url), (postgres_url, postgres_url)):
            bench = bench_on(AppConfig(url=url, listen_url=listen_url, schema=schema, **NOTIFIED))
            await self._is_notified(bench)
        assert warnings(caplog) == []

    async def test_a_pooler_in_session_mode_notifies(
        self, postgres_url: str, schema: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with open_pgbouncer(postgres_url, mode="session") as pgbouncer:
            for listen_url in (None, pgbouncer.url):
                config = AppConfig(url=pgbouncer.url, listen_url=listen_url, schema=schema, **NOTIFIED)
                await self._is_notified(bench_on(config))
        assert warnings(caplog) == []

    async def test_a_pooled_listen_url_is_told_once_and_work_is_found_by_polling(
        self, pgbouncer: PgBouncer, schema: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        config = AppConfig(url=pgbouncer.url, listen_url=pgbouncer.url, schema=schema, **POLLING)
        await self._is_notified(bench_on(config))
        (warning,) = warnings(caplog)
        assert warning.startswith("listen_url goes through a pooler")

    async def _is_notified(self, bench: Bench) -> None:
        """Both a worker and a waiter hear of what happens, or poll quickly."""
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            with anyio.fail_after(QUICKLY):
                for n in range(3):
                    # Due after the worker and the waiter have settled down.
                    handle = (await bench.add.handle(rt).schedule(0.3, n, 0)).unwrap()
                    assert await handle.get() == Ok(n)
                running = (await bench.sleep.handle(rt).send()).unwrap()
                await until(lambda: bench.started)
                assert await running.cancel() == Ok(CancelOutcome.REQUESTED)
                assert (await running.get()).unwrap_err().code == "TASK_CANCELLED"

    async def test_nothing_is_left_in_the_one_session_of_a_small_pool(self, postgres_url: str, schema: str) -> None:
        left = """
            SELECT 'prepared ' || statement FROM pg_prepared_statements
            UNION ALL SELECT 'listens to ' || channel FROM pg_listening_channels() AS channel
            UNION ALL SELECT 'holds lock ' || objid FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
            UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relpersistence = 't'
            UNION ALL SELECT 'setting ' || name FROM pg_settings WHERE source = 'session'
                AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'standard_conforming_strings',
                    'TimeZone') -- which PgBouncer itself sets for each client
        """
        with open_pgbouncer(postgres_url, pool_size=1) as pgbouncer:
            bench = bench_on(AppConfig(url=pgbouncer.url, listen_url=pgbouncer.url, schema=schema, **POLLING))
            async with Runtime(bench.app) as rt:
                rt.start_worker()
                keyed = bench.add.handle(rt).with_options(TaskSendOptions(unique_key="k"))
                for n in range(10):
                    handles = [(await function.send(n, 0)).unwrap() for function in (bench.add.handle(rt), keyed)]
                    async with rt.transaction() as connection:
                        handles.append((await bench.add.handle(rt).using(connection).send(n, 0)).unwrap())
                    with anyio.fail_after(QUICKLY):
                        assert await all_done(handles) == [Ok(n)] * 3
                    assert (await handles[0].cancel()) == Ok(CancelOutcome.ALREADY_FINISHED)
                with psycopg.connect(pgbouncer.url, prepare_threshold=None) as connection:
                    assert connection.execute("SELECT pg_backend_pid()").fetchone() is not None
                    assert connection.execute(left.encode()).fetchall() == []


@needs_pgbouncer
@pytest.mark.anyio
class TestTrouble:
    """Calls that are cancelled, a pooler that goes away, a server that goes away behind it."""

    @pytest.mark.parametrize("call", ["info", "send", "cancel"])
    async def test_a_cancelled_call_is_cancelled_on_the_server(
        self, bench: Bench, postgres_url: str, call: str
    ) -> None:
        schema = bench.app.config.schema
        busy = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"

        def waiting() -> int:
            row = observer.execute(busy, (f"%{quoted(schema)}.tasks%",)).fetchone()
            assert row is not None
            return int(row[0])

        with psycopg.connect(postgres_url, autocommit=True) as observer, psycopg.connect(postgres_url) as holder:
            async with Runtime(bench.app) as rt:
                handle = (await bench.add.handle(rt).send(1, 0)).unwrap()
                calls: dict[str, Callable[[], Awaitable[object]]] = {
                    "info": handle.info,
                    "send": lambda: bench.add.handle(rt).send(2, 0),
                    "cancel": handle.cancel,
                }
                holder.execute(f"LOCK TABLE {schema}.tasks IN ACCESS EXCLUSIVE MODE".encode())
                async with anyio.create_task_group() as group:
                    group.start_soon(calls[call])
                    await until(waiting)
                    group.cancel_scope.cancel()
                if call == "send":  # what is being written for several senders goes on
                    holder.rollback()
                await until(lambda: not waiting())
                holder.rollback()
                assert (await handle.info()).is_ok()
                assert (await bench.add.handle(rt).send(3, 0)).is_ok()

    async def test_a_pooler_that_is_killed_under_load_and_comes_back(
        self, postgres_url: str, schema: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with open_pgbouncer(postgres_url) as pgbouncer:
            async with self._under_load(AppConfig(url=pgbouncer.url, schema=schema, **QUICK_RETURN)):
                for _ in range(2):
                    await anyio.to_thread.run_sync(pgbouncer.kill)
                    await anyio.sleep(0.3)
                    await anyio.to_thread.run_sync(pgbouncer.start)
                    await anyio.sleep(0.3)
        assert [record.getMessage() for record in caplog.records if record.name == "psycopg"] == []

    async def test_a_server_that_restarts_behind_the_pooler(self, schema: str) -> None:
        """PgBouncer refuses for a while after a login has failed (`server_login_retry`)."""
        with embedded_server(durable=False) as server, open_pgbouncer(server.url) as pgbouncer:
            async with self._under_load(AppConfig(url=pgbouncer.url, schema=schema, **QUICK_RETURN)):
                await anyio.to_thread.run_sync(server.stop)
                await anyio.sleep(0.5)
                await anyio.to_thread.run_sync(server.start)

    @asynccontextmanager
    async def _under_load(self, config: AppConfig) -> AsyncIterator[None]:
        """Tasks are sent and run around the block, and each of them ends."""
        bench = bench_on(config)
        handles: list[TaskHandle[int]] = []
        enough = anyio.Event()

        async def send(rt: Runtime) -> None:
            add = bench.add.handle(rt)
            while not enough.is_set():
                answer = await add.send(len(handles), 0)
                with anyio.fail_after(30):
                    while answer.is_err():
                        error = answer.unwrap_err()
                        assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, True), error
                        await anyio.sleep(0.02)
                        answer = await add.retry_send(error)
                handles.append(answer.unwrap())

        async with Runtime(bench.app) as rt, anyio.create_task_group() as group:
            worker = rt.start_worker()
            group.start_soon(send, rt)
            await until(lambda: len(bench.runs) > 20)
            yield
            ran = len(bench.runs)
            await until(lambda: len(bench.runs) > ran + 20, within=60)
            enough.set()
            assert [await handle.get(timeout=30) for handle in handles] == [Ok(n) for n in range(len(handles))]
            assert worker.statistics().abandoned == 0


@pytest.mark.anyio
class TestOneConnection:
    """`max_size=1`: whoever waits for the one connection gets it, or is told why not."""

    @pytest.fixture(params=["direct", "polling", "listen_url"])
    def config(self, request: pytest.FixtureRequest, postgres_url: str, schema: str) -> AppConfig:
        pool = PoolConfig(min_size=1, max_size=1, timeout=10.0)
        if request.param == "direct":
            return AppConfig(url=postgres_url, schema=schema, pool=pool, **NOTIFIED)
        url = request.getfixturevalue("pgbouncer").url
        if request.param == "polling":
            return AppConfig(url=url, schema=schema, pool=pool, **POLLING)
        return AppConfig(url=url, schema=schema, listen_url=postgres_url, pool=pool, **NOTIFIED)

    async def test_all_at_once_never_lock_each_other_up(self, bench: Bench) -> None:
        ended: list[str] = []
        async with Runtime(bench.app) as rt:
            rt.start_worker()
            add = bench.add.handle(rt)

            async def get(n: int) -> None:
                assert await (await add.send(n, 0)).unwrap().get() == Ok(n)
                ended.append("get")

            async def info(n: int) -> None:
                handle = (await add.send(n, 0)).unwrap()
                assert (await handle.info()).unwrap() is not None
                ended.append("info")

            async def cancel(n: int) -> None:
                handle = (await add.schedule(3600, n, 0)).unwrap()
                assert await handle.cancel() == Ok(CancelOutcome.CANCELLED)
                assert (await handle.get()).unwrap_err().code == "TASK_CANCELLED"
                ended.append("cancel")

            async def transact(n: int) -> None:
                async with rt.transaction() as connection:
                    handle = (await add.using(connection).send(n, 0)).unwrap()
                    await add.send(n, 0)
                assert await handle.get() == Ok(n)
                ended.append("transact")

            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    for n in range(20):
                        for call in (get, info, cancel, transact):
                            group.start_soon(call, n)
        assert len(ended) == 80

    async def test_asking_inside_a_transaction_is_told_why_it_cannot_be(self, bench: Bench) -> None:
        config = replace(bench.app.config, pool=PoolConfig(min_size=1, max_size=1, timeout=2.0))
        bench = bench_on(config)
        async with Runtime(bench.app) as rt:
            handle = (await bench.add.handle(rt).send(1, 0)).unwrap()
            async with rt.transaction() as connection:
                with anyio.fail_after(QUICKLY):
                    error = (await handle.info()).unwrap_err()
                assert error.retryable
                assert "all were lent the whole time" in error.message
                assert "rt.transaction()" in error.message
                assert "pool.max_size" in error.message
                assert (await bench.add.handle(rt).using(connection).send(2, 0)).is_ok()
            assert (await handle.info()).is_ok()
