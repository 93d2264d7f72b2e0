"""Interventions from outside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from .._core.status import CancelOutcome


class Control(Protocol):
    """Intervenes from outside; takes short borrows from the pool."""

    async def cancel(self, task_ids: Sequence[str], *, now: datetime | None = None) -> list[CancelOutcome]:
        """PENDING, CLAIMED -> CANCELLED, waiters notified; for RUNNING ones the request is stored, workers notified."""
        ...

    async def pause(self, queue: str, *, now: datetime | None = None) -> bool:
        """Let nothing more be claimed of a queue; whether it was not paused before."""
        ...

    async def resume(self, queue: str) -> bool:
        """Let a queue be claimed from again, and notify the workers; whether it was paused."""
        ...
