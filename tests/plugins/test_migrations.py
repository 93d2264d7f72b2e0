"""A database of an earlier version of horsies, with tasks in it: they are all there afterwards, and as they were."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import ModuleType

import pytest

from horsies import AppConfig, Horsies, Runtime
from horsies.abc import Broker, QueueRow, Scheduling, TaskRow
from horsies.plugins.postgres import schema as postgres_schema
from horsies.plugins.sqlite import schema as sqlite_schema
from horsies.testing._conformance.scheduling import NAME, begins, fires, slot, standing
from horsies.testing._conformance.stage import done
from horsies.testing.broker import T0, Stage, at, new_task

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True),
]


@pytest.fixture
def module(config: AppConfig) -> ModuleType:
    """Where this broker's migrations are listed."""
    return sqlite_schema if config.url.startswith("sqlite") else postgres_schema


def opened(config: AppConfig) -> AbstractAsyncContextManager[Broker]:
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


async def stored(stage: Stage) -> tuple[list[TaskRow], list[QueueRow]]:
    rows = [await stage.row(n) for n in range(1, 7)]
    return rows, sorted(await stage.broker.reader.queues(), key=lambda queue: queue.name)


async def test_tasks_outlive_the_coming_of_schedules(
    config: AppConfig, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_schedules = {version: name for version, name in module.migrations().items() if version <= 3}
    with monkeypatch.context() as patch:
        patch.setattr(module, "migrations", lambda: before_schedules)
        async with opened(config) as broker, Stage.on(broker) as stage:
            worker = await stage.worker()
            lease = await stage.started(worker, new_task(1))
            await worker.finish([done(lease)], now=at(1))
            again = await stage.started(worker, new_task(2, unique_key="k"), retry_after_crash=2.0)
            await stage.claimed(worker, new_task(3))
            await stage.send(new_task(4, good_until=at(60)), new_task(5, due_in=60), new_task(6, queue="slow"))
            await stage.broker.control.pause("slow", now=at(2))
            before = await stored(stage)
    async with opened(config) as broker, Stage.on(broker) as stage:
        assert await stored(stage) == before
        worker = await stage.worker()
        assert await worker.finish([done(again)], now=at(3)) == [True]
        assert isinstance(broker, Scheduling)
        assert (await broker.schedules.read()).rows == ()
        assert await broker.schedules.declare([begins()]) == [True]
        assert await broker.schedules.fire([fires(1, new_task(7))], now=slot(1)) == [True]
    async with opened(config) as broker:
        assert isinstance(broker, Scheduling)
        assert (await standing(broker.schedules, NAME)).last_task_id == new_task(7).task_id
