"""Starting a workflow: in one transaction, and once for each id."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from datetime import datetime
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar, cast

import anyio.lowlevel

from .._core.codes import TaskSendErrorCode
from .._core.errors import BrokerError, HorsiesError
from .._core.instants import instant
from .._core.names import is_task_id
from .._core.result import Err, Ok
from .._declare.workflow import Workflow
from .._payload.envelope import sha_of
from .._payload.send_error import TaskSendError
from .._payload.start_payload import WorkflowStartPayload, arguments_sha
from .._send.encode_call import TOO_OLD, is_too_old
from .._send.gateway import joined
from .._send.options import TaskSendOptions, problem_with
from .._send.suppression import SUPPRESSED, are_suppressed
from .._send.task_function import resend_pauses
from ..abc import EnqueueOutcome, NewWorkflow
from .advance.transition import begun
from .definition.builder import drafted
from .definition.draft import WorkflowSpec
from .definition.spec import Spec, decode, sealed
from .definition.validate import checked, resolve
from .gateway import WorkflowGateway
from .offload import apart
from .workflow_handle import WorkflowHandle

P = ParamSpec("P")
T = TypeVar("T")


class WorkflowFunction(Generic[P, T]):
    """A registered workflow bound to a runtime. Each method that takes an option gives another one."""

    def __init__(self, gateway: WorkflowGateway, workflow: Workflow[P, T]) -> None:
        self._gateway = gateway
        self._workflow = workflow
        self._workflow_id: str | None = None
        self._good_until: datetime | None = None
        self._connection: object | None = None

    def with_id(self, workflow_id: str) -> WorkflowFunction[P, T]:
        """The same workflow, started under an id of yours: a UUID in lower case. Two starts with one id are one."""
        return self._with("_workflow_id", workflow_id)

    def good_until(self, at: datetime) -> WorkflowFunction[P, T]:
        """The same workflow, EXPIRED and cut short unless it has ended by `at`, an aware instant."""
        return self._with("_good_until", at)

    def using(self, connection: object) -> WorkflowFunction[P, T]:
        """The same workflow, started in the open transaction of `connection`: it is there with that commit, or never.

        See `TaskFunction.using` for what a connection can be, and what becomes of it.
        """
        return self._with("_connection", joined(connection))

    async def start(self, /, *args: P.args, **kwargs: P.kwargs) -> Ok[WorkflowHandle[T]] | Err[TaskSendError]:
        """Build the workflow and start it.

        The workflow's function runs on the event loop. Everything that follows is done in a thread if it adds hundreds
        of nodes; their arguments must not be changed before the call has returned.

        Args:
            *args: arguments of the workflow's function.
            **kwargs: arguments by keyword. `workflow_id` is as for `with_id`, unless the function has this parameter.

        Returns:
            `Ok` with a handle once it is committed, or after `using` once it is inserted. `Ok` also if it was started
            before under that id with the same arguments, version and deadline, whatever its function adds today.
            `Err` with VALIDATION_FAILED (everything that is wrong with it), PAYLOAD_MISMATCH (another workflow has the
            id) or ENQUEUE_FAILED, which `retry_start` replays.
        """
        workflow, workflow_id = self._workflow, self._workflow_id
        if "workflow_id" in kwargs and "workflow_id" not in workflow.signature.codecs:
            workflow_id = cast("str", kwargs.pop("workflow_id"))
        try:
            draft = drafted(workflow, args, kwargs)
            check = partial(checked, draft, self._gateway.app, self._gateway.retry_policies)
            found = await apart(check, nodes=draft.size)
        except HorsiesError as error:
            return await _refused(workflow.name, str(error))
        arguments = workflow.signature.lower(args, dict(kwargs))

        def sha(spec: bytes, good_until: datetime | None) -> bytes:
            return arguments_sha(workflow.name, workflow.version, arguments, good_until)

        return await _start(self._gateway, found, workflow_id, self._good_until, self._connection, sha)

    async def retry_start(
        self, failed: TaskSendError | WorkflowStartPayload
    ) -> Ok[WorkflowHandle[T]] | Err[TaskSendError]:
        """Replay a `start` with the identical payload: the workflow is started at most once, however often.

        Returns:
            `Ok` with the same workflow, however it stands by now; `Err` with PAYLOAD_MISMATCH when the bytes are not
            those first sent, VALIDATION_FAILED for another workflow's payload or none.
        """
        return await retry_start(self._gateway, failed, self._workflow.name, self._connection)

    def _with(self, name: str, value: Any) -> WorkflowFunction[P, T]:
        other = copy(self)
        setattr(other, name, value)
        return other


async def start(
    gateway: WorkflowGateway, found: WorkflowSpec, workflow_id: str | None, good_until: datetime | None
) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
    """Start what was built by hand; see `WorkflowFunction.start`. Its content is its spec."""
    return await _start(gateway, found, workflow_id, good_until, None, lambda spec, _: sha_of(spec))


async def retry_start(
    gateway: WorkflowGateway,
    failed: TaskSendError | WorkflowStartPayload,
    name: str | None = None,
    connection: object | None = None,
) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
    """Replay a start, of the workflow of this name if it is given; see `WorkflowFunction.retry_start`."""
    payload = failed.start if isinstance(failed, TaskSendError) else failed
    named = name or "?"
    if not isinstance(payload, WorkflowStartPayload):
        return await _refused(named, "there is no payload to replay: this start failed before it had one")
    size = len(payload.data)
    if not await apart(payload.is_intact, size=size):
        what = f"workflow {named!r}: the payload's bytes are not those its SHA was made of; nothing was started"
        await anyio.lowlevel.checkpoint()
        return Err(TaskSendError(TaskSendErrorCode.PAYLOAD_MISMATCH, what, start=payload))
    try:
        if name is not None and payload.name != name:
            return await _refused(name, f"the payload is of workflow {payload.name!r}")
        if is_too_old(gateway, payload.sent_at):
            await anyio.lowlevel.checkpoint()
            return _failed(payload, TaskSendErrorCode.ENQUEUE_FAILED, TOO_OLD)
        new = await apart(partial(_begun, gateway, payload), size=size)
    except ValueError:
        return await _refused(named, "the payload cannot be read")
    return await _put_in(gateway, payload, new, connection)


async def _start(
    gateway: WorkflowGateway,
    found: WorkflowSpec,
    workflow_id: str | None,
    good_until: datetime | None,
    connection: object | None,
    sha: Callable[[bytes, datetime | None], bytes],
) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
    workflow_id = gateway.environment.new_id() if workflow_id is None else workflow_id
    if not is_task_id(workflow_id):
        return await _refused(found.name, "workflow_id is not a UUID in lower case")
    wrong = problem_with(TaskSendOptions(good_until=good_until), (), ())
    if wrong is not None:
        return await _refused(found.name, wrong)
    nodes = found.size

    def seal() -> tuple[Spec, bytes, WorkflowStartPayload]:
        spec, data = sealed(resolve(found, gateway.app, gateway.retry_policies))
        now, until = gateway.environment.clock(), None if good_until is None else instant(good_until)
        content = sha(data, until)
        return spec, data, WorkflowStartPayload.seal(workflow_id, content, spec.name, spec.version, data, now, until)

    try:
        spec, data, payload = await apart(seal, nodes=nodes)
    except HorsiesError as error:
        return await _refused(found.name, str(error))
    if are_suppressed():
        await anyio.lowlevel.checkpoint()
        return _failed(payload, TaskSendErrorCode.SEND_SUPPRESSED, SUPPRESSED)
    new = await apart(partial(_begun, gateway, payload, spec, data), nodes=nodes, size=len(data))
    return await _put_in(gateway, payload, new, connection)


def _begun(
    gateway: WorkflowGateway, payload: WorkflowStartPayload, spec: Spec | None = None, data: bytes | None = None
) -> NewWorkflow:
    """What a payload starts.

    Args:
        spec, data: what it consists of and its bytes, where that is known.

    Raises:
        ValueError: the payload cannot be read.
    """
    data = payload.spec if data is None else data
    return begun(
        gateway,
        decode(data) if spec is None else spec,
        payload.workflow_id,
        data=data,
        sha=payload.sha,
        good_until=payload.good_until,
        sent_at=payload.sent_at,
    )


async def _put_in(
    gateway: WorkflowGateway, payload: WorkflowStartPayload, new: NewWorkflow, connection: object | None
) -> Ok[WorkflowHandle[Any]] | Err[TaskSendError]:
    """Write a start, and try again what passes by itself."""
    waits = resend_pauses(gateway) if connection is None else iter(())
    backoff = gateway.contact.backoff()
    while True:
        try:
            answer = await gateway.start_workflow(new, connection)
        except ValueError as error:
            return await _refused(payload.name, str(error))
        except BrokerError as error:
            wait = next(waits, None) if error.retryable else None
            if wait is None:
                code = TaskSendErrorCode.ENQUEUE_FAILED
                return _failed(payload, code, error.message, retryable=error.retryable)
            await backoff.pause(wait, error)
        else:
            if connection is None:
                backoff.answered()
            break
    if answer.outcome is EnqueueOutcome.MISMATCH:
        what = f"{payload.workflow_id} was started with another content; nothing was changed"
        return _failed(payload, TaskSendErrorCode.PAYLOAD_MISMATCH, what)
    return Ok(WorkflowHandle(gateway, payload.workflow_id))


async def _refused(name: str, why: str) -> Err[TaskSendError]:
    await anyio.lowlevel.checkpoint()
    return Err(TaskSendError(TaskSendErrorCode.VALIDATION_FAILED, f"workflow {name!r}: {why}"))


def _failed(
    payload: WorkflowStartPayload, code: TaskSendErrorCode, why: str, *, retryable: bool = False
) -> Err[TaskSendError]:
    message = f"workflow {payload.name!r}: {why}"
    return Err(TaskSendError(code, message, retryable=retryable, task_id=payload.workflow_id, start=payload))
