"""The nodes of a workflow while it is declared: `TaskNode`, and `NodeRef`, which stands for what a node results in.

Nothing here checks a value. A workflow is checked as a whole, when it is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from .._core.errors import TaskError
from .._core.result import Err, Ok
from .._core.retry import RetryPolicy
from .._send.options import TaskSendOptions

if TYPE_CHECKING:
    from .task import Task
    from .workflow import Workflow

T_co = TypeVar("T_co", covariant=True)
Kind: TypeAlias = Literal["task", "map", "workflow"]
"""What a node is: a task, a task for each item of a list, or a workflow of its own."""


@dataclass(frozen=True, slots=True, repr=False)
class NodeRef(Generic[T_co]):
    """A node of a workflow, as `WorkflowBuilder.task` returns it.

    As an argument of another node it stands for this one's value, and for `Ok` or `Err` after `as_result()`.
    """

    _builder: object
    _index: int
    _is_result: bool = False

    def as_result(self) -> NodeRef[Ok[T_co] | Err[TaskError]]:
        """The same node, standing for its `TaskResult`: for a parameter that takes what became of it, failed or not."""
        return NodeRef(self._builder, self._index, True)

    def __repr__(self) -> str:
        return f"<NodeRef {self._index}{' as result' if self._is_result else ''}>"


@dataclass(frozen=True, slots=True)
class Join:
    """How many of those that a node waits for it needs, and whether the others are cancelled once there are so many."""

    quorum: int
    cancel_losers: bool


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What a `TaskNode` consists of, as it was given."""

    task: Task[Any, Any] | Workflow[Any, Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None
    injected: tuple[tuple[str, NodeRef[Any]], ...] = ()
    waits_for: tuple[NodeRef[Any], ...] = ()
    options: TaskSendOptions = field(default_factory=TaskSendOptions)
    node_id: str | None = None
    join: Join | None = None
    allow_failed_deps: bool = False
    context: tuple[NodeRef[Any], ...] = ()
    kind: Kind = "task"
    over: NodeRef[Any] | None = None
    """Of a map: the node that gives the list."""

    @property
    def callee(self) -> str:
        """What is called, for messages."""
        return f"{'workflow' if self.kind == 'workflow' else 'task'} {self.task.name!r}"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class TaskNode(Generic[T_co]):
    """A call of a task or a workflow, in a workflow; `my_task.node(...)` makes it, and `WorkflowBuilder.task` takes it.

    It is immutable: each method returns another node, so that they can be chained.
    """

    _parts: NodeParts

    def set_input(self, /, *args: Any, **kwargs: Any) -> TaskNode[T_co]:
        """With these arguments in place of those given to `node`."""
        return self._with(args=args, kwargs=kwargs)

    def arg_from(self, name: str, ref: NodeRef[Any]) -> TaskNode[T_co]:
        """With what becomes of `ref`, its `TaskResult`, as the argument `name`."""
        return self._with(injected=(*self._parts.injected, (name, ref)))

    def waits_for(self, *refs: NodeRef[Any]) -> TaskNode[T_co]:
        """Waiting for `refs` too, beside those that it takes arguments of."""
        return self._with(waits_for=(*self._parts.waits_for, *refs))

    def ctx_from(self, *refs: NodeRef[Any]) -> TaskNode[T_co]:
        """With the results of `refs` in the task's `TaskContext.results`, under their node ids; it waits for them."""
        return self._with(context=(*self._parts.context, *refs))

    def good_until(self, at: datetime) -> TaskNode[T_co]:
        """With an aware instant, the last at which it may begin."""
        return self._with_options(TaskSendOptions(good_until=at))

    def queue(self, name: str) -> TaskNode[T_co]:
        """In this queue, instead of the task's own."""
        return self._with_options(TaskSendOptions(queue=name))

    def priority(self, priority: int) -> TaskNode[T_co]:
        """1 (first) to 100 (last), instead of the task's own."""
        return self._with_options(TaskSendOptions(priority=priority))

    def retry(self, retry: RetryPolicy | str) -> TaskNode[T_co]:
        """With this policy, or the registered one of this name, instead of the task's own."""
        return self._with_options(TaskSendOptions(retry=retry))

    def timeout(self, timeout: float | timedelta) -> TaskNode[T_co]:
        """Seconds or a timedelta that user code may run, instead of the task's own."""
        return self._with_options(TaskSendOptions(timeout=timeout))

    def node_id(self, node_id: str) -> TaskNode[T_co]:
        """Under this id, 1..255 bytes without NUL, which no other node of the workflow has.

        Without one it is the task's name and the node's place, such as `resize-2`.
        """
        return self._with(node_id=node_id)

    def allow_failed_deps(self) -> TaskNode[T_co]:
        """Run once all that it waits for have ended, whatever became of them. It can take them as results only."""
        return self._with(allow_failed_deps=True)

    def join_all(self) -> TaskNode[T_co]:
        """Run once all that it waits for are COMPLETED, as nodes do that do not say."""
        return self._with(join=None)

    def join_any(self, *, cancel_losers: bool = False) -> TaskNode[T_co]:
        """Run once one of those that it waits for is COMPLETED. It can take them as results only.

        Args:
            cancel_losers: cancel the others then, where nothing else needs them.
        """
        return self._with(join=Join(1, cancel_losers))

    def join_quorum(self, n: int, *, cancel_losers: bool = False) -> TaskNode[T_co]:
        """Run once `n` of those that it waits for are COMPLETED; see `join_any`."""
        return self._with(join=Join(n, cancel_losers))

    def _with(self, **changes: Any) -> TaskNode[T_co]:
        return TaskNode(replace(self._parts, **changes))

    def _with_options(self, options: TaskSendOptions) -> TaskNode[T_co]:
        return self._with(options=self._parts.options.updated(options))

    def __repr__(self) -> str:
        return f"<TaskNode of {self._parts.task!r}>"
