"""The threads of a worker: each function begins at once, and a thread that is done with one takes what still waits.

To hand a function to a thread and its end back takes as long as a hundred quick ones. So one thread is made at a time,
and another only if something still waits when that one has begun. Where functions block, all soon have a thread each.

Invariant: while something waits, a thread is coming that has not looked yet, or one that has rings and another is made.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.abc
import anyio.to_thread

T = TypeVar("T")
Ended: TypeAlias = Callable[[T, Any, BaseException | None], None]


class ThreadPool:
    """Runs functions in threads.

    Args:
        most: the largest number of threads.
    """

    def __init__(self, most: int) -> None:
        self._limiter = anyio.CapacityLimiter(most)
        self._waiting: deque[_Call] = deque()
        self._ended: deque[_Call] = deque()
        self._coming: _Thread | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._is_rung = False

    async def serve(self) -> None:
        """Make threads, and hear of what has ended in them; nothing begins without. To be cancelled when all is done.

        Its end waits for no function that `run` does not wait for either.
        """
        ear, self._bell = socket.socketpair()
        with ear, self._bell:
            ear.setblocking(False)
            self._bell.setblocking(False)
            async with anyio.create_task_group() as self._group:
                self._provide()
                while True:
                    await anyio.wait_readable(ear)
                    with suppress(BlockingIOError):
                        ear.recv(64)
                    self._is_rung = False
                    while self._ended:
                        self._ended.popleft().tell()
                    self._provide()

    async def run(self, function: Callable[[T], Any], items: list[T], ended: Ended[T]) -> None:
        """Call `function` with each item in a thread, all at once, until all have ended.

        Cancelled, it leaves threads behind.

        Args:
            items: it is emptied: nothing here holds an item for longer than its own call takes.
            ended: called with each item when its call has ended, and with what that returned or raised.
        """
        batch = _Batch(function, len(items), ended)
        calls = [_Call(item, batch) for item in items]
        items.clear()
        self._waiting.extend(calls)
        self._provide()
        try:
            await batch.is_over.wait()
        except BaseException:  # whatever ends the wait, nobody hears of the rest
            for call in calls:
                call.give_up()
            raise

    def _provide(self) -> None:
        """Make a thread for what waits, unless one is coming."""
        if self._group is not None and self._waiting and (self._coming is None or self._coming.has_begun):
            self._coming = _Thread()
            self._group.start_soon(self._lend, self._coming)

    async def _lend(self, thread: _Thread) -> None:
        with thread.scope:
            await anyio.to_thread.run_sync(self._work, thread, abandon_on_cancel=True, limiter=self._limiter)

    def _work(self, thread: _Thread) -> None:
        """In a thread: run what waits, until nothing does."""
        thread.has_begun = True
        while not thread.is_given_up:
            try:
                call = self._waiting.popleft()
            except IndexError:
                return
            thread.call, call.thread = call, thread
            if call.is_given_up:
                continue
            if self._waiting:
                self._ring()
            call.run()
            thread.call = None
            if not call.is_given_up:
                self._ended.append(call)
                self._ring()

    def _ring(self) -> None:
        """From a thread: have `serve` look."""
        if not self._is_rung:
            self._is_rung = True
            self._bell.send(b"\0")


class _Thread:
    """What is known of one: `has_begun` and `call` are its own to set."""

    call: _Call | None = None
    has_begun = False
    is_given_up = False

    def __init__(self) -> None:
        self.scope = anyio.CancelScope(shield=True)


class _Batch:
    """Calls of `function` that are waited for together."""

    def __init__(self, function: Callable[[Any], Any], left: int, ended: Ended[Any]) -> None:
        self.function = function
        self.left = left
        self.ended = ended
        self.is_over = anyio.Event()
        if not left:
            self.is_over.set()


class _Call:
    """One call, and how it ended."""

    thread: _Thread | None = None
    is_given_up = False
    value: Any = None
    error: BaseException | None = None

    def __init__(self, item: Any, batch: _Batch) -> None:
        self._item = item
        self._batch = batch

    def run(self) -> None:
        """In a thread, in a context of its own."""
        try:
            self.value = copy_context().run(self._batch.function, self._item)
        except BaseException as error:  # told where it is waited for
            self.error = error

    def tell(self) -> None:
        """It has ended."""
        batch, item, value, error = self._batch, self._item, self.value, self.error
        self._item = self.value = self.error = None
        batch.left -= 1
        batch.ended(item, value, error)
        if not batch.left:
            batch.is_over.set()

    def give_up(self) -> None:
        """Nobody waits any more. It does not begin, or its thread takes nothing else."""
        self.is_given_up = True
        if self.thread is not None and self.thread.call is self:
            self.thread.is_given_up = True
            self.thread.scope.cancel()
