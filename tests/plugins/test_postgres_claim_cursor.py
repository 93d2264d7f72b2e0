"""Under load claims begin where the last one ended: nothing is lost by it, and without load the order is strict."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import uuid_utils

from horsies import AppConfig, Horsies, Runtime
from horsies.abc import Consumer, NewTask, Producer
from horsies.plugins.postgres import claim_cursor as floors
from horsies.plugins.postgres import intake

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task is many, and floors hold for as long as the test lasts."""
    monkeypatch.setattr(floors, "MANY", 1)
    monkeypatch.setattr(floors, "LEAST", 3600.0)
    monkeypatch.setattr(floors, "MOST", 3600.0)


@asynccontextmanager
async def hands(url: str, schema: str, *queues: str) -> AsyncIterator[tuple[Producer, Consumer]]:
    async with (
        Runtime(Horsies(AppConfig(url=url, schema=schema))) as rt,
        rt._engine.broker.producer() as producer,
        rt._engine.broker.consumer("worker", [(queue, 1) for queue in queues or ("default",)]) as consumer,
    ):
        await consumer.join()
        yield producer, consumer


def new(priority: int, *, queue: str = "default", good_until: datetime | None = None) -> NewTask:
    return NewTask(
        task_id=str(uuid_utils.uuid7()),
        sha=b"",
        envelope=b"",
        task_name="task",
        queue=queue,
        priority=priority,
        sent_at=datetime.now(UTC),
        due_in=0.0,
        good_until=good_until,
    )


async def priorities(consumer: Consumer, limit: int) -> list[int]:
    return [task.priority for task in (await consumer.claim(limit)).tasks]


async def test_few_tasks_are_claimed_in_strict_order(postgres_url: str, schema: str) -> None:
    async with hands(postgres_url, schema) as (producer, consumer):
        await producer.enqueue([new(50) for _ in range(10)])
        assert await priorities(consumer, 5) == [50] * 5
        await producer.enqueue([new(1)])
        assert await priorities(consumer, 5) == [1, 50, 50, 50, 50]


@pytest.mark.usefixtures("loaded")
async def test_under_load_a_claim_begins_where_the_last_one_ended(postgres_url: str, schema: str) -> None:
    async with hands(postgres_url, schema) as (producer, consumer):
        await producer.enqueue([new(50) for _ in range(10)])
        assert await priorities(consumer, 5) == [50] * 5
        await producer.enqueue([new(1), new(60)])
        assert await priorities(consumer, 4) == [50] * 4
        assert await priorities(consumer, 5) == [50, 60]


@pytest.mark.usefixtures("loaded")
async def test_what_finds_nothing_behind_the_floors_has_looked_from_the_front(postgres_url: str, schema: str) -> None:
    async with hands(postgres_url, schema) as (producer, consumer):
        await producer.enqueue([new(50) for _ in range(5)])
        assert await priorities(consumer, 5) == [50] * 5
        await producer.enqueue([new(1)])
        assert await priorities(consumer, 5) == [1]
        assert await priorities(consumer, 5) == []


@pytest.mark.usefixtures("loaded")
async def test_what_is_given_back_is_claimed_again(postgres_url: str, schema: str) -> None:
    async with hands(postgres_url, schema) as (producer, consumer):
        await producer.enqueue([new(priority) for priority in (1, 2, 3)])
        assert await priorities(consumer, 3) == [1, 2, 3]
        assert await consumer.give_back_unknown([]) == 3
        assert await priorities(consumer, 3) == [3]
        assert await priorities(consumer, 3) == [1, 2]


async def test_floors_hold_for_a_moment_only(postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "MANY", 1)
    monkeypatch.setattr(floors, "MOST", 0.0)
    async with hands(postgres_url, schema) as (producer, consumer):
        await producer.enqueue([new(50) for _ in range(10)])
        assert await priorities(consumer, 5) == [50] * 5
        await producer.enqueue([new(1)])
        assert await priorities(consumer, 1) == [1]


@pytest.mark.usefixtures("loaded")
async def test_each_queue_has_a_floor_of_its_own(postgres_url: str, schema: str) -> None:
    async with hands(postgres_url, schema, "a", "b") as (producer, consumer):
        await producer.enqueue([new(50, queue="a") for _ in range(3)])
        assert await priorities(consumer, 2) == [50, 50]
        await producer.enqueue([new(1, queue="a"), new(2, queue="b")])
        assert await priorities(consumer, 5) == [2, 50]


async def test_many_expired_at_the_front_are_met_once(
    postgres_url: str, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_SWEEP", 2)
    monkeypatch.setattr(floors, "MOST", 3600.0)
    monkeypatch.setattr(floors, "LEAST", 3600.0)
    async with hands(postgres_url, schema) as (producer, consumer):
        await producer.enqueue([new(1, good_until=datetime.now(UTC) - HOUR) for _ in range(10)])
        await producer.enqueue([new(50) for _ in range(4)])
        first = await consumer.claim(2)
        assert (len(first.tasks), first.expired) == (2, 4)
        second = await consumer.claim(2)
        assert (len(second.tasks), second.expired) == (2, 0)
        third = await consumer.claim(2)
        assert (len(third.tasks), third.expired) == (0, 4)


async def test_the_floor_is_where_the_index_is_entered(postgres_url: str, schema: str) -> None:
    """A million dead entries before it are not walked past: the condition positions the scan, it filters nothing."""
    async with hands(postgres_url, schema):
        pass
    with psycopg.connect(postgres_url) as connection:
        connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = connection.execute(
            f"""
            EXPLAIN SELECT FROM (VALUES ('q', 5::bigint, now())) AS share (queue, priority, due_at) CROSS JOIN LATERAL (
                SELECT ctid FROM {schema}.tasks WHERE phase = 1 AND queue = share.queue AND due_at <= now()
                    AND (priority, due_at) >= (share.priority, share.due_at)
                ORDER BY priority, due_at, id LIMIT 100
            ) AS head
            """.encode()
        ).fetchall()
    (condition,) = [line for (line,) in plan if "Index Cond" in line]
    assert "ROW(priority, due_at) >=" in condition
