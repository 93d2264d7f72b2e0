"""What only Postgres promises: rows that somebody else has locked are passed over, never waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from horsies import AppConfig, Horsies, Runtime
from horsies.abc import (
    BrokerError,
    Consumer,
    EnqueueOutcome,
    Finish,
    Producer,
    Promotion,
    Start,
    StartOutcome,
    TaskStatus,
    Transactional,
)
from horsies.plugins.postgres.maintenance import PostgresMaintenance
from horsies.plugins.postgres.queries import quoted
from horsies.testing._conformance.stage import done
from horsies.testing.broker import T0, Stage, at, new_task

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)]


@pytest.fixture
async def stage(config: AppConfig) -> AsyncIterator[Stage]:
    factory = Runtime(Horsies(config)).broker_factory()
    async with factory.open(config, clock=lambda: T0) as broker, Stage.on(broker) as stage:
        yield stage


@contextmanager
def locked(config: AppConfig, n: int) -> Iterator[None]:
    """The n-th task is locked by a transaction of somebody else."""
    with psycopg.connect(config.url) as connection:
        statement = f"SELECT FROM {config.schema}.tasks WHERE id = %s FOR UPDATE"
        assert connection.execute(statement.encode(), (UUID(int=n),)).rowcount == 1
        yield


async def claim(worker: Consumer, now: float) -> list[int]:
    return [UUID(task.lease.task_id).int for task in (await worker.claim(2, now=at(now))).tasks]


async def test_a_claim_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    await stage.send(new_task(1), new_task(2), new_task(3))
    with anyio.fail_after(10), locked(config, 1):
        got = await claim(worker, 1)
        assert 1 not in got
        assert got
    assert await claim(worker, 1) != []


async def test_a_promotion_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    await stage.send(new_task(1, due_in=1), new_task(2, due_in=1))
    with anyio.fail_after(10), locked(config, 1):
        assert (await worker.promote(10, now=at(2))).promoted == 1
    assert (await worker.promote(10, now=at(2))).promoted == 1


async def test_a_row_that_is_never_due_has_no_next_due_time(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    await stage.send(new_task(1, due_in=1))
    with psycopg.connect(config.url) as other:
        other.execute(f"ALTER TABLE {config.schema}.tasks DROP CONSTRAINT tasks_instants_in_calendar".encode())
        other.execute(f"UPDATE {config.schema}.tasks SET due_at = 'infinity'".encode())
    assert await worker.promote(10, now=at(2)) == Promotion(0, None)


async def test_an_expiry_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    await stage.claimed(worker, new_task(3, good_until=at(1)))
    await stage.claimed(worker, new_task(4, good_until=at(1)))
    await stage.send(new_task(1, good_until=at(1)), new_task(2, good_until=at(1)))
    with anyio.fail_after(10), locked(config, 1), locked(config, 3):
        assert await stage.maintenance.expire(10, now=at(2)) == 2
    assert await stage.maintenance.expire(10, now=at(2)) == 2


async def test_a_sweep_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    await stage.send(*(new_task(n, priority=n, good_until=at(1)) for n in range(1, 4)))
    with anyio.fail_after(10), locked(config, 2):
        assert (await worker.claim(1, now=at(2))).expired == 2


async def test_giving_back_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    await stage.claimed(worker, new_task(1))
    await stage.claimed(worker, new_task(2))
    with anyio.fail_after(10), locked(config, 1):
        assert await worker.give_back_unknown([]) == 1
        await stage.claimed(worker, new_task(3))
        assert await worker.leave() >= 1
    # What was locked is an orphan.
    assert await stage.reap(10, now=at(1)) == 1
    assert await stage.status(1) is TaskStatus.PENDING


async def test_a_start_waits_for_nobody_for_long(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    leases = [await stage.claimed(worker, new_task(n)) for n in range(1, 6)]
    with anyio.fail_after(10), locked(config, 3):
        outcomes = await worker.start([Start(lease) for lease in leases], now=at(1))
    expected = [StartOutcome.STARTED] * 5
    expected[2] = StartOutcome.LOCKED
    assert outcomes == expected
    assert await worker.start([Start(leases[2])], now=at(1)) == [StartOutcome.STARTED]


async def test_locked_rows_hide_no_others(stage: Stage, config: AppConfig) -> None:
    dead = await stage.worker()
    for n in range(1, 4):
        await stage.started(dead, new_task(n))
        await stage.send(new_task(n + 10, queue="slow", priority=n, good_until=at(n)))
    with anyio.fail_after(10), locked(config, 1), locked(config, 11):
        assert [await stage.reap(1, now=at(60)) for _ in range(3)] == [1, 1, 0]
        assert [await stage.maintenance.expire(1, now=at(60)) for _ in range(3)] == [1, 1, 0]
    assert await stage.reap(1, now=at(60)) == 1


async def test_reaping_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    dead = await stage.worker()
    await stage.started(dead, new_task(1))
    await stage.started(dead, new_task(2))
    with anyio.fail_after(10), locked(config, 1):
        assert await stage.reap(10, now=at(60)) == 1
    assert await stage.reap(10, now=at(60)) == 1


async def test_removing_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    for n in (1, 2):
        await worker.finish([done(await stage.started(worker, new_task(n)))], now=at(n))
    with anyio.fail_after(10), locked(config, 1):
        assert await stage.maintenance.prune(10, finished_after=timedelta(seconds=1), now=at(60)) == 1
    assert await stage.maintenance.prune(10, finished_after=timedelta(seconds=1), now=at(60)) == 1


@contextmanager
def lease_locked(config: AppConfig) -> Iterator[None]:
    with psycopg.connect(config.url) as connection:
        connection.execute(f"SELECT FROM {config.schema}.leases FOR UPDATE".encode())
        yield


async def test_a_heartbeat_waits_for_nobody(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    with anyio.fail_after(10), lease_locked(config):
        assert not await worker.lead(now=at(1))
    assert await worker.lead(now=at(1))


async def test_who_is_writing_a_heartbeat_is_not_dead(stage: Stage, config: AppConfig) -> None:
    worker = await stage.worker()
    with anyio.fail_after(10), psycopg.connect(config.url) as connection:
        connection.execute(f"SELECT FROM {config.schema}.workers FOR NO KEY UPDATE".encode())
        assert await stage.reap(10, now=at(60)) == 0
    assert await worker.beat(now=at(60))


def refuse(config: AppConfig, n: int) -> None:
    """From now on the n-th task can be neither changed nor removed."""
    with psycopg.connect(config.url) as connection:
        connection.execute(
            f"""
            CREATE FUNCTION {config.schema}.refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
            CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON {config.schema}.tasks FOR EACH ROW
            WHEN (old.id = '{UUID(int=n)}') EXECUTE FUNCTION {config.schema}.refuse()
            """.encode()
        )


async def test_an_orphan_that_cannot_be_written_keeps_no_other_waiting(
    stage: Stage, config: AppConfig, caplog: pytest.LogCaptureFixture
) -> None:
    dead = await stage.worker()
    for n in range(1, 8):
        await stage.started(dead, new_task(n))
    refuse(config, 3)
    assert [await stage.reap(5, now=at(60)) for _ in range(3)] == [4, 2, 0]
    assert [await stage.status(n) for n in range(1, 8)] == [
        TaskStatus.RUNNING if n == 3 else TaskStatus.FAILED for n in range(1, 8)
    ]
    (record,) = caplog.records
    assert str(UUID(int=3)) in record.getMessage()


async def test_an_overdue_row_that_cannot_be_written_keeps_no_other_waiting(
    stage: Stage, config: AppConfig, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.send(*(new_task(n, good_until=at(n)) for n in range(1, 8)))
    refuse(config, 3)
    assert [await stage.maintenance.expire(5, now=at(60)) for _ in range(3)] == [4, 2, 0]
    assert await stage.status(3) is TaskStatus.PENDING
    assert len(caplog.records) == 1


async def test_what_began_between_the_choice_and_the_act_is_left_alone(stage: Stage) -> None:
    worker = await stage.worker()
    lease = await stage.started(worker, new_task(1, good_until=at(1)))
    maintenance = stage.maintenance
    assert isinstance(maintenance, PostgresMaintenance)
    assert await maintenance._act("tasks.expire", {"ids": [lease.task_id], "now": at(2)}) == 0
    assert await maintenance._act("tasks.prune", {"ids": [lease.task_id]}) == 0
    assert await stage.status(1) is TaskStatus.RUNNING


async def test_an_old_row_that_cannot_be_removed_keeps_no_other_there(
    stage: Stage, config: AppConfig, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await stage.worker()
    for n in range(1, 8):
        await worker.finish([done(await stage.started(worker, new_task(n)))], now=at(n))
    refuse(config, 3)
    old = timedelta(seconds=1)
    assert [await stage.maintenance.prune(5, finished_after=old, now=at(60)) for _ in range(3)] == [4, 2, 0]
    assert await stage.status(3) is TaskStatus.COMPLETED
    assert len(caplog.records) == 1


async def test_a_cancel_request_between_the_decision_and_the_write_of_a_retry_is_seen(
    stage: Stage, config: AppConfig
) -> None:
    worker = await stage.worker()
    lease = await stage.started(worker, new_task(1))
    answers: list[list[bool]] = []

    async def finish() -> None:
        end = Finish(lease, TaskStatus.PENDING, b"failed", "A_CODE", retry_in=5.0)
        answers.append(await worker.finish([end], now=at(2)))

    request = f"UPDATE {config.schema}.tasks SET cancel_requested_at = %s WHERE id = %s"
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    with psycopg.connect(config.url, autocommit=True) as observer:
        async with anyio.create_task_group() as group:
            with psycopg.connect(config.url) as connection, anyio.fail_after(10):
                connection.execute(request.encode(), (at(1), lease.task_id))
                group.start_soon(finish)
                while observer.execute(waiting, (f"%{quoted(config.schema)}.tasks%",)).fetchone() == (0,):
                    await anyio.sleep(0.01)
    assert answers == [[True]]
    assert await stage.status(1) is TaskStatus.CANCELLED


async def test_an_insert_waits_for_a_key_only_so_long(stage: Stage, config: AppConfig) -> None:
    async def send(producer: Producer, n: int) -> list[EnqueueOutcome]:
        return [answer.outcome for answer in await producer.enqueue([new_task(n, unique_key="k")], now=T0)]

    async with stage.broker.producer(lock_wait=0.05) as producer:
        with psycopg.connect(config.url) as connection:
            insert = f"""
                INSERT INTO {config.schema}.tasks
                    (id, phase, status, queue, priority, due_at, sent_at, task_name, envelope, sha, unique_key)
                VALUES (%s, 1, 'PENDING', 'fast', 50, now(), now(), 'a_task', '', '', 'k')
            """
            connection.execute(insert.encode(), (UUID(int=7),))
            with pytest.raises(BrokerError, match="55P03") as raised:
                await send(producer, 1)
            assert raised.value.retryable
            connection.rollback()
        assert await send(producer, 1) == [EnqueueOutcome.INSERTED]


async def test_the_verdict_reaches_the_row_with_the_start(stage: Stage) -> None:
    worker = await stage.worker()
    first, second = await stage.claimed(worker, new_task(1)), await stage.claimed(worker, new_task(2))
    await worker.start([Start(first, 3.0), Start(second)], now=T0)
    await stage.reap(10, now=at(60))
    assert (await stage.row(1)).due_at == at(63)


async def test_only_a_claim_that_starts_tasks_waits_for_the_disk(config: AppConfig) -> None:
    """A claim that a crash of the server undoes comes again under another number, so its start is fenced."""
    config = replace(config, url=f"{config.url}&options=-c%20synchronous_commit%3Don")
    factory = Runtime(Horsies(config)).broker_factory()
    async with factory.open(config, clock=lambda: T0) as broker, Stage.on(broker) as stage:
        with psycopg.connect(config.url, autocommit=True) as connection:
            for statement in (
                "CREATE TABLE {s}.seen (n serial, waits text)",
                "CREATE FUNCTION {s}.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO {s}.seen (waits) VALUES (current_setting('synchronous_commit')); RETURN NEW; END $$",
                "CREATE TRIGGER see BEFORE UPDATE ON {s}.tasks FOR EACH ROW EXECUTE FUNCTION {s}.see()",
            ):
                connection.execute(statement.replace("{s}", config.schema).encode())
            worker = await stage.worker()
            await stage.send(new_task(1), new_task(2), new_task(3))
            for startable in ((), ("a_task",), ()):
                assert len((await worker.claim(1, startable=startable, now=at(1))).tasks) == 1
            rows = connection.execute(f"SELECT waits FROM {config.schema}.seen ORDER BY n".encode()).fetchall()
            assert rows == [("off",), ("on",), ("off",)]


async def test_a_producer_joins_no_transaction_of_another_database(stage: Stage, config: AppConfig) -> None:
    """It has the same tables under the same names, so that the rows would go there."""
    name = f"{config.schema}_elsewhere"
    parts = {**conninfo_to_dict(config.url), "dbname": name}
    broker = stage.broker
    assert isinstance(broker, Transactional)
    with psycopg.connect(config.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            with psycopg.connect(**parts) as elsewhere, psycopg.connect(config.url) as here:  # type: ignore[arg-type]
                with pytest.raises(ValueError, match="another server or database"):
                    await broker.joining(elsewhere).enqueue([new_task(1)])
                assert elsewhere.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
                (answer,) = await broker.joining(here).enqueue([new_task(1)])
                assert answer.outcome is EnqueueOutcome.INSERTED
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
