"""What a task can know of its own run. `TaskContext` adds the runtime, which this layer does not know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, MutableMapping
from datetime import datetime
from typing import Any, Generic, TypeVar

from .._core.errors import TaskError
from .._core.result import Err, Ok
from .._payload.signature import Signature, describe

R = TypeVar("R")

_logger = logging.getLogger("horsies.task")


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds what it knows of the task or worker to each record, beside whatever `extra` the caller gives."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class AttemptContext(Generic[R]):
    """`TaskContext`, for a runtime of type `R`."""

    task_id: str
    """Id of the task: a UUID in lower case."""
    task_name: str
    """Name that the task was declared with."""
    queue: str
    """Queue that the task was sent to."""
    attempt: int
    """Number of the attempt, from 1."""
    sent_at: datetime
    """When the task was sent, by the sender's clock, aware UTC. A schedule sends at its slot."""
    good_until: datetime | None
    """Last instant at which the task may begin, aware UTC; None: no limit."""
    worker_id: str
    """Id of the worker that runs the task."""
    metadata: Mapping[str, str]
    """Metadata of the send."""
    runtime: R
    """Runtime that the worker belongs to."""
    state: Any
    """Value that the application's `lifespan` yielded; None: the application has none."""
    workflow_id: str | None
    """Id of the workflow that the task runs for; None: it runs for none."""
    node_id: str | None
    """Id of the node that the task runs for; None: it runs for none."""
    results: Mapping[str, Ok[Any] | Err[TaskError]]
    """Results of the nodes that `TaskNode.ctx_from` named, by node id. Values are plain builtins."""
    logger: logging.LoggerAdapter[logging.Logger]
    """Logger of the standard library that adds the ids of task and worker to each record."""

    def __init__(
        self,
        *,
        task_id: str,
        task_name: str,
        queue: str,
        attempt: int,
        sent_at: datetime,
        good_until: datetime | None,
        worker_id: str,
        metadata: Mapping[str, str],
        runtime: R,
        state: Any,
        workflow_id: str | None = None,
        node_id: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.task_name = task_name
        self.queue = queue
        self.attempt = attempt
        self.sent_at = sent_at
        self.good_until = good_until
        self.worker_id = worker_id
        self.metadata = metadata
        self.runtime = runtime
        self.state = state
        self.workflow_id = workflow_id
        self.node_id = node_id
        self.results = {}
        self.logger = ContextLogger(
            _logger,
            {"task_id": task_id, "task_name": task_name, "queue": queue, "attempt": attempt, "worker_id": worker_id},
        )
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether the task has been told to stop: the worker is stopping, or its time is up."""
        return self._cancelled

    def check_cancelled(self) -> None:
        """Raise `TaskInterrupted` (let it pass) if the task has been told to stop; for long sync tasks."""
        if self._cancelled:
            raise TaskInterrupted

    def _cancel(self) -> None:
        self._cancelled = True

    def __repr__(self) -> str:
        return f"<TaskContext {self.task_name} {self.task_id} attempt {self.attempt}>"


def describe_task(fn: Callable[..., Any]) -> Signature:
    """The signature of a task's function. Raises: HorsiesError, as `describe`."""
    return describe(fn, context_type=AttemptContext, context_name="TaskContext")


class TaskInterrupted(BaseException):
    """Raised by `TaskContext.check_cancelled`: the task was told to stop. Let it pass."""
