"""`TaskSendError`: what a send, or the start of a workflow, returns when it did not succeed."""

from __future__ import annotations

from .._core.codes import TaskSendErrorCode
from .._core.errors import ComparableError
from .send_payload import TaskSendPayload
from .start_payload import WorkflowStartPayload


class TaskSendError(ComparableError):
    """A task was not enqueued, or a workflow not started, or it is not known whether it was.

    `retry_send` and `retry_start` replay it with the identical bytes. Neither `message` nor `repr` shows an argument.
    """

    def __init__(
        self,
        code: TaskSendErrorCode,
        message: str,
        *,
        retryable: bool = False,
        task_id: str | None = None,
        payload: TaskSendPayload | None = None,
        start: WorkflowStartPayload | None = None,
    ) -> None:
        super().__init__(code, message)
        self._start = start
        self._retryable = retryable
        self._task_id = task_id
        self._payload = payload

    @property
    def code(self) -> TaskSendErrorCode:
        """Why the send or start failed."""
        code: TaskSendErrorCode = self.args[0]
        return code

    @property
    def message(self) -> str:
        """Text for people. It never shows an argument."""
        message: str = self.args[1]
        return message

    @property
    def retryable(self) -> bool:
        """True if the identical payload may succeed later."""
        return self._retryable

    @property
    def task_id(self) -> str | None:
        """Id of the task, or of the workflow after a failed start; None if the call got none."""
        return self._task_id

    @property
    def payload(self) -> TaskSendPayload | None:
        """Payload that `TaskFunction.retry_send` and `TaskFunction.retry_schedule` replay, or None if there is none."""
        return self._payload

    @property
    def start(self) -> WorkflowStartPayload | None:
        """Payload that `WorkflowFunction.retry_start` replays, or None if it was no start of a workflow."""
        return self._start

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
