"""Sending for schedules where somebody else's transaction, a cancellation or a slow commit comes in between."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from sessions import FOREVER, Hold, holding, opened, pooled, quick_commit, slow_commit, until_waiting

from horsies import AppConfig, PoolConfig, ResilienceConfig
from horsies.abc import Broker, BrokerError, Firing, Schedules, Scheduling, Topic
from horsies.plugins.postgres import schedules as module
from horsies.plugins.postgres.driver import connection
from horsies.testing._conformance.scheduling import NAME, begins, fires, for_slot, present, slot, standing
from horsies.testing.broker import Stage, new_task

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

BY_INDEX = "&options=-c%20enable_seqscan%3Doff%20-c%20enable_bitmapscan%3Doff"
BY_PLACE = "&options=-c%20enable_indexscan%3Doff%20-c%20enable_bitmapscan%3Doff"
"""In which order a statement meets its rows: that of their names, or that of where they lie."""


@pytest.fixture
def config(postgres_url: str, schema: str) -> AppConfig:
    """With one pooled connection, so that what one call leaves behind meets the next."""
    return AppConfig(url=postgres_url, schema=schema, pool=PoolConfig(max_size=1))


@pytest.fixture
def schedules(stage: Stage) -> Schedules:
    return kept_by(stage.broker)


def kept_by(broker: Broker) -> Schedules:
    assert isinstance(broker, Scheduling)
    return broker.schedules


THE_SCHEDULE = holding(f"SELECT FROM {{schema}}.schedules WHERE name = '{NAME}' FOR UPDATE")
THE_KEY = holding(
    f"""
    INSERT INTO {{schema}}.tasks
        (id, phase, status, queue, priority, due_at, sent_at, task_name, envelope, sha, unique_key)
    VALUES ('{UUID(int=20)}', 1, 'PENDING', 'fast', 50, now(), now(), 'a_task', '', '', 'k')
    """
)
THE_PREVIOUS_TASK = holding(f"SELECT FROM {{schema}}.tasks WHERE id = '{UUID(int=1)}' FOR UPDATE")
HELD = pytest.mark.parametrize(
    "hold",
    [
        pytest.param(THE_SCHEDULE, id="the schedule"),
        pytest.param(THE_KEY, id="the key"),
        pytest.param(THE_PREVIOUS_TASK, id="the previous task"),
    ],
)


@pytest.fixture
async def firing(schedules: Schedules) -> Firing:
    """It sends a task that has a key, and cancels the one before."""
    await schedules.declare([begins(), begins("other")])
    await schedules.fire([fires(1, for_slot(1))], now=slot(1))
    return fires(2, for_slot(2, unique_key="k"), cancel_previous=True)


async def unwritten(stage: Stage, schedules: Schedules) -> bool:
    """Whether nothing was written of the firing."""
    row = await standing(schedules)
    return (row.next_slot, row.last_slot, await present(stage), await stage.status(1)) == (
        slot(2),
        slot(1),
        [1],
        "PENDING",
    )


@HELD
async def test_what_somebody_holds_is_waited_for_a_moment_only(
    stage: Stage, schedules: Schedules, config: AppConfig, firing: Firing, hold: Hold
) -> None:
    before = await pooled(stage.broker)
    with anyio.fail_after(10), hold(config):
        with pytest.raises(BrokerError) as raised:
            await schedules.fire([fires(1, new_task(11), name="other"), firing], now=slot(2))
        assert (raised.value.retryable, raised.value.locked) == (True, True)
        assert await unwritten(stage, schedules)
        assert await pooled(stage.broker) == before
        assert await schedules.fire([fires(1, new_task(11), name="other")], now=slot(2)) == [True]
    assert await schedules.fire([firing], now=slot(2)) == [True]
    assert await pooled(stage.broker) == before


@HELD
async def test_a_firing_that_is_cancelled_leaves_nothing(
    stage: Stage,
    schedules: Schedules,
    config: AppConfig,
    observer: psycopg.Connection,
    firing: Firing,
    hold: Hold,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    before = await pooled(stage.broker)
    with anyio.fail_after(10), hold(config):
        async with anyio.create_task_group() as group:
            group.start_soon(schedules.fire, [firing])
            await until_waiting(observer, config, "schedules")
            group.cancel_scope.cancel()
        assert await unwritten(stage, schedules)
        assert await pooled(stage.broker) == before
    assert await schedules.fire([firing], now=slot(2)) == [True]


async def test_a_firing_that_is_cancelled_at_its_commit_leaves_nothing(
    stage: Stage, schedules: Schedules, config: AppConfig, observer: psycopg.Connection, firing: Firing
) -> None:
    slow_commit(observer, config, "schedules")
    before = await pooled(stage.broker)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(schedules.fire, [firing])
            await until_waiting(observer, config, "schedules")
            group.cancel_scope.cancel()
        assert await unwritten(stage, schedules)
        assert await pooled(stage.broker) == before
    quick_commit(observer, config, "schedules")
    assert await schedules.fire([firing], now=slot(2)) == [True]


async def test_wherever_a_firing_is_cut_off_all_of_it_is_written_or_nothing(
    stage: Stage, schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled at each of its waits for the server in turn, with a statement under way."""
    await schedules.declare([begins()])
    before = await pooled(stage.broker)
    wait_ready = connection._wait_ready
    written, cuts = 0, 0
    for waits in count(1):
        left = waits
        with anyio.CancelScope() as scope:

            async def cutting(*waiting: Any, scope: anyio.CancelScope = scope) -> int:
                nonlocal left
                left -= 1
                if left == 0:
                    scope.cancel()
                return await wait_ready(*waiting)

            with monkeypatch.context() as patch:
                patch.setattr(connection, "_wait_ready", cutting)
                n = written + 1
                await schedules.fire([fires(n, for_slot(n), cancel_previous=True)], now=slot(n))
        assert await pooled(stage.broker) == before
        row = await standing(schedules)
        written += row.next_slot != slot(written + 1)
        assert row.next_slot == slot(written + 1)
        assert row.last_slot == (slot(written) if written else None)
        assert await present(stage) == list(range(1, written + 1))
        states = [await stage.status(n) for n in range(1, written + 1)]
        assert states == ["CANCELLED"] * (written - 1) + ["PENDING"] * (written > 0)
        if not scope.cancelled_caught:
            break
        cuts += 1
    assert cuts >= 6


async def test_a_commit_takes_no_longer_than_a_statement_may(config: AppConfig, observer: psycopg.Connection) -> None:
    config = replace(config, resilience=ResilienceConfig(statement_timeout=0.5))
    with anyio.fail_after(20):
        async with opened(config) as broker, Stage.on(broker) as stage:
            schedules = kept_by(broker)
            await schedules.declare([begins()])
            slow_commit(observer, config, "schedules")
            with pytest.raises(BrokerError) as raised:
                await schedules.fire([fires(1, for_slot(1))], now=slot(1))
            assert (raised.value.retryable, raised.value.locked) == (True, False)
            quick_commit(observer, config, "schedules")
            assert await present(stage) == []
            assert await schedules.fire([fires(1, for_slot(1))], now=slot(1)) == [True]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize(
    ("change", "number", "fired"),
    [
        ("next_slot = next_slot + interval '1 second'", 1, False),
        ("next_slot = next_slot + interval '1 second'", 2, True),
        ("next_slot = NULL", 1, False),
        ("paused_at = now()", 1, False),
        ("timing = 'once a minute'", 1, False),
        ("problem = 'something'", 1, True),
    ],
)
async def test_a_firing_sees_what_it_has_waited_for(
    config: AppConfig,
    observer: psycopg.Connection,
    change: str,
    number: int,
    fired: bool,
    isolation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes after the other, wherever the schedule stood before."""
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    default = f"&options=-c%20default_transaction_isolation%3D{isolation.replace(' ', '%5C%20')}"
    config = replace(config, url=config.url + default)
    answers: list[bool] = []

    async def fire() -> None:
        answers.extend(await schedules.fire([fires(number, for_slot(number))], now=slot(number)))

    async with opened(config) as broker, Stage.on(broker) as stage:
        schedules = kept_by(broker)
        await schedules.declare([begins()])
        before = await pooled(stage.broker)
        assert before[2] == isolation
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                with psycopg.connect(config.url) as other:
                    other.execute(f"UPDATE {config.schema}.schedules SET {change}".encode())
                    group.start_soon(fire)
                    await until_waiting(observer, config, "schedules")
        assert answers == [fired]
        assert await present(stage) == [number] * fired
        assert await pooled(stage.broker) == before


async def test_two_that_name_the_same_schedules_never_lock_up(
    config: AppConfig, observer: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they locked in the order met, each would hold what the other waits for, and the server end one."""
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    by_index, by_place = (replace(config, url=config.url + order) for order in (BY_INDEX, BY_PLACE))
    names = ["a", "b", "c"]
    answers: list[list[bool]] = []

    async def fire(schedules: Schedules, names: list[str]) -> None:
        firings = [fires(1, new_task(n), name=name) for n, name in enumerate(names, 1)]
        answers.append(await schedules.fire(firings, now=slot(1)))

    with anyio.fail_after(20):
        async with opened(by_index) as one, opened(by_place) as other:
            await kept_by(one).declare([begins(name) for name in names])
            for name in ("b", "a"):  # what is updated lies at the end from then on
                observer.execute(f"UPDATE {config.schema}.schedules SET problem = '' WHERE name = %s".encode(), (name,))
            async with anyio.create_task_group() as group:
                with holding("SELECT FROM {schema}.schedules WHERE name = 'b' FOR UPDATE")(config):
                    group.start_soon(fire, kept_by(one), names)
                    await until_waiting(observer, config, "schedules")
                    group.start_soon(fire, kept_by(other), names[::-1])
                    await until_waiting(observer, config, "schedules", sessions=2)
    assert sorted(answers) == [[False] * 3, [True] * 3]


async def test_two_that_declare_the_same_schedules_never_lock_up(
    config: AppConfig, observer: psycopg.Connection
) -> None:
    config = replace(config, pool=PoolConfig(max_size=3))
    names = ["a", "b", "c"]
    answers: list[list[bool]] = []

    async def declare(schedules: Schedules, names: list[str]) -> None:
        answers.append(await schedules.declare([begins(name, timing="once a minute") for name in names]))

    with anyio.fail_after(20):
        async with opened(config) as broker:
            schedules = kept_by(broker)
            await schedules.declare([begins(name) for name in names])
            async with anyio.create_task_group() as group:
                with holding("SELECT FROM {schema}.schedules WHERE name = 'b' FOR UPDATE")(config):
                    group.start_soon(declare, schedules, names)
                    await until_waiting(observer, config, "schedules")
                    group.start_soon(declare, schedules, names[::-1])
                    await until_waiting(observer, config, "schedules", sessions=2)
    assert sorted(answers) == [[False] * 3, [True] * 3]


async def test_tasks_are_announced_with_the_commit(
    stage: Stage,
    schedules: Schedules,
    config: AppConfig,
    observer: psycopg.Connection,
    firing: Firing,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Others hear of tasks that they can find, and of none that never came to be."""
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    slow_commit(observer, config, "schedules", "pg_advisory_xact_lock_shared(4711)")

    def announce(queue: str) -> None:
        observer.execute("SELECT pg_notify(%s, %s)", (f"{config.schema}_work", f"ready:{queue}"))

    with anyio.fail_after(10):
        async with stage.broker.listen(Topic.WORK) as work, anyio.create_task_group() as group:
            with pytest.raises(BrokerError):
                await schedules.fire([replace(firing, tasks=(*firing.tasks, new_task(3, task_id="nonsense")))])
            announce("sentinel")
            assert await work.receive() == ["ready:sentinel"]
            with closing(psycopg.connect(config.url)) as holder:
                holder.execute("SELECT pg_advisory_xact_lock(4711)")
                group.start_soon(schedules.fire, [firing])
                await until_waiting(observer, config, "schedules")
                announce("another")
                assert await work.receive() == ["ready:another"]
                holder.rollback()
            assert await work.receive() == ["ready:fast"]
            assert await present(stage) == [1, 2]


async def test_behind_a_pooler_nothing_is_left_in_the_session(config: AppConfig) -> None:
    """Sessions there belong to whoever comes next: what is prepared fails, and what is set counts for others."""
    async with opened(replace(config, listen_url=config.url)) as broker:
        schedules = kept_by(broker)
        await schedules.declare([begins()])
        for n in range(1, 10):
            assert await schedules.fire([fires(n, for_slot(n), cancel_previous=True)], now=slot(n)) == [True]
            await schedules.pause(NAME)
            await schedules.resume(NAME, slot(n + 1))
            await schedules.read()
        async with broker.transaction() as lent:
            cursor = await lent.execute("SELECT name FROM pg_prepared_statements")
            assert await cursor.fetchall() == []
            cursor = await lent.execute("SELECT name FROM pg_settings WHERE source = 'session'")
            assert await cursor.fetchall() == []
