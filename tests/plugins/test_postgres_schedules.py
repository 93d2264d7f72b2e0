"""Sending for schedules where somebody else's transaction, a cancellation or a slow commit comes in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest

from horsies import AppConfig, Horsies, PoolConfig, ResilienceConfig, Runtime
from horsies.abc import Broker, BrokerError, Firing, Schedules, Scheduling, Topic, Transactional
from horsies.plugins.postgres import schedules as module
from horsies.testing._conformance.scheduling import NAME, begins, fires, for_slot, present, slot, standing
from horsies.testing.broker import T0, Stage, new_task

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

FOREVER = "60s"
"""In place of LOCK_WAIT where a test wants what waits to go on waiting."""

NESTED = "&options=-c%20enable_hashjoin%3Doff%20-c%20enable_mergejoin%3Doff%20-c%20enable_seqscan%3Doff"
"""Lets a join take its rows in the order of what was given."""


@pytest.fixture
def config(postgres_url: str, schema: str) -> AppConfig:
    """With one pooled connection, so that what one call leaves behind meets the next."""
    return AppConfig(url=postgres_url, schema=schema, pool=PoolConfig(max_size=1))


@pytest.fixture
async def stage(anyio_backend: Any, config: AppConfig) -> AsyncIterator[Stage]:
    async with opened(config) as broker, Stage.on(broker) as stage:
        yield stage


@pytest.fixture
def schedules(stage: Stage) -> Schedules:
    return kept_by(stage.broker)


@pytest.fixture
def observer(config: AppConfig) -> Iterator[psycopg.Connection]:
    with closing(psycopg.connect(config.url, autocommit=True)) as connection:
        yield connection


def opened(config: AppConfig) -> Any:
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


def kept_by(broker: Broker) -> Schedules:
    assert isinstance(broker, Scheduling)
    return broker.schedules


async def pooled(broker: Broker) -> Any:
    """Which connection the pool lends, and what would be left of a call in it."""
    assert isinstance(broker, Transactional)
    async with broker.transaction() as connection:
        cursor = await connection.execute(
            "SELECT pg_backend_pid(), current_setting('lock_timeout'), current_setting('transaction_isolation')"
        )
        return await cursor.fetchone()


async def until_waiting(observer: psycopg.Connection, config: AppConfig, sessions: int = 1) -> None:
    """Return once so many sessions wait for a lock or in a commit, as long as this test's schema is theirs."""
    query = """
        SELECT count(*) FROM pg_stat_activity AS session
        WHERE pid <> pg_backend_pid() AND wait_event_type IN ('Lock', 'Timeout') AND EXISTS (
            SELECT FROM pg_locks WHERE pg_locks.pid = session.pid
            AND relation = (SELECT oid FROM pg_class WHERE oid = to_regclass(%s))
        )
    """
    with anyio.fail_after(10):
        while observer.execute(query, (f"{config.schema}.schedules",)).fetchone() != (sessions,):
            await anyio.sleep(0.005)


def slow_commit(observer: psycopg.Connection, config: AppConfig, wait: str = "pg_sleep(60)") -> None:
    """From now on whoever writes a schedule waits before the commit."""
    observer.execute(
        f"""
        CREATE FUNCTION {config.schema}.linger() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM {wait}; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER linger AFTER UPDATE ON {config.schema}.schedules DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION {config.schema}.linger()
        """.encode()
    )


def quick_commit(observer: psycopg.Connection, config: AppConfig) -> None:
    observer.execute(f"DROP TRIGGER linger ON {config.schema}.schedules".encode())


Hold = Callable[[AppConfig], AbstractContextManager[None]]


def holding(statement: str) -> Hold:
    """In the block a transaction that has made `statement` is open; afterwards it is rolled back."""

    @contextmanager
    def hold(config: AppConfig) -> Iterator[None]:
        with closing(psycopg.connect(config.url)) as connection:
            connection.execute(statement.replace("{schema}", config.schema).encode())
            yield
            connection.rollback()

    return hold


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
            await until_waiting(observer, config)
            group.cancel_scope.cancel()
        assert await unwritten(stage, schedules)
        assert await pooled(stage.broker) == before
    assert await schedules.fire([firing], now=slot(2)) == [True]


async def test_a_firing_that_is_cancelled_at_its_commit_leaves_nothing(
    stage: Stage, schedules: Schedules, config: AppConfig, observer: psycopg.Connection, firing: Firing
) -> None:
    slow_commit(observer, config)
    before = await pooled(stage.broker)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(schedules.fire, [firing])
            await until_waiting(observer, config)
            group.cancel_scope.cancel()
        assert await unwritten(stage, schedules)
        assert await pooled(stage.broker) == before
    quick_commit(observer, config)
    assert await schedules.fire([firing], now=slot(2)) == [True]


@pytest.mark.parametrize("checkpoints", range(8))
async def test_wherever_a_firing_is_cancelled_all_of_it_is_written_or_nothing(
    stage: Stage, schedules: Schedules, firing: Firing, checkpoints: int
) -> None:
    before = await pooled(stage.broker)

    async def fire() -> None:
        await schedules.fire([firing], now=slot(2))
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(fire)
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    assert await pooled(stage.broker) == before
    if not await unwritten(stage, schedules):
        row = await standing(schedules)
        assert (row.next_slot, row.last_slot, await present(stage)) == (slot(3), slot(2), [1, 2])
        assert await stage.status(1) == "CANCELLED"


async def test_a_commit_takes_no_longer_than_a_statement_may(config: AppConfig, observer: psycopg.Connection) -> None:
    config = replace(config, resilience=ResilienceConfig(statement_timeout=0.5))
    with anyio.fail_after(20):
        async with opened(config) as broker, Stage.on(broker) as stage:
            schedules = kept_by(broker)
            await schedules.declare([begins()])
            slow_commit(observer, config)
            with pytest.raises(BrokerError) as raised:
                await schedules.fire([fires(1, for_slot(1))], now=slot(1))
            assert (raised.value.retryable, raised.value.locked) == (True, False)
            quick_commit(observer, config)
            assert await present(stage) == []
            assert await schedules.fire([fires(1, for_slot(1))], now=slot(1)) == [True]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
@pytest.mark.parametrize(
    ("change", "fired"),
    [
        ("next_slot = next_slot + interval '1 second'", False),
        ("next_slot = NULL", False),
        ("paused_at = now()", False),
        ("timing = 'once a minute'", False),
        ("problem = 'something'", True),
    ],
)
async def test_a_firing_sees_what_it_has_waited_for(
    config: AppConfig,
    observer: psycopg.Connection,
    change: str,
    fired: bool,
    isolation: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    default = f"&options=-c%20default_transaction_isolation%3D{isolation.replace(' ', '%5C%20')}"
    config = replace(config, url=config.url + default)
    answers: list[bool] = []

    async def fire() -> None:
        answers.extend(await schedules.fire([fires(1, for_slot(1))], now=slot(1)))

    async with opened(config) as broker, Stage.on(broker) as stage:
        schedules = kept_by(broker)
        await schedules.declare([begins()])
        before = await pooled(stage.broker)
        assert before[2] == isolation
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                with psycopg.connect(config.url) as connection:
                    connection.execute(f"UPDATE {config.schema}.schedules SET {change}".encode())
                    group.start_soon(fire)
                    await until_waiting(observer, config)
        assert answers == [fired]
        assert await present(stage) == [1] * fired
        assert await pooled(stage.broker) == before


async def test_two_that_name_the_same_schedules_never_lock_up(
    config: AppConfig, observer: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they locked in the order given, each would hold what the other waits for, and the server end one."""
    monkeypatch.setattr(module, "LOCK_WAIT", FOREVER)
    config = replace(config, url=config.url + NESTED, pool=PoolConfig(max_size=3))
    names = ["a", "b", "c"]
    answers: list[list[bool]] = []

    async def fire(schedules: Schedules, names: list[str]) -> None:
        firings = [fires(1, new_task(n), name=name) for n, name in enumerate(names, 1)]
        answers.append(await schedules.fire(firings, now=slot(1)))

    with anyio.fail_after(20):
        async with opened(config) as broker:
            schedules = kept_by(broker)
            await schedules.declare([begins(name) for name in names])
            async with anyio.create_task_group() as group:
                with holding("SELECT FROM {schema}.schedules WHERE name = 'b' FOR UPDATE")(config):
                    group.start_soon(fire, schedules, names)
                    await until_waiting(observer, config)
                    group.start_soon(fire, schedules, names[::-1])
                    await until_waiting(observer, config, sessions=2)
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
                    await until_waiting(observer, config)
                    group.start_soon(declare, schedules, names[::-1])
                    await until_waiting(observer, config, sessions=2)
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
    slow_commit(observer, config, "pg_advisory_xact_lock_shared(4711)")

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
                await until_waiting(observer, config)
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
        async with broker.transaction() as connection:
            cursor = await connection.execute("SELECT name FROM pg_prepared_statements")
            assert await cursor.fetchall() == []
            cursor = await connection.execute("SELECT name FROM pg_settings WHERE source = 'session'")
            assert await cursor.fetchall() == []
