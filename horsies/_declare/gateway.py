"""What those that know tasks, workflows and schedules need of the runtime, so that they need not know the runtime."""

from __future__ import annotations

from typing import Protocol

from .._send.gateway import Gateway
from .app import Horsies


class AppGateway(Gateway, Protocol):
    """An open runtime, with all that its application declares."""

    @property
    def app(self) -> Horsies: ...
