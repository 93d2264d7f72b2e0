"""Trio made deterministic, counted, and stoppable. The private parts of Trio that this needs are all in here."""

from __future__ import annotations

import hashlib
import importlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
import trio.abc
import trio.testing


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Trio's scheduler and the module `random`, seeded, and afterwards as they were.

    Trio has no public way to this; Hypothesis and pytest-trio do the same.
    """
    scheduler: Any = importlib.import_module("trio._core._run")
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(f"{seed} schedule")
    random.seed(f"{seed} module")
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])
        random.setstate(before[2])


class Steps(trio.abc.Instrument):
    """Counts and hashes the steps of all tasks; a task goes by the order in which it was spawned."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self.count = 0
        self.hash = hashlib.sha256()
        self._clock = clock
        self._spawned = 0
        self._numbers: dict[trio.lowlevel.Task, int] = {}

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._spawned += 1
        self._numbers[task] = self._spawned

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        self.hash.update(struct.pack("<Qd", self._numbers[task], self._clock.current_time()))

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        del self._numbers[task]


async def unshield_at(deadline: float) -> None:
    """At `deadline` open every shield there is, so that what was cancelled long ago and does not end is cancelled."""
    await trio.sleep_until(deadline)
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    while waiting:
        task = waiting.pop()
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        status: Any = task._cancel_status
        while status is not None:
            status._scope.shield = False
            status = status._parent
