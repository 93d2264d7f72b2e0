"""Somebody's session is idle in a transaction: no row that dies meanwhile can be removed, and the work goes on."""

from __future__ import annotations

from datetime import timedelta

import anyio
import psycopg
import pytest

from horsies import AppConfig, Horsies, Ok, RecoveryConfig, RetentionConfig, RetryPolicy, Runtime, TaskError
from horsies.plugins.postgres import claim_cursor as floors

pytestmark = pytest.mark.anyio

RECOVERY = RecoveryConfig(heartbeat_interval=0.1, dead_after=1.0, reap_interval=0.1)
ROUND = 50


async def test_work_goes_on_and_the_dead_go_once_the_session_ends(
    postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floors, "MANY", ROUND)
    config = AppConfig(
        url=postgres_url,
        schema=schema,
        recovery=RECOVERY,
        retention=RetentionConfig(finished_after=timedelta(milliseconds=500)),
    )
    app = Horsies(config)
    failed: set[int] = set()

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task(retry=RetryPolicy.fixed([0.05], jitter=False), retry_for=("AGAIN",))
    async def fails_once(n: int) -> int:
        if n not in failed:
            failed.add(n)
            raise TaskError("AGAIN")
        return n

    async with Runtime(app) as rt:
        rt.start_worker()
        with psycopg.connect(postgres_url) as idle:
            idle.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            idle.execute("SELECT count(*) FROM pg_class")
            for first in range(0, 10 * ROUND, ROUND):
                numbers = range(first, first + ROUND)
                again = (await fails_once.handle(rt).send(first)).unwrap()
                handles = [answer.unwrap() for answer in await double.handle(rt).send_many([(n,) for n in numbers])]
                assert [await handle.get(timeout=30) for handle in handles] == [Ok(2 * n) for n in numbers]
                assert await again.get(timeout=30) == Ok(first)
            await wait_pruned(postgres_url, schema)
            assert dead_rows(postgres_url, schema) > 10 * ROUND
        handle = (await double.handle(rt).send(21)).unwrap()
        assert await handle.get(timeout=30) == Ok(42)
    with anyio.fail_after(30):
        while dead_rows(postgres_url, schema):
            await anyio.sleep(0.05)


async def wait_pruned(url: str, schema: str) -> None:
    """Until retention has removed every task, as far as a new snapshot shows."""
    with psycopg.connect(url, autocommit=True) as connection, anyio.fail_after(30):
        while connection.execute(f"SELECT FROM {schema}.tasks LIMIT 1".encode()).rowcount:
            await anyio.sleep(0.05)


def dead_rows(url: str, schema: str) -> int:
    """How many dead rows a vacuum leaves."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"VACUUM {schema}.tasks".encode())
        found = connection.execute("SELECT pg_stat_get_dead_tuples(%s::regclass)", (f"{schema}.tasks",)).fetchone()
    assert found is not None
    return int(found[0])
