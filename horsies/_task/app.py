"""`Horsies`: what an application declares. It opens nothing and spawns nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from .._core.config import AppConfig, QueueConfig
from .._core.errors import HorsiesError, raise_all
from .declare import Task, TaskDeclarer, declaring

if TYPE_CHECKING:
    from .._runtime.runtime import Runtime

    Lifespan = Callable[[Runtime], AbstractAsyncContextManager[Any]]

L = TypeVar("L", bound="Lifespan")


class Horsies:
    """An application: its configuration, tasks and plugins.

    Args:
        config: where and how.
        plugins: plugin objects beside the installed ones.
        block_plugins: names of installed plugins to leave out.
    """

    def __init__(self, config: AppConfig, *, plugins: Iterable[object] = (), block_plugins: Iterable[str] = ()) -> None:
        if not isinstance(config, AppConfig):
            raise HorsiesError("HRS-200", "Horsies needs an AppConfig", ["for example AppConfig.for_database_url(url)"])
        self.config = config
        self.plugins = tuple(plugins)
        self.block_plugins = tuple(block_plugins)
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._lifespan: Lifespan | None = None
        self.queues: Mapping[str, QueueConfig] = {queue.name: queue for queue in config.queues}

    @property
    def tasks(self) -> Mapping[str, Task[Any, Any]]:
        """The registered tasks by name."""
        return self._tasks

    @property
    def lifespan_factory(self) -> Lifespan | None:
        """What `lifespan` was given."""
        return self._lifespan

    if TYPE_CHECKING:
        task: TaskDeclarer
    else:

        def task(self, name_or_fn: Any = None, /, **options: Any) -> Any:
            """Declare a task and register it; see `horsies.task` for the options.

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

    def lifespan(self, factory: L) -> L:
        """Decorator: an async context manager that each worker enters before its first claim.

        It is left after the worker's last result; what it yields is `TaskContext.state`.
        """
        if self._lifespan is not None:
            raise HorsiesError("HRS-104", "the application has a lifespan already", ["combine the two into one"])
        self._lifespan = factory
        return factory

    def queue_of(self, task: Task[Any, Any]) -> str:
        """The queue that `task` goes to when a send does not say."""
        return task.settings.queue or self._default_queue()

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

    def __repr__(self) -> str:
        return f"<Horsies {self.config.masked_url}, {len(self._tasks)} tasks>"
