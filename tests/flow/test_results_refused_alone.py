"""A result that the environment refuses, always or for a while: others are written, and no good one is lost."""

from __future__ import annotations

import anyio
import anyio.to_thread
import psycopg
import pytest

from horsies import AppConfig, Horsies, Ok, RecoveryConfig, ResilienceConfig, Runtime, WorkerConfig
from horsies.testing.postgres import embedded_server

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

QUICK = ResilienceConfig(poll_interval=0.1, retry_initial=0.02, retry_max=0.1, statement_timeout=0.5)
RECOVERY = RecoveryConfig(heartbeat_interval=0.1, dead_after=10.0, reap_interval=0.1)
LARGE = 100_000


def shop(url: str, schema: str) -> Horsies:
    app = Horsies(AppConfig.for_database_url(url, schema=schema, resilience=QUICK, recovery=RECOVERY))

    @app.task("make")
    async def make(size: int) -> bytes:
        return bytes(size)

    return app


def punish(url: str, schema: str, what: str, condition: str) -> None:
    """From now on `what` is done when a result is written for which `condition` holds."""
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(
            f"""
            CREATE FUNCTION {schema}.punish() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN {what}; RETURN NEW; END $$;
            CREATE TRIGGER punish BEFORE UPDATE ON {schema}.tasks FOR EACH ROW
                WHEN (NEW.phase = 3 AND ({condition})) EXECUTE FUNCTION {schema}.punish()
            """.encode()
        )


def pardon(url: str, schema: str) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"DROP FUNCTION {schema}.punish CASCADE".encode())


@pytest.mark.parametrize(
    "what",
    [
        "PERFORM pg_sleep(60)",
        "PERFORM pg_terminate_backend(pg_backend_pid())",
        "RAISE 'no' USING ERRCODE = 'out_of_memory'",
    ],
)
async def test_the_guilty_one_fails_and_the_others_of_its_batch_are_written(
    postgres_url: str, schema: str, what: str
) -> None:
    app = shop(postgres_url, schema)
    async with Runtime(app) as rt:
        punish(postgres_url, schema, what, f"length(NEW.result) > {LARGE}")
        sizes = [1, 2, LARGE, 3, 4]
        sent = await app.tasks["make"].handle(rt).send_many([(size,) for size in sizes])
        handles = [answer.unwrap() for answer in sent]
        worker = rt.start_worker()
        results = [await handle.get(timeout=60) for handle in handles]
        error = results.pop(2).unwrap_err()
        assert error.code == "BROKER_ERROR"
        assert f"it has {LARGE + 21} bytes" in error.message
        assert results == [Ok(bytes(size)) for size in (1, 2, 3, 4)]
        # And it holds up nothing afterwards.
        last = (await app.tasks["make"].handle(rt).send(5)).unwrap()
        assert await last.get(timeout=20) == Ok(bytes(5))
        assert worker.statistics().lost == 0


async def test_a_database_that_takes_no_result_costs_none(
    postgres_url: str, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All else gets through meanwhile, and each is tried more often than one that is guilty would be."""
    app = shop(postgres_url, schema)
    async with Runtime(app) as rt:
        punish(postgres_url, schema, "RAISE 'no' USING ERRCODE = 'query_canceled'", "true")
        sent = await app.tasks["make"].handle(rt).send_many([(size,) for size in range(30)])
        rt.start_worker()
        with anyio.fail_after(60):
            while caplog.text.count("while others are written") < 60:
                await anyio.sleep(0.02)
        pardon(postgres_url, schema)
        assert [await answer.unwrap().get(timeout=30) for answer in sent] == [Ok(bytes(size)) for size in range(30)]


async def test_a_database_that_is_away_costs_no_result(schema: str) -> None:
    with embedded_server(durable=False) as server:
        app = shop(server.url, schema)
        released = anyio.Event()

        @app.task("waits")
        async def waits(n: int) -> int:
            await released.wait()
            return n

        async with Runtime(app) as rt:
            worker = rt.start_worker(WorkerConfig(concurrency=5))
            handles = [answer.unwrap() for answer in await waits.handle(rt).send_many([(n,) for n in range(5)])]
            with anyio.fail_after(20):
                while worker.statistics().running < 5:
                    await anyio.sleep(0.01)
            await anyio.to_thread.run_sync(server.stop)
            released.set()
            await anyio.sleep(2.0)  # no race: far more tries than a guilty result has, and none of them counts
            await anyio.to_thread.run_sync(server.start)
            assert [await handle.get(timeout=30) for handle in handles] == [Ok(n) for n in range(5)]


async def test_a_result_beyond_what_postgres_takes_is_refused_before_it_is_sent(
    postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would end the connection for a message of 1 GiB."""
    monkeypatch.setattr("horsies.plugins.postgres.driver.array_codec._MOST", LARGE)
    app = shop(postgres_url, schema)
    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await app.tasks["make"].handle(rt).send(LARGE + 1)).unwrap()
        error = (await handle.get(timeout=20)).unwrap_err()
        assert error.code == "BROKER_ERROR"
        assert "more than Postgres takes in one message" in error.message
