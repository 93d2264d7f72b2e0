"""Declaring a workflow: a function that is given a builder, and says what is done and in which order."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from .._core.errors import HorsiesError, raise_all
from .._core.names import is_name
from .._payload.callables import look_at
from .._payload.signature import Signature, describe
from .node import NodeRef, TaskNode
from .node_overloads import MakesNodes

P = ParamSpec("P")
T = TypeVar("T")
Bound = TypeVar("Bound")
Bound_co = TypeVar("Bound_co", covariant=True)
Builder = TypeVar("Builder", bound="AddsNodes")

OnError: TypeAlias = Literal["fail", "pause"]
LAST_VERSION = 2**31 - 1


class BindsWorkflows(Protocol[P, T, Bound_co]):
    """Type of the objects that `Workflow.handle` takes: an open `Runtime` or a `BlockingRuntime`."""

    def bind_workflow(self, workflow: Workflow[P, T], /) -> Bound_co:
        """Bind `workflow` to this object."""
        ...


class BindsAnyWorkflow(Protocol):
    """The same, for a workflow whose parameters are not known to the type checker."""

    def bind_workflow(self, workflow: Any, /) -> Any:
        """What `workflow.handle(rt)` returns."""
        ...


class AddsNodes(Protocol):
    """A `WorkflowBuilder`, as the function of a workflow is given it."""

    def task(self, node: TaskNode[T]) -> NodeRef[T]: ...

    def subworkflow(self, node: TaskNode[T]) -> NodeRef[T]: ...

    def map(self, node: TaskNode[T], *, over: NodeRef[Sequence[Any]]) -> NodeRef[list[T]]: ...


class Workflow(Generic[P, T], MakesNodes):
    """A declared workflow. Calling it runs the function with a builder of yours, as a part of another workflow, say."""

    name: str
    """Name of the workflow: 1 to 255 bytes without NUL."""
    fn: Callable[..., Any]
    """Function that adds the nodes to a `WorkflowBuilder`."""
    version: int
    """Version of the definition, from 1."""
    on_error: OnError
    """What a failed node does to the workflow: "fail" or "pause"."""
    signature: Signature
    """Parameters of `fn` without the builder."""

    def __init__(
        self, name: str, fn: Callable[..., Any], version: int, on_error: OnError, signature: Signature
    ) -> None:
        functools.update_wrapper(self, fn)
        self.name = name
        self.fn = fn
        self.version = version
        self.on_error = on_error
        self.signature = signature

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    if TYPE_CHECKING:

        def _takes(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
            """What `node` knows the arguments' types by."""

    @overload
    def handle(self, rt: BindsWorkflows[P, T, Bound]) -> Bound: ...
    @overload
    def handle(self, rt: BindsAnyWorkflow) -> Any: ...
    def handle(self, rt: Any) -> Any:
        """Bind this workflow to `rt`, so that it can be started.

        Raises:
            HorsiesError: HRS-300 when the runtime's application has not registered it.
        """
        return rt.bind_workflow(self)

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}, version {self.version}>"


class WorkflowDecorator(Protocol):
    """What `Horsies.workflow(...)` returns."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Builder, P], NodeRef[T]], /) -> Workflow[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Builder, P], None], /) -> Workflow[P, None]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Workflow[Any, Any]: ...


class WorkflowDeclarer(Protocol):
    """The type of `Horsies.workflow`: a decorator, or what makes one."""

    @overload
    def __call__(
        self, name: str | None = None, /, *, version: int = 1, on_error: OnError = "fail"
    ) -> WorkflowDecorator: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Builder, P], NodeRef[T]], /) -> Workflow[P, T]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Builder, P], None], /) -> Workflow[P, None]: ...
    def __call__(self, name_or_fn: Any = None, /, **options: Any) -> Any: ...


def make_workflow(name: str | None, fn: Callable[..., Any], version: int, on_error: OnError) -> Workflow[Any, Any]:
    """A workflow by its heading and its function, whose name it has if it is given none.

    Raises:
        HorsiesError: HRS-001 for its name, HRS-023 for what else is wrong with it, HRS-104 for a function that is
            declared already, HRS-105 for parameters that cannot be stored.
    """
    if isinstance(fn, Workflow):
        raise HorsiesError("HRS-104", f"workflow {fn.name!r} is declared already", ["decorate a function only once"])
    name = getattr(fn, "__name__", "") if name is None else name
    problems = problems_with_heading(name, version, on_error)
    fn = fn.__func__ if isinstance(fn, staticmethod) else fn
    if not _takes_a_builder(fn):
        what = f"workflow {name!r} is no function that takes a WorkflowBuilder"
        remedy = "declare a plain function, not an async one or a generator: def order(wf: WorkflowBuilder, ...)"
        problems.append(HorsiesError("HRS-023", what, [remedy]))
    raise_all(problems)
    return Workflow(name, fn, version, on_error, describe(fn, context_type=NodeRef, result_type=NodeRef))


def problems_with_heading(name: object, version: object, on_error: object) -> list[HorsiesError]:
    """What is wrong with what a workflow says of itself."""
    problems = []
    if not is_name(name):
        what = f"workflow {name!r}: this is no name"
        problems.append(HorsiesError("HRS-001", what, ["give it one of 1..255 bytes without NUL"]))
    if type(version) is not int or not 1 <= version <= LAST_VERSION:
        what = f"workflow {name!r}: version is not a whole number of 1..{LAST_VERSION}"
        problems.append(HorsiesError("HRS-023", what, ["begin with version=1, and count up"]))
    if on_error not in ("fail", "pause"):
        what = f"workflow {name!r}: on_error is neither 'fail' nor 'pause'"
        problems.append(HorsiesError("HRS-023", what, ["leave it out to let it fail"]))
    return problems


def _takes_a_builder(fn: object) -> bool:
    if not callable(fn) or inspect.isasyncgenfunction(fn):
        return False
    if inspect.isgeneratorfunction(fn):
        return False
    try:
        callee = look_at(fn)
    except HorsiesError:
        return True  # and `describe` says what is wrong
    first = next(iter(callee.signature.parameters.values()), None)
    is_async = callee.is_async or callee.wraps_async
    return not is_async and first is not None and first.kind in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD)
