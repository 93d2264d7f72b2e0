"""`TaskSendError`: what a send, or the start of a workflow, returns when it did not succeed."""

from __future__ import annotations

from .._core.codes import TaskSendErrorCode
from .._core.errors import ComparableError
from .envelope import TaskSendPayload
from .start_payload import WorkflowStartPayload


class TaskSendError(ComparableError):
    """A task was not enqueued, or a workflow not started, or it is not known whether it was.

    `payload`, where present, is what `retry_send` replays: the identical bytes. Neither `message` nor `repr` ever
    shows an argument.
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
        code: TaskSendErrorCode = self.args[0]
        return code

    @property
    def message(self) -> str:
        message: str = self.args[1]
        return message

    @property
    def retryable(self) -> bool:
        return self._retryable

    @property
    def task_id(self) -> str | None:
        return self._task_id

    @property
    def payload(self) -> TaskSendPayload | None:
        return self._payload

    @property
    def start(self) -> WorkflowStartPayload | None:
        """Of a workflow that was not started: what `retry_start` replays. Its id is `task_id`."""
        return self._start

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
