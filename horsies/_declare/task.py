"""Declaring a task: a plain function, plus what horsies must know to send and run it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from .._core.errors import HorsiesError, TaskError, raise_all
from .._core.instants import positive_span
from .._core.names import PRIORITY_DEFAULT, is_name, is_priority
from .._core.result import Err, Ok
from .._core.retry import RetryPolicy, is_retryable_code
from .._payload.callables import is_bound_later
from .._payload.signature import Signature
from .._send.blocking import BlockingTaskFunction
from .._send.options import RunIn, TaskSendOptions, TaskSettings
from .._send.task_function import TaskFunction, TaskSendResult, bind
from .._send.task_handle import TaskHandle
from ..abc import OWN
from .context import AttemptContext, describe_task
from .current_runtime import current_runtime
from .node_overloads import MakesNodes
from .placement import Place, misplaced, place_for

P = ParamSpec("P")
T = TypeVar("T")
Context = TypeVar("Context", bound=AttemptContext[Any])


class RunningRuntime(Protocol):
    """Type of an open `Runtime`, as `Task.handle` takes it."""

    def bind(self, task: Task[P, T], /) -> TaskFunction[P, T]:
        """Bind `task` to this runtime."""
        ...


class RunningBlockingRuntime(Protocol):
    """An open `BlockingRuntime`, as `Task.handle` takes it."""

    def bind(self, task: Task[P, T], /) -> BlockingTaskFunction[P, T]:
        """What `task.handle(rt)` returns."""
        ...


class Task(Generic[P, T], MakesNodes):
    """A declared task. Calling it runs the function in place, without any queue."""

    name: str
    """Name of the task: 1 to 255 bytes without NUL."""
    fn: Callable[..., Any]
    """Function that runs the task."""

    def __init__(self, name: str, fn: Callable[..., Any], settings: TaskSettings, signature: Signature) -> None:
        functools.update_wrapper(self, fn)
        self.name = name
        self.fn = fn
        self.settings = settings
        self.signature = signature
        self.place: Place = place_for(settings.run_in, signature)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    if TYPE_CHECKING:

        def _takes(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
            """What `node` knows the arguments' types by."""

    @overload
    def handle(self, rt: RunningRuntime) -> TaskFunction[P, T]: ...
    @overload
    def handle(self, rt: RunningBlockingRuntime) -> BlockingTaskFunction[P, T]: ...
    def handle(self, rt: Any) -> Any:
        """Bind this task to `rt`, so that it can be sent.

        Raises:
            HorsiesError: HRS-300 when the runtime's application has not registered it.
        """
        return rt.bind(self)

    def _ambient(self) -> TaskFunction[P, T]:
        return bind(current_runtime(f"task {self.name!r} without a handle"), self)

    async def send(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskSendResult[TaskHandle[T]]:
        """Send the task through the runtime that is open in this context; see `TaskFunction.send`.

        Raises:
            HorsiesError: HRS-300 if no runtime is open, if several are and none of them is the context's, or if the
                application has not registered the task.
        """
        return await self._ambient().send(*args, **kwargs)

    async def schedule(
        self, delay: float | timedelta, /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskSendResult[TaskHandle[T]]:
        """Send the task with a delay through the runtime that is open in this context; see `TaskFunction.schedule`.

        Raises:
            HorsiesError: as `send`.
        """
        return await self._ambient().schedule(delay, *args, **kwargs)

    def with_options(self, options: TaskSendOptions) -> TaskFunction[P, T]:
        """Bind the task to the runtime that is open in this context, with `options`; see `TaskFunction.with_options`.

        Raises:
            HorsiesError: as `send`.
        """
        return self._ambient().with_options(options)

    def __repr__(self) -> str:
        return f"<Task {self.name!r}>"


class TaskDecorator(Protocol):
    """What `task(...)` returns. `T` is what `-> T`, `-> TaskResult[T]` or `-> Ok[T] | Err[TaskError]` says."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[Ok[T] | Err[TaskError]]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[T]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[Ok[T] | Err[TaskError]]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[T]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Ok[T] | Err[TaskError]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], T], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Ok[T] | Err[TaskError]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Task[P, T]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Task[Any, Any]: ...


def make_task(
    name: str | None,
    fn: Callable[..., Any],
    *,
    queue: str | None,
    priority: int,
    timeout: float | timedelta | None,
    retry: RetryPolicy | str | None,
    retry_for: Sequence[str] | None,
    run_in: RunIn | None,
) -> Task[Any, Any]:
    """A task for `fn`, or one `HorsiesError` with everything that is wrong with its declaration."""
    if isinstance(fn, Task):
        raise HorsiesError("HRS-104", f"task {fn.name!r} is declared already", ["decorate a function only once"])
    name = getattr(fn, "__name__", "") if name is None else name
    span, misfit = None, ""
    try:
        span = None if timeout is None else positive_span(timeout)
    except ValueError as error:
        misfit = str(error)
    problems = [
        HorsiesError("HRS-102", f"task {name!r}: {what}")
        for is_wrong, what in (
            (not is_name(name), "a task's name is 1..255 bytes without NUL"),
            (str(name).startswith(OWN), f"names that begin with {OWN!r} are those of horsies' own tasks"),
            (queue is not None and not is_name(queue), "queue is not the name of a queue"),
            (not is_priority(priority), f"priority {priority!r} is not a whole number of 1..100"),
            (bool(misfit), f"timeout {misfit}"),
            (retry is not None and not isinstance(retry, (str, RetryPolicy)), "retry is no RetryPolicy and no name"),
            (
                isinstance(retry, RetryPolicy) and not retry.is_within_bounds,
                "retry has a delay of more than 1,000 years",
            ),
            (retry_for is not None and retry is None, "retry_for needs a retry policy: give retry=..."),
            (isinstance(retry_for, str), "retry_for is a single string: give a tuple of codes"),
        )
        if is_wrong
    ]
    for code in () if retry_for is None or isinstance(retry_for, str) else retry_for:
        if not is_retryable_code(code):
            problems.append(
                HorsiesError(
                    "HRS-102",
                    f"task {name!r}: retry_for lists {code!r}",
                    ["list your own upper snake case codes, UNHANDLED_ERROR, TASK_TIMEOUT or WORKER_CRASHED"],
                )
            )
    try:
        signature = describe_task(fn)
    except HorsiesError as error:
        raise HorsiesError.of([*problems, *error.problems]) from None
    misplacement = misplaced(run_in, fn, signature)
    if misplacement is not None:
        what, remedy = misplacement
        problems.append(HorsiesError("HRS-102", f"task {name!r}: {what}", [remedy]))
    raise_all(problems)
    listed = None if retry_for is None else tuple(retry_for)
    fn = fn.__func__ if isinstance(fn, staticmethod) else fn
    return Task(name, fn, TaskSettings(queue, priority, span, retry, listed, run_in), signature)


class TaskDeclarer(Protocol):
    """The type of `task` and of `Horsies.task`: a decorator, or what makes one."""

    @overload
    def __call__(
        self,
        name: str | None = None,
        /,
        *,
        queue: str | None = None,
        priority: int = PRIORITY_DEFAULT,
        timeout: float | timedelta | None = None,
        retry: RetryPolicy | str | None = None,
        retry_for: Sequence[str] | None = None,
        run_in: RunIn | None = None,
    ) -> TaskDecorator: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[Ok[T] | Err[TaskError]]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[T]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[Ok[T] | Err[TaskError]]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[T]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Ok[T] | Err[TaskError]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], T], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, Ok[T] | Err[TaskError]], /) -> Task[P, T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /) -> Task[P, T]: ...
    def __call__(self, name_or_fn: Any = None, /, **options: Any) -> Any: ...


if TYPE_CHECKING:
    task: TaskDeclarer
else:

    def task(name_or_fn: Any = None, /, **options: Any) -> Any:
        """Declare a task without an application, for libraries; `Horsies.include` registers it.

        Args:
            name_or_fn: the task's name; without one (or as a bare decorator) it is the function's.
            queue: one of the application's; None: its `default`, or its only one.
            priority: 1 (first) to 100 (last).
            timeout: seconds or a timedelta that user code may run.
            retry: when a failed attempt is followed by another; a policy, or the name of a registered one.
            retry_for: the codes that are retried; None: every code of yours and UNHANDLED_ERROR.
            run_in: for sync tasks: "thread", which is the default, or "process", for work that keeps a CPU busy: it
                leaves the worker alone, and is killed at its timeout. Arguments and result are pickled on the way.

        Raises:
            HorsiesError: HRS-101..105, everything that is wrong at once.
        """
        return declaring(lambda task: task, name_or_fn, options)


def declaring(register: Callable[[Task[Any, Any]], Task[Any, Any]], name_or_fn: Any, options: dict[str, Any]) -> Any:
    """The decorator behind `task` and `Horsies.task`: makes a task and hands it to `register`."""
    options = {
        "queue": None,
        "priority": PRIORITY_DEFAULT,
        "timeout": None,
        "retry": None,
        "retry_for": None,
        "run_in": None,
        **options,
    }
    if callable(name_or_fn) or is_bound_later(name_or_fn):
        return register(make_task(None, name_or_fn, **options))
    return lambda fn: register(make_task(name_or_fn, fn, **options))
