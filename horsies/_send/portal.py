"""The way from a synchronous program into the thread of its runtime's event loop."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, TypeVar, TypeVarTuple, Unpack, overload

import anyio.from_thread

from .forks import refuse_in_fork

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Portal:
    """Calls functions in the thread of an event loop. A fork of the process has no such thread, and is refused."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal) -> None:
        self._portal = portal
        self._pid = os.getpid()

    @overload
    def call(self, function: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T: ...

    @overload
    def call(self, function: Callable[[Unpack[Ts]], T], *args: *Ts) -> T: ...

    def call(self, function: Callable[[Unpack[Ts]], Any], *args: *Ts) -> Any:
        """Call `function` there, and wait for what it returns. Raises: HorsiesError, HRS-211, in a fork."""
        refuse_in_fork(self._pid)
        return self._portal.call(function, *args)

    def wrap_async_context_manager(self, manager: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """Enter and leave `manager` there. Raises as `call`."""
        refuse_in_fork(self._pid)
        return self._portal.wrap_async_context_manager(manager)

    def let_go(self) -> bool:
        """In a fork: forget the thread, so that nothing waits for it at the end of the process. Whether it is one."""
        if self._pid == os.getpid():
            return False
        with suppress(StopIteration, RuntimeError, AttributeError):  # only the mark that it takes no more calls counts
            self._portal.stop().send(None)
        return True
