"""Both brokers pass the suite that third parties run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from horsies import AppConfig, Horsies, Runtime
from horsies._core.status import allowed
from horsies.abc import Broker
from horsies.testing.broker import CAPS, CHANGES, T0, BrokerConformance


class TestBrokers(BrokerConformance):
    @pytest.fixture
    async def broker(self, anyio_backend: Any, config: AppConfig) -> AsyncIterator[Broker]:
        factory = Runtime(Horsies(config)).broker_factory()
        async with factory.open(config, clock=lambda: T0) as broker:
            yield broker

    @pytest.fixture
    async def capped_broker(self, anyio_backend: Any, config: AppConfig) -> AsyncIterator[Broker]:
        capped = replace(config, **CAPS)
        factory = Runtime(Horsies(capped)).broker_factory()
        async with factory.open(capped, clock=lambda: T0) as broker:
            yield broker


def test_the_changes_of_the_suite_are_in_the_table() -> None:
    assert all(allowed(before, after) for before, after in CHANGES)
