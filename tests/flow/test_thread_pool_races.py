"""The threads of a worker while they and the event loop take turns as often as can be: nothing is lost or doubled."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest

from horsies._worker.execution.thread_pool import ThreadPool

pytestmark = pytest.mark.anyio

LONG = 60
"""Seconds that nothing here takes, unless it hangs."""


@pytest.fixture(autouse=True)
def hasty() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("users", [1, 2, 3, 20])
@pytest.mark.parametrize("most", [1, 2, 10])
async def test_each_runs_once_whatever_comes_in_between(users: int, most: int) -> None:
    """Each user waits for a batch before the next, so with a few users what one thread overlooks no other one finds."""
    rng, ran, told, lock = random.Random(users * most), Counter[int](), Counter[int](), threading.Lock()
    waited_for, given_up = set[int](), set[int]()

    def count(item: tuple[int, float]) -> int:
        number, pause = item
        with lock:
            ran[number] += 1
        if pause:
            time.sleep(pause)
        return number

    async def run_batch(numbers: range, patience: float) -> None:
        def ended(item: tuple[int, float], value: int, error: BaseException | None) -> None:
            assert (value, error) == (item[0], None)
            told[value] += 1

        items = [(n, rng.choice([0, 0, 0, 0, 0.0002])) for n in numbers]
        with anyio.move_on_after(patience) as scope:
            await threads.run(count, items, ended)
        (given_up if scope.cancelled_caught else waited_for).update(numbers)

    async def use(first: int) -> None:
        for number in range(first, first + 10_000, 10_000 * users // 1_000):
            await run_batch(range(number, number + rng.choice([1, 1, 2, 5])), rng.choice([*[LONG] * 9, 0, 0.0002]))
            for _ in range(rng.choice([0, 0, 1, 3])):
                await anyio.lowlevel.checkpoint()

    threads = ThreadPool(most)
    with anyio.fail_after(LONG):
        async with anyio.create_task_group() as group:
            group.start_soon(threads.serve)
            async with anyio.create_task_group() as all_users:
                for user in range(users):
                    all_users.start_soon(use, user * 10_000)
            group.cancel_scope.cancel()
    assert set(ran.values()) == set(told.values()) == {1}
    assert waited_for <= told.keys() <= ran.keys()
    assert len(waited_for) > len(given_up) > 0
