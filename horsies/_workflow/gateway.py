"""What workflows need of the runtime, beside what tasks need of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from .._declare.gateway import AppGateway
from ..abc import Enqueued, NewWorkflow, StoredResult, WorkflowRow, Workflows


class WorkflowGateway(AppGateway, Protocol):
    """An open runtime, as workflows and their handles see it."""

    @property
    def workflows(self) -> Workflows:
        """Where workflows are kept. Raises: HorsiesError, the broker keeps none."""
        ...

    async def start_workflow(self, new: NewWorkflow, connection: object | None) -> Enqueued:
        """Put a workflow in, through the caller's `connection` if it is given.

        Raises:
            BrokerError: it was not put in, or that is not known.
            ValueError: `connection` cannot be used, and why.
        """
        ...

    def nodes_ended(self, workflow_ids: Iterable[str]) -> None:
        """Have what follows in these workflows follow: tasks of theirs have ended."""
        ...

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """Where these tasks stand, in any order. Raises: BrokerError."""
        ...

    async def wait_workflow(self, workflow_id: str, timeout: float | None = None) -> WorkflowRow | None:
        """Wait until a workflow has ended, or is paused; None when there is none.

        Raises:
            BrokerError: the database could not be asked.
            TimeoutError: as `wait_finished`.
        """
        ...
