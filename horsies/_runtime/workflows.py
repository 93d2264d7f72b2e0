"""The part of the engine that is about workflows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any, cast

import anyio.abc

from .._core.errors import HorsiesError
from .._declare.app import Horsies
from .._declare.task import Task
from .._send.contact import Contact
from .._send.gateway import NO_CONNECTION, NOTHING_TO_JOIN
from .._send.task_handle import TaskResult, plain_result_of
from .._send.waiters import Waiters, resting_workflows
from .._worker.gateway import UnknownWorkflowError
from .._workflow.advance.advancer import Advancer, Following
from .._workflow.advance.expansion import OWN_TASKS, arguments_of, workflow_to_open
from .._workflow.gateway import WorkflowGateway
from .._workflow.view.results import outcome_of
from ..abc import (
    Broker,
    Enqueued,
    NewWorkflow,
    Plain,
    StoredResult,
    Transactional,
    Workflowing,
    WorkflowRow,
    Workflows,
)


class WorkflowEngine(ABC):
    """What handles and workers see of workflows."""

    def __init__(self, app: Horsies, contact: Contact) -> None:
        self.app = app
        self.contact = contact
        self._advancer: Advancer | None = None
        self._workflow_waiters: Waiters[WorkflowRow] | None = None

    @property
    @abstractmethod
    def broker(self) -> Broker: ...

    @abstractmethod
    def refuse_in_fork(self) -> None: ...

    @property
    def _whole(self) -> WorkflowGateway:
        """The engine, of which this is a part."""
        return cast("WorkflowGateway", self)

    def _open_workflows(self, broker: Broker) -> None:
        """Raises: HorsiesError, HRS-211, the application has workflows and the broker keeps none."""
        if isinstance(broker, Workflowing):
            lookup = partial(resting_workflows, broker.workflows)
            self._advancer = Advancer(self._whole, broker.workflows)
            self._workflow_waiters = Waiters(broker, lookup, self.app.config.resilience, self.contact)
        elif self.app.workflows:
            raise _NO_WORKFLOWS

    def _serve_workflows(self, group: anyio.abc.TaskGroup) -> None:
        if self._advancer is not None and self._workflow_waiters is not None:
            group.start_soon(self._advancer.run)
            group.start_soon(self._workflow_waiters.run)

    @property
    def workflows(self) -> Workflows:
        """Where the broker keeps them. Raises: HorsiesError, HRS-211, it keeps none."""
        broker = self.broker
        if not isinstance(broker, Workflowing):
            raise _NO_WORKFLOWS
        return broker.workflows

    async def start_workflow(self, new: NewWorkflow, connection: object | None) -> Enqueued:
        if connection is NO_CONNECTION and isinstance(self.broker, Transactional):
            raise ValueError(NOTHING_TO_JOIN)
        if self._advancer is not None:
            self._advancer.has_met = True
        return await self.workflows.start(new, connection=connection)

    async def wait_workflow(self, workflow_id: str, timeout: float | None = None) -> WorkflowRow | None:
        self.refuse_in_fork()
        if self._workflow_waiters is None:
            raise _NO_WORKFLOWS
        return await self._workflow_waiters.wait_finished(workflow_id, timeout)

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """Where these tasks stand, in any order. Raises: BrokerError."""
        return await self.broker.reader.results(task_ids)

    @property
    def own_tasks(self) -> Mapping[str, Task[Any, Any]]:
        return OWN_TASKS

    def require_workflow(self, plain: Mapping[str, Plain], inputs: Set[str]) -> None:
        if (name := workflow_to_open(plain)) is None:
            return
        workflow = self.app.workflows.get(name)
        if workflow is None:
            raise UnknownWorkflowError(
                f"no worker knows workflow {name!r}: does the module that declares it get imported?"
            )
        workflow.signature.require_names({*arguments_of(plain), *inputs})

    async def workflow_results(self, workflow_ids: Sequence[str]) -> dict[str, TaskResult[Any]]:
        rows = [row for workflow_id in workflow_ids if (row := await self.workflows.read(workflow_id)) is not None]
        return {
            row.workflow_id: await outcome_of(self._whole, row, partial(plain_result_of, self._whole)) for row in rows
        }

    def following(self) -> Following:
        if self._advancer is None:
            raise _NO_WORKFLOWS
        return Following(self._advancer)

    def nodes_ended(self, workflow_ids: Iterable[str]) -> None:
        if self._advancer is not None:
            self._advancer.add_nowait(workflow_ids)

    async def settle_workflows(self) -> None:
        if self._advancer is not None:
            await self._advancer.settle()

    async def recover_workflows(self) -> int:
        return 0 if self._advancer is None else await self._advancer.recover()


_NO_WORKFLOWS = HorsiesError("HRS-211", "this runtime's broker keeps no workflows", ["postgresql:// and sqlite:// do"])
