"""Starting a workflow: in one transaction, and once for each id."""

from __future__ import annotations

import os
from typing import Generic, ParamSpec, TypeVar, cast

import anyio.lowlevel

from .._core.codes import TaskSendErrorCode
from .._core.errors import BrokerError, HorsiesError, TaskSendError
from .._core.result import Err, Ok
from .._payload.ids import is_task_id
from .._task.workflow import Workflow
from ..abc import EnqueueOutcome
from .builder import built
from .draft import WorkflowSpec
from .follow import begun
from .handle import WorkflowHandle
from .host import WorkflowHost
from .validate import resolve

P = ParamSpec("P")
T = TypeVar("T")


class WorkflowFunction(Generic[P, T]):
    """A registered workflow bound to a runtime.

    Args:
        workflow_id: of the workflows that it starts; None: a new one for each.
    """

    def __init__(self, host: WorkflowHost, workflow: Workflow[P, T], workflow_id: str | None = None) -> None:
        self._host = host
        self._workflow = workflow
        self._workflow_id = workflow_id

    def with_id(self, workflow_id: str) -> WorkflowFunction[P, T]:
        """The same workflow, started under an id of yours: a UUID in lower case. Two starts with one id are one."""
        return WorkflowFunction(self._host, self._workflow, workflow_id)

    async def start(self, *args: P.args, **kwargs: P.kwargs) -> Ok[WorkflowHandle[T]] | Err[TaskSendError]:
        """Build the workflow and start it.

        Args:
            workflow_id: as for `with_id`, unless the workflow has a parameter of that name.

        Returns:
            `Ok` with a handle once it is committed, or where it had been started under that id with the same content;
            `Err` with VALIDATION_FAILED (everything that is wrong with it), PAYLOAD_MISMATCH (another one has the id)
            or ENQUEUE_FAILED.
        """
        workflow_id = self._workflow_id
        if "workflow_id" in kwargs and "workflow_id" not in self._workflow.signature.codecs:
            workflow_id = cast("str", kwargs.pop("workflow_id"))
        try:
            found = built(self._workflow, self._host.app, args, kwargs, self._host.retry_policies)
        except HorsiesError as error:
            await anyio.lowlevel.checkpoint()
            return _refused(self._workflow.name, str(error))
        return await start(self._host, found, workflow_id)


async def start(
    host: WorkflowHost, found: WorkflowSpec, workflow_id: str | None
) -> Ok[WorkflowHandle[T]] | Err[TaskSendError]:
    """Start what was built; see `WorkflowFunction.start`."""
    workflow_id = host.environment.new_id() if workflow_id is None else workflow_id
    if not is_task_id(workflow_id):
        await anyio.lowlevel.checkpoint()
        return _refused(found.name, "workflow_id is not a UUID in lower case")
    if os.environ.get("HORSIES_SUPPRESS_SENDS") == "1":
        await anyio.lowlevel.checkpoint()
        what = f"workflow {found.name!r}: HORSIES_SUPPRESS_SENDS=1 is set"
        return Err(TaskSendError(TaskSendErrorCode.SEND_SUPPRESSED, what, task_id=workflow_id))
    try:
        spec = resolve(found, host.app, host.retry_policies)
    except HorsiesError as error:
        await anyio.lowlevel.checkpoint()
        return _refused(found.name, str(error))
    new = begun(host, spec, workflow_id)
    try:
        answer = await host.workflows.start(new)
    except BrokerError as error:
        what = f"workflow {spec.name!r}: {error.message}"
        return Err(
            TaskSendError(TaskSendErrorCode.ENQUEUE_FAILED, what, retryable=error.retryable, task_id=workflow_id)
        )
    if answer.outcome is EnqueueOutcome.MISMATCH:
        what = f"workflow {spec.name!r}: {workflow_id} was started with another content; nothing was changed"
        return Err(TaskSendError(TaskSendErrorCode.PAYLOAD_MISMATCH, what, task_id=workflow_id))
    return Ok(WorkflowHandle(host, workflow_id))


def _refused(name: str, why: str) -> Err[TaskSendError]:
    return Err(TaskSendError(TaskSendErrorCode.VALIDATION_FAILED, f"workflow {name!r}: {why}"))
