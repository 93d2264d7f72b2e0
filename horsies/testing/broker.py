"""The suite every broker passes. A plugin's author subclasses it in a pytest module:

    class TestMine(BrokerConformance):
        @pytest.fixture
        async def broker(self, anyio_backend): ...   # yields an open Broker on an empty database

        @pytest.fixture
        async def capped_broker(self, anyio_backend): ...   # the same, configured with CAPS

A broker that keeps schedules passes `ScheduleConformance` as well, and one that keeps workflows `WorkflowConformance`;
they need the fixture `broker` only.

Instants are parameters throughout; no test sleeps. The suite needs pytest and anyio's plugin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from horsies import QueueConfig
from horsies.abc import Broker

from ._conformance.advancing import Advancing
from ._conformance.capping import Capping
from ._conformance.claiming import Claiming
from ._conformance.ending import Ending
from ._conformance.finishing import Finishing
from ._conformance.looking_after import LookingAfter
from ._conformance.noticing import Noticing
from ._conformance.parts import Parting
from ._conformance.scheduling import Scheduling
from ._conformance.sending import Sending
from ._conformance.stage import CHANGES, T0, Stage, at, new_task
from ._conformance.workflows import Flowing

CAPS: Mapping[str, Any] = {
    "queues": (QueueConfig("fast", max_concurrency=2), QueueConfig("slow")),
    "cluster_wide_cap": 3,
}
"""Fields of the `AppConfig` of the fixture `capped_broker`."""

__all__ = [
    "CAPS",
    "CHANGES",
    "T0",
    "BrokerConformance",
    "ScheduleConformance",
    "Stage",
    "WorkflowConformance",
    "at",
    "new_task",
]


class _OnStage:
    @pytest.fixture
    async def stage(self, broker: Broker) -> AsyncIterator[Stage]:
        async with Stage.on(broker) as stage:
            yield stage


@pytest.mark.anyio
class BrokerConformance(LookingAfter, Capping, Noticing, Ending, Claiming, Sending, _OnStage):
    """Subclass it and provide the fixtures `broker` and `capped_broker`."""


@pytest.mark.anyio
class ScheduleConformance(Scheduling, _OnStage):
    """For a broker that keeps schedules: subclass it, beside the other, and provide the fixture `broker`."""


@pytest.mark.anyio
class WorkflowConformance(Finishing, Parting, Advancing, Flowing, _OnStage):
    """For a broker that keeps workflows: subclass it, beside the others, and provide the fixture `broker`."""
