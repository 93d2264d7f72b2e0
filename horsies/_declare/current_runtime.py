"""Which runtime a task without a handle uses: the innermost open one of this context, else the loop's only one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import anyio
import anyio.lowlevel

from .._core.errors import HorsiesError
from .._send.gateway import Gateway

_innermost: ContextVar[Gateway | None] = ContextVar("horsies_runtime", default=None)
_open_here: anyio.lowlevel.RunVar[tuple[Gateway, ...]] = anyio.lowlevel.RunVar("horsies_runtimes", ())


def open_runtimes() -> tuple[Gateway, ...]:
    """The open runtimes of the running event loop, oldest first."""
    return _open_here.get(())


@contextmanager
def registered(gateway: Gateway) -> Iterator[None]:
    """While entered, `gateway` counts as open in this loop and is the innermost one of this context."""
    _open_here.set((*open_runtimes(), gateway))
    before = _innermost.get()
    _innermost.set(gateway)
    try:
        yield
    finally:
        _innermost.set(before)
        _open_here.set(tuple(other for other in open_runtimes() if other is not gateway))


def current_runtime(purpose: str) -> Gateway:
    """The ambient runtime for `purpose`.

    Raises:
        HorsiesError: HRS-300 when there is none, or several and no way to choose. HRS-211 in a fork.
    """
    innermost = _innermost.get()
    if innermost is not None:
        innermost.refuse_in_fork()
    try:
        runtimes = open_runtimes()
    except anyio.NoEventLoopError:
        runtimes = ()
    if innermost is not None and innermost in runtimes:
        return innermost
    if len(runtimes) == 1:
        return runtimes[0]
    found = "no runtime is open" if not runtimes else f"{len(runtimes)} runtimes are open"
    raise HorsiesError(
        "HRS-300",
        f"{purpose}: {found} in this event loop",
        ["call it inside `async with Runtime(app) as rt:`, or name the runtime: `my_task.handle(rt)`"],
    )
