"""Both brokers pass the suite that third parties run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import anyio
import pytest

from horsies import AppConfig, Horsies, QueueConfig, Runtime
from horsies._core.status import allowed
from horsies.abc import Broker, Topic
from horsies.testing._conformance.stage import heard, ids
from horsies.testing.broker import (
    CAPS,
    CHANGES,
    T0,
    BrokerConformance,
    ScheduleConformance,
    Stage,
    WorkflowConformance,
    at,
    new_task,
)


class TestBrokers(BrokerConformance, ScheduleConformance, WorkflowConformance):
    @pytest.fixture
    async def broker(self, anyio_backend: Any, config: AppConfig) -> AsyncIterator[Broker]:
        factory = Runtime(Horsies(config)).broker_factory()
        async with factory.open(config, clock=lambda: T0) as broker:
            yield broker

    async def test_a_claim_sweeps_aside_what_expired_behind_what_it_met(self, stage: Stage) -> None:
        """Third parties may bound it otherwise; ours sweep all of these, and tell who waits."""
        worker = await stage.worker()
        await stage.send(*(new_task(n, priority=n, good_until=at(2)) for n in range(1, 5)))
        with anyio.fail_after(10):
            async with stage.broker.listen(Topic.FINISHED) as finished:
                assert (await worker.claim(1, now=at(2))).expired == 4
                assert await heard(finished, {str(UUID(int=n)) for n in range(1, 5)})

    async def test_a_lone_queue_is_claimed_from_like_any_other(self, anyio_backend: Any, config: AppConfig) -> None:
        """No cap is over all queues, and the worker serves one: nothing is to be shared out."""
        one = (QueueConfig("fast", max_concurrency=3),)
        factory = Runtime(Horsies(replace(config, queues=one))).broker_factory()
        async with factory.open(replace(config, queues=one), clock=lambda: T0) as broker, Stage.on(broker) as stage:
            worker = await stage.worker(queues=(("fast", 1),))
            await stage.send(*(new_task(n, priority=2) for n in range(1, 5)), new_task(5), now=at(1))
            await stage.send(new_task(6, priority=1), now=at(9))
            await stage.send(*(new_task(n, priority=1, good_until=at(3)) for n in range(7, 10)), now=at(1))
            first = await worker.claim(2, now=at(4))
            assert (ids(first.tasks), first.expired) == ([1, 2], 3)
            assert ids((await worker.claim(9, now=at(4))).tasks) == [3]
            assert (await worker.claim(9, now=at(4))).tasks == ()

    @pytest.fixture
    async def capped_broker(self, anyio_backend: Any, config: AppConfig) -> AsyncIterator[Broker]:
        capped = replace(config, **CAPS)
        factory = Runtime(Horsies(capped)).broker_factory()
        async with factory.open(capped, clock=lambda: T0) as broker:
            yield broker


def test_the_changes_of_the_suite_are_in_the_table() -> None:
    assert all(allowed(before, after) for before, after in CHANGES)
