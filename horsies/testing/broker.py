"""The suite every broker passes. A plugin's author subclasses it in a pytest module:

    class TestMine(BrokerConformance):
        @pytest.fixture
        async def broker(self, anyio_backend): ...   # yields an open Broker on an empty database

Instants are parameters throughout; no test sleeps. The suite needs pytest and anyio's plugin.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from horsies.abc import Broker

from ._conformance.claiming import Claiming
from ._conformance.ending import Ending
from ._conformance.looking_after import LookingAfter
from ._conformance.noticing import Noticing
from ._conformance.sending import Sending
from ._conformance.stage import CHANGES, T0, Stage, at, new_task

__all__ = ["CHANGES", "T0", "BrokerConformance", "Stage", "at", "new_task"]


@pytest.mark.anyio
class BrokerConformance(LookingAfter, Noticing, Ending, Claiming, Sending):
    """Subclass it and provide the fixture `broker`."""

    @pytest.fixture
    async def stage(self, broker: Broker) -> AsyncIterator[Stage]:
        async with Stage.on(broker) as stage:
            yield stage
