"""`Horsies`: what an application declares. It opens nothing and spawns nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from .._core.config import AppConfig, QueueConfig
from .._core.errors import HorsiesError, raise_all
from .._core.retry import RetryPolicy
from .._payload.callables import is_bound_later
from .._send.gateway import DeclaredTask
from .._send.options import TaskSendOptions
from .schedule import CatchUp, Overlap, Pattern, Schedule, make_schedule
from .task import Task, TaskDeclarer, declaring
from .workflow import OnError, Workflow, WorkflowDeclarer, make_workflow

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]
"""What a worker enters, given its `Runtime`."""
L = TypeVar("L", bound=Lifespan)


class Horsies:
    """An application: its configuration, tasks, workflows, schedules and plugins.

    Raises:
        HorsiesError: HRS-200 if `config` is not an `AppConfig`.
    """

    config: AppConfig
    """Configuration of the application."""
    plugins: tuple[object, ...]
    """Plugin objects, beside the installed plugins."""
    block_plugins: tuple[str, ...]
    """Names of the installed plugins that are not loaded."""
    queues: Mapping[str, QueueConfig]
    """Queues by name."""

    def __init__(self, config: AppConfig, *, plugins: Iterable[object] = (), block_plugins: Iterable[str] = ()) -> None:
        if not isinstance(config, AppConfig):
            raise HorsiesError("HRS-200", "Horsies needs an AppConfig", ["for example AppConfig.for_database_url(url)"])
        self.config = config
        self.plugins = tuple(plugins)
        self.block_plugins = tuple(block_plugins)
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._schedules: dict[str, Schedule] = {}
        self._workflows: dict[str, Workflow[Any, Any]] = {}
        self._lifespan: Lifespan | None = None
        self.queues = {queue.name: queue for queue in config.queues}

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The registered tasks by name."""
        return self._tasks

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The declared schedules by name."""
        return self._schedules

    @property
    def workflows(self) -> Mapping[str, Workflow[Any, Any]]:
        """The declared workflows by name."""
        return self._workflows

    @property
    def lifespan_factory(self) -> Lifespan | None:
        """Context manager that `lifespan` registered; None: the application has none."""
        return self._lifespan

    if TYPE_CHECKING:
        task: TaskDeclarer
    else:

        def task(self, name_or_fn: Any = None, /, **options: Any) -> Any:
            """Declare a task and register it.

            Args:
                name_or_fn: name of the task; without one, or as a bare decorator, that of the function.
                **options: as for `horsies.task`.

            Raises:
                HorsiesError: HRS-101..105 for the declaration, HRS-301 for a name that is taken.
            """
            return declaring(self._register, name_or_fn, options)

    def include(self, task_or_module: Task[Any, Any] | ModuleType) -> None:
        """Register a task that was declared with `horsies.task`, or all those a module holds.

        Raises:
            HorsiesError: HRS-103 for a queue the application lacks, HRS-301 for a name that is taken.
        """
        if isinstance(task_or_module, Task):
            self._register(task_or_module)
            return
        found = {id(value): value for value in vars(task_or_module).values() if isinstance(value, Task)}
        problems = []
        for one in found.values():
            try:
                self._register(one)
            except HorsiesError as error:
                problems.append(error)
        raise_all(problems)

    def schedule(
        self,
        name: str,
        task: Task[Any, Any],
        pattern: Pattern,
        *,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy | str | None = None,
        unique_key: str | None = None,
        metadata: Mapping[str, str] | None = None,
        good_until: timedelta | None = None,
        catch_up: CatchUp = "none",
        overlap: Overlap = "allow",
        jitter: float = 0.0,
        start: datetime | None = None,
        end: datetime | None = None,
        enabled: bool = True,
    ) -> Schedule:
        """Declare that `task` is sent once for each slot of `pattern`, by whichever worker or scheduler is running.

        Args:
            name: 1..200 bytes. It is the schedule's identity in the database: under another one it begins anew.
            task: a task that this application has registered.
            pattern: Every, Hourly, Daily, Weekly, Monthly, Cron, or a `Pattern` of your own.
            args: positional arguments of each call.
            kwargs: keyword arguments of each call.
            queue: as in `TaskSendOptions`.
            priority: as in `TaskSendOptions`.
            timeout: as in `TaskSendOptions`.
            retry: as in `TaskSendOptions`.
            unique_key: as in `TaskSendOptions`.
            metadata: as in `TaskSendOptions`.
            good_until: how long after its slot a task may begin.
            catch_up: what becomes of slots that are more than a minute late, because nobody was there to send: "none"
                leaves them out; "latest" sends for the last of them, unless a later slot is on time; "all" for each,
                but a thousand at most.
            overlap: when the task of an earlier slot has not ended: "allow" both, "skip" the new one, or
                "cancel_previous".
            jitter: seconds; each task falls due up to so long after its slot, always as long after the same slot.
            start: first instant at which a slot can be, aware. `Every` counts from it.
            end: last instant at which a slot can be, aware.
            enabled: False keeps the schedule and sends nothing.

        Raises:
            HorsiesError: HRS-205, everything that is wrong at once; HRS-301 for a name that is taken.
        """
        if isinstance(name, str) and name in self._schedules:
            raise HorsiesError("HRS-301", f"two schedules are named {name!r}", ["give one of them another name"])
        schedule = make_schedule(
            name,
            task,
            pattern,
            tasks=self._tasks,
            queues=self.queues,
            args=args,
            kwargs=kwargs,
            options=TaskSendOptions(
                queue=queue,
                priority=priority,
                timeout=timeout,
                retry=retry,
                unique_key=unique_key,
                metadata=metadata,
            ),
            good_until=good_until,
            catch_up=catch_up,
            overlap=overlap,
            jitter=jitter,
            start=start,
            end=end,
            enabled=enabled,
        )
        self._schedules[name] = schedule
        return schedule

    if TYPE_CHECKING:
        workflow: WorkflowDeclarer
    else:

        def workflow(self, name_or_fn: Any = None, /, *, version: int = 1, on_error: OnError = "fail") -> Any:
            """Declare a workflow by a function that is given a `WorkflowBuilder` and returns its output.

            The function is run each time the workflow is started, and when the application is checked if it can be
            called without arguments. It adds nodes and does nothing else.

            Args:
                name_or_fn: the name, 1..255 bytes; without one (or as a bare decorator) it is the function's.
                version: from 1; of whatever runs, it says which definition it was started from.
                on_error: what a node that fails means for the workflow: "fail", once the branches that do not need the
                    node have ended, or "pause".

            Raises:
                HorsiesError: HRS-001 and HRS-023 for the declaration, HRS-104 and HRS-105 for the function, HRS-301
                    for a name that is taken.
            """
            if callable(name_or_fn) or is_bound_later(name_or_fn):
                return self._register_workflow(make_workflow(None, name_or_fn, version, on_error))
            return lambda fn: self._register_workflow(make_workflow(name_or_fn, fn, version, on_error))

    def lifespan(self, factory: L) -> L:
        """Decorator: an async context manager that each worker enters before its first claim.

        It is left after the worker's last result; what it yields is `TaskContext.state`.
        """
        if self._lifespan is not None:
            raise HorsiesError("HRS-104", "the application has a lifespan already", ["combine the two into one"])
        self._lifespan = factory
        return factory

    def queue_of(self, task: DeclaredTask[..., Any] | None) -> str:
        """The queue that `task` goes to when a send does not say; the default queue without a task."""
        return (task and task.settings.queue) or self._default_queue()

    def _default_queue(self) -> str:
        if len(self.queues) == 1:
            return next(iter(self.queues))
        return "default"

    def _register(self, task: Task[Any, Any]) -> Task[Any, Any]:
        if self._tasks.get(task.name) is task:
            return task
        if task.name in self._tasks:
            raise HorsiesError("HRS-301", f"two tasks are named {task.name!r}", ["give one of them another name"])
        if self.queue_of(task) not in self.queues:
            raise HorsiesError(
                "HRS-103",
                f"task {task.name!r} goes to queue {self.queue_of(task)!r}, which the application does not have",
                [f"its queues: {', '.join(self.queues)}"],
            )
        self._tasks[task.name] = task
        return task

    def _register_workflow(self, workflow: Workflow[Any, Any]) -> Workflow[Any, Any]:
        if workflow.name in self._workflows:
            what = f"two workflows are named {workflow.name!r}"
            raise HorsiesError("HRS-301", what, ["give one of them another name"])
        self._workflows[workflow.name] = workflow
        return workflow

    def __repr__(self) -> str:
        return f"<Horsies {self.config.masked_url}, {len(self._tasks)} tasks>"
