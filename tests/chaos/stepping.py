"""Event loops that count the steps of a scope, and cancel it at a given one.

A step is one turn of one task: on Trio as its instruments report it, on asyncio each callback given to `call_soon`, by
which tasks begin and go on. Nothing else leads a task from one await to the next, so whoever cancels at the 1st, the
2nd, the 3rd step and so on comes by every await point there is.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from types import FrameType
from typing import Any

import anyio
import trio

LOOPS = ("asyncio", "trio")


class Steps:
    """Counts the steps taken while `counted` lasts, and cancels its scope at step `at` (None: never)."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.taken = 0
        self.cancelled_at: float | None = None
        """When, by `time.monotonic`."""
        self.places: list[str] = []
        """Where each task stood when the scope was cancelled."""
        self.lasted = 0.0
        """Seconds from the cancellation to the end of the scope."""
        self._counts = False
        self._context = Context()
        self._scope: anyio.CancelScope | None = None

    @contextmanager
    def counted(self, *, at_once: bool = True) -> Iterator[None]:
        """The scope, in which steps count at once or from `begin` on."""
        self._counts = at_once
        self._context = copy_context()
        try:
            with anyio.CancelScope() as self._scope:
                yield
        finally:
            self._counts = False
            if self.cancelled_at is not None:
                self.lasted = time.monotonic() - self.cancelled_at

    def begin(self) -> None:
        """Count from now on."""
        self._counts = True

    def take(self) -> None:
        """One step begins."""
        if not self._counts or self._scope is None or self.cancelled_at is not None:
            return
        self.taken += 1
        if self.taken == self.at:
            # Whatever this step is about, it may know nothing of the loop it is in.
            self._context.run(self._cancel, self._scope)

    def _cancel(self, scope: anyio.CancelScope) -> None:
        self.cancelled_at = time.monotonic()
        self.places = places()
        scope.cancel()


class _CountingLoop(asyncio.SelectorEventLoop):
    def __init__(self, steps: Steps, complaints: list[str]) -> None:
        super().__init__()
        self._steps = steps
        self.set_exception_handler(lambda _, context: complaints.append(f"the loop complained: {context}"))

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        return super().call_soon(self._step, callback, *args, context=context)

    def _step(self, callback: Callable[..., object], *args: Any) -> None:
        self._steps.take()
        callback(*args)


class _Counter(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps.take()


def run(loop: str, main: Callable[[], Coroutine[Any, Any, None]], steps: Steps) -> list[str]:
    """Run `main` in a fresh loop; what the loop complains of, tasks that `main` left behind included."""
    complaints: list[str] = []

    async def watched() -> None:
        before = set(anyio.get_running_tasks())
        await main()
        complaints.extend(f"left a task: {task}" for task in set(anyio.get_running_tasks()) - before)

    options: dict[str, Any] = (
        {"instruments": [_Counter(steps)]}
        if loop == "trio"
        else {"loop_factory": partial(_CountingLoop, steps, complaints)}
    )
    anyio.run(watched, backend=loop, backend_options=options)
    return complaints


def places() -> list[str]:
    """Where each task of this loop stands: the innermost line of horsies, and the innermost of all."""
    return [f"{task.name}: {' > '.join(_stack(task.coro))}" for task in anyio.get_running_tasks() if _stack(task.coro)]


def _stack(awaited: Any) -> list[str]:
    """Lines of horsies, outermost first. It ends where an async generator is awaited, which does not say where."""
    lines = []
    while awaited is not None:
        frame: FrameType | None = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None and f"{os.sep}horsies{os.sep}" in frame.f_code.co_filename:
            lines.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return lines
