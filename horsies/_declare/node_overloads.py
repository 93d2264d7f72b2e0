"""`my_task.node(...)`: a call of a task, or of a workflow, as a node, where references may stand for arguments.

"A value of this parameter's type, or a reference to one" is beyond a ParamSpec. So there is an overload for each number
of positional arguments, up to eight; each takes the types from the task itself, as a protocol that it fits. What comes
by keyword, and what does not come at all, is checked when the workflow is built: the rest may still come from
`set_input` or `arg_from`.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, overload

from .node import NodeParts, NodeRef, TaskNode

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
G = TypeVar("G")
H = TypeVar("H")
A_contra = TypeVar("A_contra", contravariant=True)
B_contra = TypeVar("B_contra", contravariant=True)
C_contra = TypeVar("C_contra", contravariant=True)
D_contra = TypeVar("D_contra", contravariant=True)
E_contra = TypeVar("E_contra", contravariant=True)
F_contra = TypeVar("F_contra", contravariant=True)
G_contra = TypeVar("G_contra", contravariant=True)
H_contra = TypeVar("H_contra", contravariant=True)


class _Takes(Protocol[T_co]):
    def _takes(self, *args: Any, **kwargs: Any) -> T_co: ...


class _Takes1(Protocol[A_contra, T_co]):
    def _takes(self, a: A_contra, /, *args: Any, **kwargs: Any) -> T_co: ...


class _Takes2(Protocol[A_contra, B_contra, T_co]):
    def _takes(self, a: A_contra, b: B_contra, /, *args: Any, **kwargs: Any) -> T_co: ...


class _Takes3(Protocol[A_contra, B_contra, C_contra, T_co]):
    def _takes(self, a: A_contra, b: B_contra, c: C_contra, /, *args: Any, **kwargs: Any) -> T_co: ...


class _Takes4(Protocol[A_contra, B_contra, C_contra, D_contra, T_co]):
    def _takes(self, a: A_contra, b: B_contra, c: C_contra, d: D_contra, /, *args: Any, **kwargs: Any) -> T_co: ...


class _Takes5(Protocol[A_contra, B_contra, C_contra, D_contra, E_contra, T_co]):
    def _takes(
        self, a: A_contra, b: B_contra, c: C_contra, d: D_contra, e: E_contra, /, *args: Any, **kwargs: Any
    ) -> T_co: ...


class _Takes6(Protocol[A_contra, B_contra, C_contra, D_contra, E_contra, F_contra, T_co]):
    def _takes(
        self, a: A_contra, b: B_contra, c: C_contra, d: D_contra, e: E_contra, f: F_contra, /, *args: Any, **kwargs: Any
    ) -> T_co: ...


class _Takes7(Protocol[A_contra, B_contra, C_contra, D_contra, E_contra, F_contra, G_contra, T_co]):
    def _takes(
        self,
        a: A_contra,
        b: B_contra,
        c: C_contra,
        d: D_contra,
        e: E_contra,
        f: F_contra,
        g: G_contra,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> T_co: ...


class _Takes8(Protocol[A_contra, B_contra, C_contra, D_contra, E_contra, F_contra, G_contra, H_contra, T_co]):
    def _takes(
        self,
        a: A_contra,
        b: B_contra,
        c: C_contra,
        d: D_contra,
        e: E_contra,
        f: F_contra,
        g: G_contra,
        h: H_contra,
        /,
        *args: Any,
        **kwargs: Any,
    ) -> T_co: ...


class MakesNodes:
    """What gives `Task` and `Workflow` their `node`."""

    @overload
    def node(
        self: _Takes8[A, B, C, D, E, F, G, H, T],
        a: A | NodeRef[A],
        b: B | NodeRef[B],
        c: C | NodeRef[C],
        d: D | NodeRef[D],
        e: E | NodeRef[E],
        f: F | NodeRef[F],
        g: G | NodeRef[G],
        h: H | NodeRef[H],
        /,
        **kwargs: Any,
    ) -> TaskNode[T]: ...
    @overload
    def node(
        self: _Takes7[A, B, C, D, E, F, G, T],
        a: A | NodeRef[A],
        b: B | NodeRef[B],
        c: C | NodeRef[C],
        d: D | NodeRef[D],
        e: E | NodeRef[E],
        f: F | NodeRef[F],
        g: G | NodeRef[G],
        /,
        **kwargs: Any,
    ) -> TaskNode[T]: ...
    @overload
    def node(
        self: _Takes6[A, B, C, D, E, F, T],
        a: A | NodeRef[A],
        b: B | NodeRef[B],
        c: C | NodeRef[C],
        d: D | NodeRef[D],
        e: E | NodeRef[E],
        f: F | NodeRef[F],
        /,
        **kwargs: Any,
    ) -> TaskNode[T]: ...
    @overload
    def node(
        self: _Takes5[A, B, C, D, E, T],
        a: A | NodeRef[A],
        b: B | NodeRef[B],
        c: C | NodeRef[C],
        d: D | NodeRef[D],
        e: E | NodeRef[E],
        /,
        **kwargs: Any,
    ) -> TaskNode[T]: ...
    @overload
    def node(
        self: _Takes4[A, B, C, D, T],
        a: A | NodeRef[A],
        b: B | NodeRef[B],
        c: C | NodeRef[C],
        d: D | NodeRef[D],
        /,
        **kwargs: Any,
    ) -> TaskNode[T]: ...
    @overload
    def node(
        self: _Takes3[A, B, C, T], a: A | NodeRef[A], b: B | NodeRef[B], c: C | NodeRef[C], /, **kwargs: Any
    ) -> TaskNode[T]: ...
    @overload
    def node(self: _Takes2[A, B, T], a: A | NodeRef[A], b: B | NodeRef[B], /, **kwargs: Any) -> TaskNode[T]: ...
    @overload
    def node(self: _Takes1[A, T], a: A | NodeRef[A], /, **kwargs: Any) -> TaskNode[T]: ...
    @overload
    def node(self: _Takes[T], /, **kwargs: Any) -> TaskNode[T]: ...
    def node(self: Any, /, *args: Any, **kwargs: Any) -> TaskNode[Any]:
        """This as a node of a workflow: `wf.task(my_task.node(...))`, or `wf.subworkflow(my_workflow.node(...))`.

        Args:
            *args: arguments. A `NodeRef` in place of an argument makes the node wait for that one, and take its value.
            **kwargs: arguments by keyword, likewise. Everything is checked when the workflow is built.
        """
        return TaskNode(NodeParts(self, args, kwargs))
