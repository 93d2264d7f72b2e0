"""What a worker needs of the runtime it belongs to, beside what tasks need of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Protocol

from .._declare.context import AttemptContext
from .._declare.gateway import AppGateway
from .._declare.task import Task
from .._send.task_handle import TaskResult
from ..abc import Broker, News, Plain, Step
from .intake.decide import Timings


class UnknownWorkflowError(Exception):
    """A task of horsies' own is to open a workflow that this application does not have. Another worker's may."""


class Following(Protocol):
    """Follows up the ends of nodes within one finish."""

    def decide(self, all_news: Sequence[News], /) -> Sequence[Step]:
        """See `horsies.abc.Decide`."""
        ...

    def committed(self, workflow_ids: Iterable[str]) -> None:
        """The finish is committed, with ends of nodes of these workflows."""
        ...


class WorkerGateway(AppGateway, Protocol):
    """An open runtime, as a worker sees it."""

    @property
    def broker(self) -> Broker: ...

    @property
    def timings(self) -> Timings:
        """How long its workers wait for this and that."""
        ...

    @property
    def runtime(self) -> object:
        """The `Runtime` itself, for user code."""
        ...

    @property
    def context_type(self) -> type[AttemptContext[Any]]:
        """`TaskContext`."""
        ...

    @property
    def own_tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The tasks of horsies' own, by name."""
        ...

    def require_workflow(self, plain: Mapping[str, Plain], inputs: Set[str]) -> None:
        """See that this application can do what a task of horsies' own is to do.

        Args:
            plain: the stored arguments of the task.
            inputs: the names of those that other tasks give.

        Raises:
            UnknownWorkflowError: the task opens a workflow that the application does not have.
            ParameterError: the workflow does not take these arguments.
        """
        ...

    async def workflow_results(self, workflow_ids: Sequence[str]) -> dict[str, TaskResult[Any]]:
        """What these workflows have resulted in, as plain builtins, for those that are there. Raises: BrokerError."""
        ...

    async def keep_schedules(self, goes_first: Callable[[], bool]) -> None:
        """Send for the application's schedules until cancelled.

        Args:
            goes_first: whether the worker leads the others, as of now.
        """
        ...

    def following(self) -> Following:
        """What a finish needs to follow up the ends of nodes in its own transaction."""
        ...

    def nodes_ended(self, workflow_ids: Iterable[str]) -> None:
        """Have what follows in these workflows follow: tasks of theirs have ended, and that is written."""
        ...

    async def settle_workflows(self) -> None:
        """Wait until what follows from all ends known here is written."""
        ...

    async def recover_workflows(self) -> int:
        """Look for workflows of which a task has ended without anybody having seen to what follows; how many."""
        ...
