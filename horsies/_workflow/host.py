"""What workflows need of the runtime, beside what tasks need of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from .._task.host import Host
from ..abc import StoredResult, WorkflowRow, Workflows


class WorkflowHost(Host, Protocol):
    """An open runtime, as workflows and their handles see it."""

    @property
    def workflows(self) -> Workflows:
        """Where workflows are kept. Raises: HorsiesError, the broker keeps none."""
        ...

    def nodes_ended(self, workflow_ids: Iterable[str]) -> None:
        """Have what follows in these workflows follow: tasks of theirs have ended."""
        ...

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """Where these tasks stand, in any order. Raises: BrokerError."""
        ...

    async def wait_workflow(self, workflow_id: str) -> WorkflowRow | None:
        """Wait until a workflow has ended, or is paused; None when there is none. Raises: BrokerError."""
        ...
