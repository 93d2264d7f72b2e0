"""The producer of a scenario: it takes no for an answer only when the answer is final."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

import anyio

from horsies import Horsies, Runtime, TaskSendErrorCode, TaskSendOptions, WorkflowHandle

MIX = (
    *(("once", 0.0), ("again", 0.05), ("once", 0.1)),
    *(("again_in_thread", 0.05), ("once_in_thread", 0.1), ("again", 0.3)),
)
"""Tasks of every kind, and seconds: 100 ms on average."""


@dataclass
class Producer:
    """Sends numbered tasks, replaying what may be replayed until it is answered Ok."""

    rt: Runtime
    app: Horsies
    sent: dict[int, str] = field(default_factory=dict)
    replays: int = 0
    refused: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    async def send(self, task: str, seconds: float = 0.0, *, queue: str = "default", delay: float = 0.0) -> int:
        """Send one task until it is answered Ok; its number."""
        function = self.app.tasks[task].handle(self.rt).with_options(TaskSendOptions(queue=queue))
        number = next(self._numbers)
        answer = await function.schedule(delay, number, seconds)
        while answer.is_err():
            error = answer.unwrap_err()
            if error.code is not TaskSendErrorCode.ENQUEUE_FAILED or not error.retryable:
                self.refused.append(f"a send was refused for good: {error}")
                return number
            self.replays += 1
            await anyio.sleep(0.05)
            replay = function.retry_schedule if delay else function.retry_send
            answer = await replay(error)
        self.sent[number] = answer.unwrap().task_id
        return number

    async def start_workflow(self, name: str = "flow") -> WorkflowHandle[Any]:
        """Start one."""
        started: WorkflowHandle[Any] = (await self.app.workflows[name].handle(self.rt).start()).unwrap()
        return started

    async def send_burst(self, task: str, size: int) -> None:
        """Send `size` tasks a thousand at a time."""
        function = self.app.tasks[task].handle(self.rt)
        for start in range(0, size, 1_000):
            numbers = [next(self._numbers) for _ in range(min(1_000, size - start))]
            for number, answer in zip(numbers, await function.send_many((n, 0.0) for n in numbers), strict=True):
                self.sent[number] = answer.unwrap().task_id

    @asynccontextmanager
    async def load(self, rate: float, mix: Iterable[tuple[str, float]]) -> AsyncIterator[None]:
        """Beside the block, send about `rate` tasks a second, in turn those of `mix` (task, seconds)."""
        stop = anyio.Event()

        async def send_all() -> None:
            due = time.monotonic()
            for task, seconds in cycle(tuple(mix)):
                if stop.is_set():
                    return
                await self.send(task, seconds)
                due = max(due + 1 / rate, time.monotonic() - 1)
                await anyio.sleep(max(0.0, due - time.monotonic()))

        async with anyio.create_task_group() as group:
            group.start_soon(send_all)
            yield
            stop.set()
