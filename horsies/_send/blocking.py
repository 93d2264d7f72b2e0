"""Tasks and handles for synchronous programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, Generic, ParamSpec, TypeVar

from .._core.errors import BrokerError
from .._core.result import Ok, Result
from .._core.status import CancelOutcome
from .._payload.send_error import TaskSendError
from .._payload.send_payload import TaskSendPayload
from .bulk import SEAL_BATCH
from .options import TaskSendOptions
from .portal import Portal
from .task_function import TaskFunction, TaskSendResult
from .task_handle import TaskHandle, TaskInfo, TaskResult

P = ParamSpec("P")
T = TypeVar("T")


class BlockingTaskHandle(Generic[T]):
    """`TaskHandle` for synchronous programs."""

    def __init__(self, portal: Portal, handle: TaskHandle[T]) -> None:
        self._portal = portal
        self._handle = handle

    @property
    def task_id(self) -> str:
        """See `TaskHandle.task_id`."""
        return self._handle.task_id

    @property
    def deduplicated(self) -> bool:
        """See `TaskHandle.deduplicated`."""
        return self._handle.deduplicated

    def get(self, timeout: float | timedelta | None = None) -> TaskResult[T]:
        """See `TaskHandle.get`."""
        return self._portal.call(self._handle.get, timeout)

    def info(
        self, include_result: bool = False, include_failed_reason: bool = False, include_attempts: bool = False
    ) -> Result[TaskInfo | None, BrokerError]:
        """See `TaskHandle.info`."""
        return self._portal.call(self._handle.info, include_result, include_failed_reason, include_attempts)

    def cancel(self) -> Result[CancelOutcome, BrokerError]:
        """See `TaskHandle.cancel`."""
        return self._portal.call(self._handle.cancel)

    def __repr__(self) -> str:
        return f"<BlockingTaskHandle {self.task_id}>"


class BlockingTaskFunction(Generic[P, T]):
    """`TaskFunction` for synchronous programs."""

    def __init__(self, portal: Portal, function: TaskFunction[P, T]) -> None:
        self._portal = portal
        self._function = function

    @property
    def task_name(self) -> str:
        """See `TaskFunction.task_name`."""
        return self._function.task_name

    @property
    def queue_name(self) -> str:
        """See `TaskFunction.queue_name`."""
        return self._function.queue_name

    @property
    def priority(self) -> int:
        """See `TaskFunction.priority`."""
        return self._function.priority

    def with_options(self, options: TaskSendOptions) -> BlockingTaskFunction[P, T]:
        """See `TaskFunction.with_options`."""
        return BlockingTaskFunction(self._portal, self._function.with_options(options))

    def using(self, connection: object) -> BlockingTaskFunction[P, T]:
        """See `TaskFunction.using`; `connection` is a sync psycopg connection of the program's own."""
        return BlockingTaskFunction(self._portal, self._function.using(connection))

    def send(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskSendResult[BlockingTaskHandle[T]]:
        """See `TaskFunction.send`."""
        return self._handled(self._portal.call(partial(self._function.send, *args, **kwargs)))

    def schedule(
        self, delay: float | timedelta, /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskSendResult[BlockingTaskHandle[T]]:
        """See `TaskFunction.schedule`."""
        return self._handled(self._portal.call(partial(self._function.schedule, delay, *args, **kwargs)))

    def send_many(
        self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[TaskSendResult[BlockingTaskHandle[T]]]:
        """See `TaskFunction.send_many`. `calls` is read in the calling thread, fifty at a time."""
        left = iter(calls)
        with self._portal.wrap_async_context_manager(self._function._open_bulk()) as bulk:
            while some := list(islice(left, SEAL_BATCH)):
                self._portal.call(bulk.add, some)
        return [self._handled(answer) for answer in bulk.answers]

    def retry_send(self, failed: TaskSendError | TaskSendPayload) -> TaskSendResult[BlockingTaskHandle[T]]:
        """See `TaskFunction.retry_send`."""
        return self._handled(self._portal.call(self._function.retry_send, failed))

    def retry_schedule(self, failed: TaskSendError | TaskSendPayload) -> TaskSendResult[BlockingTaskHandle[T]]:
        """See `TaskFunction.retry_schedule`."""
        return self._handled(self._portal.call(self._function.retry_schedule, failed))

    def _handled(self, sent: TaskSendResult[TaskHandle[T]]) -> TaskSendResult[BlockingTaskHandle[T]]:
        if isinstance(sent, Ok):
            return Ok(BlockingTaskHandle(self._portal, sent.value))
        return sent
