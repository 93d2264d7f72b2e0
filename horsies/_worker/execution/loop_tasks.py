"""Async tasks of one name, run in the nursery: each in a loop task of its own, unless it never waits.

What returns without having waited has been seen by nobody: nothing else ran meanwhile, so nobody else can have
cancelled it, or waits for it. The next one goes on in the same loop task, which saves a third of what a no-op costs the
worker. One that waits has its loop task to itself from then on, and those behind it get theirs at once.

Whether one has waited is told by a pair of loop tasks that were made together. Both begin in the same turn of the event
loop, in whichever order, so until the second has begun nothing that the first ran has waited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from operator import is_

import anyio
import anyio.abc
import anyio.lowlevel

from .job import Job


class LoopTasks:
    """Runs jobs, all of the same task.

    State: what waits for its turn, and which loop tasks have been made and not begun: lone ones, for one job each, and
    a pair, for any number. Where the jobs wait, or change the context, they get lone ones from the start.

    Args:
        name: of the loop tasks.
        run: runs one job; what it raises ends the worker.
    """

    def __init__(self, name: str, run: Callable[[Job], Awaitable[None]]) -> None:
        self._name = name
        self._run = run
        self._waiting: deque[Job] = deque()
        self._lone = 0
        self._has_pair = False
        self._apart = False
        self._turn = 0

    def run_soon(self, job: Job, group: anyio.abc.TaskGroup) -> None:
        """Have `job` run in `group`; once it has begun, `job.stop` cancels it."""
        self._waiting.append(job)
        self._turn += 1
        self._provide(group)

    def _provide(self, group: anyio.abc.TaskGroup) -> None:
        """Make loop tasks for what waits and has none."""
        left = len(self._waiting) - self._lone
        if self._has_pair or left <= 0:  # below 0 where the pair took up what a lone one was made for
            return
        if self._apart or not self._lone:
            self._lone += left
            for _ in range(left):
                self._make(_LoopTask(), group)
        else:
            self._has_pair = True
            one = _LoopTask()
            one.partner = _LoopTask(one)
            self._make(one, group)
            self._make(one.partner, group)

    def _make(self, me: _LoopTask, group: anyio.abc.TaskGroup) -> None:
        me.cancel = group.start_soon(self._work, me, group, name=self._name).cancel

    async def _work(self, me: _LoopTask, group: anyio.abc.TaskGroup) -> None:
        me.has_begun = True
        self._turn += 1
        turn, context, info = self._turn, copy_context(), anyio.get_current_task()
        if me.partner is None:
            self._lone -= 1
        elif me.partner.has_begun:
            self._has_pair = False
            self._apart = self._apart or len(self._waiting) > 0
        while self._waiting:
            job = self._waiting.popleft()
            self._provide(group)
            job.stop = me.cancel
            await self._run(job)
            if info.has_pending_cancellation():
                await _let_it_come()
                return
            if me.partner is None or me.partner.has_begun:
                if self._turn == turn and self._waiting and _is_same(context, copy_context()):
                    self._apart = False  # most likely it has not waited
                return
            if not _is_same(context, copy_context()):
                return


class _LoopTask:
    """What is known of one; `cancel` is there before it begins."""

    cancel: Callable[[], object]

    def __init__(self, partner: _LoopTask | None = None) -> None:
        self.partner = partner
        self.has_begun = False


async def _let_it_come() -> None:
    """Wait, with nothing to lose, for what a job asked asyncio for and was too late for: the cancellation of itself."""
    with anyio.CancelScope(shield=True), suppress(anyio.get_cancelled_exc_class()):
        await anyio.lowlevel.checkpoint()


def _is_same(before: Context, now: Context) -> bool:
    """Whether the same variables hold the very same objects."""
    return len(now) == len(before) and all(map(is_, now, before)) and all(map(is_, now.values(), before.values()))
