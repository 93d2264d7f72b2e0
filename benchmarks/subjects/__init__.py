"""What is measured: horsies, the floor that SQL sets, and its peers, each behind the same few calls.

A module here is one subject. It has

    LOOPS: tuple[str, ...]      of "asyncio", "uvloop" and "trio", those it runs on
    KINDS: frozenset[str]       the kinds of task it can run
    open(url): async context manager of a `Queue` that is empty, its tables made anew
    open_again(url): the same on the tables that are there, tasks and all: for further processes

and is imported in a process of its own, so that a peer which is not installed stops nobody else.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

NOTHING = "nothing"
"""An async task that returns at once."""
WAIT = "wait"
"""An async task that sleeps 1 ms."""
SYNC = "sync"
"""A sync task that returns at once; it runs wherever the subject runs sync tasks."""
MARK = "mark"
"""An async task whose first line adds `time.perf_counter()` to `MARKS`."""

MARKS: list[float] = []


class Queue(Protocol):
    """An open queue, used as its own documentation tells its users to."""

    async def send(self, kind: str) -> None:
        """Send one task and return once it is committed."""

    async def send_many(self, kind: str, count: int) -> None:
        """Send `count` tasks by the fastest public way, and return once they are committed."""

    async def drain(self, concurrency: int) -> None:
        """Run one worker here, with so many tasks at once, until none is left and every result is stored."""

    def worker(self, concurrency: int) -> AbstractAsyncContextManager[None]:
        """A worker that runs here for as long as the block; it is ready for tasks when the block begins."""

    async def stored(self) -> int:
        """How many tasks have ended with their result stored."""

    async def round_trip(self, kind: str) -> None:
        """Send one task and wait for its result. Only where a subject lets its users do so."""
