"""Async tasks of one name, run in the nursery: each in a loop task of its own, unless it never waits.

What returns without having waited has been seen by nobody: nothing else ran meanwhile, so nobody can have cancelled it,
or waits for it. The next one goes on in the same loop task, which saves a third of what a no-op costs the worker. One
that waits has its loop task to itself from then on, and those behind it get theirs at once.

Whether one has waited is seen by whether what stood behind it has begun. So on Trio, where those that are ready go on in
any order, one that came back within a turn of the loop may count as one that never waited; nothing more follows from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context

import anyio.abc

from .job import Job


class Turns:
    """Runs jobs, all of the same task.

    Args:
        name: of the loop tasks.
        run: runs one job; what it raises ends the worker.
    """

    def __init__(self, name: str, run: Callable[[Job], Awaitable[None]]) -> None:
        self._name = name
        self._run = run
        self._waiting: deque[Job] = deque()
        self._coming = 0
        self._busy = 0
        self._turn = 0
        self._apart = False

    def run_soon(self, job: Job, group: anyio.abc.TaskGroup) -> None:
        """Have `job` run in `group`; once it has begun, `job.stop` cancels it."""
        self._waiting.append(job)
        self._turn += 1  # whoever calls this does so while all of them wait
        self._relay(group)

    def _relay(self, group: anyio.abc.TaskGroup) -> None:
        """See to it that what waits is taken up, also if who runs now will wait."""
        wanted = len(self._waiting) if self._apart else min(1, len(self._waiting))
        while self._coming < wanted:
            self._coming += 1
            me = _LoopTask()
            me.cancel = group.start_soon(self._work, me, group, name=self._name).cancel

    async def _work(self, me: _LoopTask, group: anyio.abc.TaskGroup) -> None:
        """Run what waits, one after the other, until one of them lets go of the event loop or changes the context."""
        self._coming -= 1
        self._turn += 1
        turn, context = self._turn, copy_context()
        self._apart = self._apart or self._busy > 0
        while self._waiting:
            job = self._waiting.popleft()
            self._relay(group)
            job.stop = me.cancel
            self._busy += 1
            try:
                await self._run(job)
            finally:
                self._busy -= 1
            if self._turn != turn or job.is_cancelled or not _is_same(context, copy_context()):
                self._apart = True
                return
            if self._waiting:
                self._apart = False  # else whoever was to take up the next would have begun


class _LoopTask:
    """A handle that its loop task can have before it begins."""

    cancel: Callable[[], object]


def _is_same(before: Context, now: Context) -> bool:
    """Whether all variables hold the very same objects."""
    return len(now) == len(before) and all(now.get(variable, before) is value for variable, value in before.items())
