"""The threads of a worker while they and the event loop take turns as often as can be: nothing is lost or doubled."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from horsies._worker.threads import Threads

pytestmark = pytest.mark.anyio

LONG = 60
"""Seconds that nothing here takes, unless it hangs."""
MOST = 5


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("seed", range(3))
async def test_each_runs_once_whatever_comes_in_between(seed: int) -> None:
    rng, ran, told, lock = random.Random(seed), Counter[int](), Counter[int](), threading.Lock()
    waited_for = set[int]()

    def function(number: int, pause: float) -> int:
        with lock:
            ran[number] += 1
        if pause:
            time.sleep(pause)
        return number

    async def one_batch(numbers: range, patience: float) -> None:
        def ended(place: int, value: int) -> None:
            assert value == numbers[place]
            told[value] += 1

        functions = [partial(function, n, rng.choice([0, 0, 0, 0, 0.0005])) for n in numbers]
        with anyio.move_on_after(patience):
            await threads.run(functions, ended)
            waited_for.update(numbers)

    threads = Threads(MOST)
    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            group.start_soon(threads.serve)
            async with anyio.create_task_group() as batches:
                for first in range(0, 3_000, 10):
                    numbers = range(first, first + rng.randint(1, 10))
                    batches.start_soon(one_batch, numbers, rng.choice([LONG, LONG, LONG, 0.001]))
                    if rng.random() < 0.5:
                        await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert set(ran.values()) == set(told.values()) == {1}
    assert waited_for <= told.keys() <= ran.keys()
    assert len(waited_for) > 500
