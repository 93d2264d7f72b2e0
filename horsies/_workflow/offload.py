"""Work on large workflows, away from the event loop.

A workflow can have 65,536 nodes, and checking or writing so many takes seconds. In a thread that work lets the loop run
again every few milliseconds. Small workflows stay on the loop: a thread would take longer than they do.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

MANY_NODES = 500
MANY_BYTES = 256 * 1024


async def apart(work: Callable[[], T], *, nodes: int = 0, size: int = 0) -> T:
    """What `work` gives, which runs in a thread if there are many nodes or bytes.

    Args:
        work: a pure function.
    """
    if nodes < MANY_NODES and size < MANY_BYTES:
        return work()

    def run() -> T:
        with uncollected():
            return work()

    return await anyio.to_thread.run_sync(run, limiter=anyio.CapacityLimiter(1))  # others may have taken all of theirs


class _Collector:
    """Python's garbage collector, as far as this module has stopped it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._holders = 0
        self._was_enabled = False

    def stop(self) -> None:
        with self._lock:
            if not self._holders:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._holders += 1

    def let_go(self) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders and self._was_enabled:
                gc.enable()


_collector = _Collector()


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile.

    A hundred thousand new objects make the collector look through all there are, several times, and it stops every
    thread for 0.1 s each time. What is made of a workflow has no cycles.
    """
    _collector.stop()
    try:
        yield
    finally:
        _collector.let_go()
