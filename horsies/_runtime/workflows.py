"""What a runtime offers of workflows: to the application, to handles, and to its workers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import anyio.abc

from .._core.errors import BrokerError, HorsiesError
from .._core.result import Err, Ok, Result
from .._core.status import WorkflowStatus
from .._declare.app import Horsies
from .._declare.task import Task
from .._declare.workflow import Workflow
from .._payload.send_error import TaskSendError
from .._payload.start_payload import WorkflowStartPayload
from .._send.contact import Contact
from .._send.gateway import NO_CONNECTION, NOTHING_TO_JOIN, Environment
from .._send.task_handle import TaskResult, plain_result_of
from .._send.waiters import Waiters, resting_workflows
from .._worker.gateway import UnknownWorkflowError
from .._workflow.advance.advancer import Advancer, Following
from .._workflow.advance.expansion import OWN_TASKS, arguments_of, workflow_to_open
from .._workflow.definition.draft import WorkflowSpec
from .._workflow.gateway import WorkflowGateway
from .._workflow.view.infos import WorkflowInfo, info_of
from .._workflow.view.results import outcome_of
from .._workflow.workflow_function import WorkflowFunction, retry_start, start
from .._workflow.workflow_handle import WorkflowHandle
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

P = ParamSpec("P")
T = TypeVar("T")


class RunsWorkflows:
    """The part of `Runtime` that is about workflows."""

    app: Horsies
    environment: Environment
    contact: Contact
    _advancer: Advancer | None
    _workflow_waiters: Waiters[WorkflowRow] | None

    if TYPE_CHECKING:

        @property
        def broker(self) -> Broker: ...

        def refuse_in_fork(self) -> None: ...

    @property
    def _gateway(self) -> WorkflowGateway:
        """The whole of the runtime."""
        return cast("WorkflowGateway", self)

    def _open_workflows(self, broker: Broker) -> None:
        """Raises: HorsiesError, HRS-211, the application has workflows and the broker keeps none."""
        if isinstance(broker, Workflowing):
            lookup = partial(resting_workflows, broker.workflows)
            self._advancer = Advancer(self._gateway, broker.workflows)
            self._workflow_waiters = Waiters(broker, lookup, self.app.config.resilience, self.contact)
        elif self.app.workflows:
            raise _NO_WORKFLOWS

    def _serve_workflows(self, group: anyio.abc.TaskGroup) -> None:
        if self._advancer is not None and self._workflow_waiters is not None:
            group.start_soon(self._advancer.run)
            group.start_soon(self._workflow_waiters.run)

    @property
    def workflows(self) -> Workflows:
        """For workflows: where the broker keeps them. Raises: HorsiesError, HRS-211, it keeps none."""
        broker = self.broker
        if not isinstance(broker, Workflowing):
            raise _NO_WORKFLOWS
        return broker.workflows

    def bind_workflow(self, workflow: Workflow[P, T]) -> WorkflowFunction[P, T]:
        """Bind `workflow` to this runtime, as `workflow.handle(rt)` does.

        Raises:
            HorsiesError: HRS-300 when the application has not registered `workflow`.
        """
        self.refuse_in_fork()
        if self.app.workflows.get(workflow.name) is not workflow:
            raise HorsiesError(
                "HRS-300",
                f"workflow {workflow.name!r} is not registered with this runtime's application",
                ["declare it with @app.workflow"],
            )
        return WorkflowFunction(self._gateway, workflow)

    async def start(
        self, spec: WorkflowSpec, *, workflow_id: str | None = None, good_until: datetime | None = None
    ) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
        """Start a workflow that was built by hand, with `WorkflowBuilder`; see `WorkflowFunction.start`.

        Two starts under one id are one if all that they consist of is the same.
        """
        self.refuse_in_fork()
        return await start(self._gateway, spec, workflow_id, good_until)

    async def retry_start(
        self, failed: TaskSendError | WorkflowStartPayload
    ) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
        """Replay the start of a workflow of any name; see `WorkflowFunction.retry_start`."""
        return await retry_start(self._gateway, failed)

    async def list_workflows(
        self,
        limit: int = 100,
        *,
        name: str | None = None,
        statuses: Collection[WorkflowStatus] | None = None,
        before: WorkflowInfo | None = None,
    ) -> Result[list[WorkflowInfo], BrokerError]:
        """List the newest workflows that are not part of another one, the newest first.

        Args:
            limit: maximum number of workflows.
            name: only workflows of this name; None: of every name.
            statuses: only workflows of these statuses; None: of every status.
            before: last workflow of the previous page; None: the first page.

        Returns:
            The workflows; `Err` if the database failed.

        Raises:
            HorsiesError: HRS-211, the broker keeps no workflows.
        """
        seen = None if before is None else (before.sent_at, before.workflow_id)
        try:
            found = await self.workflows.newest(limit, name=name, statuses=statuses, before=seen)
        except BrokerError as error:
            return Err(error)
        return Ok(list(map(info_of, found)))

    def workflow(self, workflow_id: str) -> WorkflowHandle[Any]:
        """Make a handle for a workflow by its id, whichever process started it. No I/O."""
        self.refuse_in_fork()
        return WorkflowHandle(self._gateway, workflow_id)

    async def start_workflow(self, new: NewWorkflow, connection: object | None) -> Enqueued:
        """For starts: see `horsies._workflow.gateway.WorkflowGateway`."""
        if connection is NO_CONNECTION and isinstance(self.broker, Transactional):
            raise ValueError(NOTHING_TO_JOIN)
        if self._advancer is not None:
            self._advancer.has_met = True
        return await self.workflows.start(new, connection=connection)

    async def wait_workflow(self, workflow_id: str, timeout: float | None = None) -> WorkflowRow | None:
        """For handles: see `horsies._workflow.gateway.WorkflowGateway`."""
        self.refuse_in_fork()
        if self._workflow_waiters is None:
            raise _NO_WORKFLOWS
        return await self._workflow_waiters.wait_finished(workflow_id, timeout)

    async def results(self, task_ids: Sequence[str]) -> list[StoredResult]:
        """For handles: where these tasks stand. Raises: BrokerError."""
        return await self.broker.reader.results(task_ids)

    @property
    def own_tasks(self) -> Mapping[str, Task[Any, Any]]:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        return OWN_TASKS

    def require_workflow(self, plain: Mapping[str, Plain], inputs: Set[str]) -> None:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        if (name := workflow_to_open(plain)) is None:
            return
        workflow = self._gateway.app.workflows.get(name)
        if workflow is None:
            raise UnknownWorkflowError(
                f"no worker knows workflow {name!r}: does the module that declares it get imported?"
            )
        workflow.signature.require_names({*arguments_of(plain), *inputs})

    async def workflow_results(self, workflow_ids: Sequence[str]) -> dict[str, TaskResult[Any]]:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        rows = [row for workflow_id in workflow_ids if (row := await self.workflows.read(workflow_id)) is not None]
        return {
            row.workflow_id: await outcome_of(self._gateway, row, partial(plain_result_of, self._gateway))
            for row in rows
        }

    def following(self) -> Following:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        if self._advancer is None:
            raise _NO_WORKFLOWS
        return Following(self._advancer)

    def nodes_ended(self, workflow_ids: Iterable[str]) -> None:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        if self._advancer is not None:
            self._advancer.add_nowait(workflow_ids)

    async def settle_workflows(self) -> None:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        if self._advancer is not None:
            await self._advancer.settle()

    async def recover_workflows(self) -> int:
        """For workers: see `horsies._worker.gateway.WorkerGateway`."""
        return 0 if self._advancer is None else await self._advancer.recover()


_NO_WORKFLOWS = HorsiesError("HRS-211", "this runtime's broker keeps no workflows", ["postgresql:// and sqlite:// do"])
