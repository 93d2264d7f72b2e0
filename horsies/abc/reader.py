"""Answers about tasks and queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .records import QueueRow, StoredResult, TaskRow


class Reader(Protocol):
    """Answers questions; takes short borrows from the pool."""

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """Where these tasks stand, in any order; ids that are not there, or are no ids at all, are left out."""
        ...

    async def read(self, task_id: str) -> TaskRow | None:
        """Everything stored of one task."""
        ...

    async def queues(self) -> list[QueueRow]:
        """The queues that have unfinished tasks, or were ever paused, in any order."""
        ...
