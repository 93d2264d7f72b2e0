"""The database refuses a statement until somebody mends that: the runtime lives on, and the work goes on afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import anyio
import psycopg
import pytest

from horsies import (
    AppConfig,
    BrokerError,
    Horsies,
    Ok,
    RecoveryConfig,
    ResilienceConfig,
    RetryPolicy,
    Runtime,
    TaskSendOptions,
    WorkerConfig,
)
from horsies._worker.completer import TRIES_ASIDE

pytestmark = pytest.mark.anyio

RESILIENCE = ResilienceConfig(poll_interval=0.1, retry_initial=0.02, retry_max=0.1)
RECOVERY = RecoveryConfig(heartbeat_interval=0.1, dead_after=2.0, reap_interval=0.1)
in_a_file = pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)


def shop(config: AppConfig) -> Horsies:
    app = Horsies(
        AppConfig.for_database_url(config.url, schema=config.schema, resilience=RESILIENCE, recovery=RECOVERY)
    )

    @app.task("double")
    async def double(n: int) -> int:
        return 2 * n

    return app


@contextmanager
def refusing(
    config: AppConfig, condition: str, *, table: str = "tasks", code: str = "insufficient_privilege"
) -> Iterator[None]:
    """In the block, an update of a row for which `condition` holds is refused; by default, it does not pass by itself.

    Args:
        code: of the refusal by Postgres.
    """
    if config.url.startswith("sqlite"):
        with closing(sqlite3.connect(config.url.removeprefix("sqlite:///"), isolation_level=None, timeout=20)) as owner:
            owner.execute(
                f"CREATE TRIGGER refuse BEFORE UPDATE ON {table} WHEN {condition} "
                "BEGIN SELECT RAISE(ABORT, 'not today'); END"
            )
            yield
            owner.execute("DROP TRIGGER refuse")
        return
    schema = config.schema
    with psycopg.connect(config.url, autocommit=True) as owner:
        owner.execute(
            f"""
            CREATE FUNCTION {schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE 'not today' USING ERRCODE = '{code}'; END $$;
            CREATE TRIGGER refuse BEFORE UPDATE ON {schema}.{table} FOR EACH ROW WHEN ({condition})
                EXECUTE FUNCTION {schema}.refuse()
            """.encode()
        )
        yield
        owner.execute(f"DROP FUNCTION {schema}.refuse CASCADE".encode())


async def logged(caplog: pytest.LogCaptureFixture, text: str, *, times: int = 1) -> None:
    with anyio.fail_after(20):
        while caplog.text.count(text) < times:
            await anyio.sleep(0.01)


@in_a_file
async def test_claims_that_are_refused_are_tried_again(config: AppConfig, caplog: pytest.LogCaptureFixture) -> None:
    app = shop(config)
    async with Runtime(app) as rt:
        with refusing(config, "NEW.phase = 2 AND OLD.phase = 1"):
            worker = rt.start_worker()
            handle = (await app.tasks["double"].handle(rt).send(1)).unwrap()
            await logged(caplog, "not today; look at the privileges of the role", times=2)
        assert await handle.get(timeout=20) == Ok(2)
        assert worker.is_ready


@in_a_file
async def test_a_heartbeat_that_is_refused_is_tried_again(config: AppConfig, caplog: pytest.LogCaptureFixture) -> None:
    app = shop(config)
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        assert await (await app.tasks["double"].handle(rt).send(1)).unwrap().get(timeout=20) == Ok(2)
        with refusing(config, "true", table="workers"):
            await logged(caplog, "cannot write its heartbeat", times=2)
            with anyio.fail_after(20):
                while worker.is_ready:
                    await anyio.sleep(0.01)
            handle = (await app.tasks["double"].handle(rt).send(2)).unwrap()
        assert await handle.get(timeout=20) == Ok(4)


@in_a_file
async def test_a_start_that_is_refused_holds_up_no_other(config: AppConfig, caplog: pytest.LogCaptureFixture) -> None:
    app = shop(config)

    @app.task("again", retry=RetryPolicy.fixed([1.0]), retry_for=("WORKER_CRASHED",))
    async def again(n: int) -> int:
        return n

    async with Runtime(app) as rt:
        with refusing(config, "NEW.status = 'RUNNING' AND NEW.priority = 7"):
            guilty = (await again.handle(rt).with_options(TaskSendOptions(priority=7)).send(1)).unwrap()
            others = [answer.unwrap() for answer in await again.handle(rt).send_many([(2,), (3,)])]
            rt.start_worker()
            assert [await one.get(timeout=20) for one in others] == [Ok(2), Ok(3)]
            await logged(caplog, "cannot be started", times=2)
        assert await guilty.get(timeout=20) == Ok(1)


@in_a_file
async def test_a_result_that_is_refused_becomes_an_error(config: AppConfig) -> None:
    """The others of its batch are written."""
    app = shop(config)
    length = "length(NEW.result) > 1000"

    @app.task("large")
    async def large() -> bytes:
        return bytes(1001)

    async with Runtime(app) as rt:
        with refusing(config, f"NEW.phase = 3 AND {length}"):
            guilty = (await large.handle(rt).send()).unwrap()
            others = [answer.unwrap() for answer in await app.tasks["double"].handle(rt).send_many([(1,), (2,)])]
            rt.start_worker()
            error = (await guilty.get(timeout=20)).unwrap_err()
            assert error.code == "BROKER_ERROR"
            assert "not today" in error.message
            assert [await one.get(timeout=20) for one in others] == [Ok(2), Ok(4)]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_result_that_a_server_refuses_which_only_reads_waits_for_one_that_writes(
    config: AppConfig, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop(config)
    async with Runtime(app) as rt:
        with refusing(config, "NEW.status = 'COMPLETED'", code="read_only_sql_transaction"):
            rt.start_worker()
            handle = (await app.tasks["double"].handle(rt).send(1)).unwrap()
            await logged(caplog, "while others are written", times=2 * TRIES_ASIDE)
        assert await handle.get(timeout=20) == Ok(2)


@in_a_file
async def test_a_result_waits_while_even_its_error_is_refused(
    config: AppConfig, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop(config)
    async with Runtime(app) as rt:
        with refusing(config, "NEW.phase = 3 AND NEW.priority = 7"):
            double = app.tasks["double"].handle(rt)
            waiting = (await double.with_options(TaskSendOptions(priority=7)).send(1)).unwrap()
            worker = rt.start_worker()
            await logged(caplog, "and BROKER_ERROR in its place", times=2)
            assert await (await double.send(2)).unwrap().get(timeout=20) == Ok(4)
        assert await waiting.get(timeout=20) == Ok(2)
        assert worker.statistics().lost == 0


@in_a_file
@pytest.mark.parametrize(
    ("condition", "table"),
    [("NEW.phase = 2 AND OLD.phase = 1", "tasks"), ("NEW.phase = 3", "tasks"), ("true", "workers")],
)
async def test_a_worker_until_idle_ends_with_what_is_refused(config: AppConfig, condition: str, table: str) -> None:
    """It is to end by itself, and would never."""
    app = shop(config)
    async with Runtime(app) as rt:
        assert (await app.tasks["double"].handle(rt).send(1)).is_ok()
        with refusing(config, condition, table=table), anyio.fail_after(30):
            with pytest.raises((BrokerError, BaseExceptionGroup)) as raised:
                await rt.run_worker(WorkerConfig(until_idle=True))
            assert "not today" in repr(_leaves(raised.value))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in _leaves(one)]
    return [error]
