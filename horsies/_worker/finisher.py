"""Writes the ends of attempts in batches.

State: a buffer of ends, filled by the running tasks without waiting, emptied by one loop. The slot of a task is free
once its end is in the buffer; `has_room` is what keeps a slow database from filling it without bound. An end leaves the
buffer only when the database has answered for it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

import anyio

from .._core.codes import TaskErrorCode
from .._core.config import ResilienceConfig
from .._core.errors import BrokerError, TaskError
from .._core.result import Err
from .._core.status import TaskStatus
from .._payload.result import encode_result
from .._task.host import Environment
from ..abc import Consumer, Finish
from .backoff import pauses

logger = logging.getLogger("horsies.worker")

BATCH = 200
BUFFER = 2_000


class Finisher:
    """The one writer of a worker's results."""

    def __init__(
        self,
        consumer: Consumer,
        resilience: ResilienceConfig,
        environment: Environment,
        counts: Counter[str],
    ) -> None:
        self._consumer = consumer
        self._resilience = resilience
        self._environment = environment
        self._buffer: list[Finish] = []
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._hurried = anyio.Event()
        self._counts = counts

    @property
    def has_room(self) -> bool:
        return len(self._buffer) < BUFFER

    def add_nowait(self, end: Finish) -> None:
        self._buffer.append(end)
        self._filled.set()

    async def wait_written(self, *, hurry: bool = False) -> None:
        """Wait until everything added so far, and meanwhile, is written.

        With `hurry` a database that was away is tried again at once, then every `retry_initial`: there is no time for
        longer pauses.
        """
        if hurry:
            self._hurried.set()
        while self._buffer:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    async def run(self) -> None:
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            while self._buffer:
                await self.run_once()
            self._emptied.set()

    async def run_once(self) -> int:
        """Write one batch from the buffer; how many ends left it."""
        batch = self._buffer[:BATCH]
        await self._write(batch)
        del self._buffer[: len(batch)]
        return len(batch)

    async def _write(self, batch: Sequence[Finish]) -> None:
        waits = pauses(self._resilience, self._environment.random)
        while True:
            try:
                written = await self._consumer.finish(batch)
            except BrokerError as error:
                if error.retryable:
                    logger.warning("cannot write %d results, trying again: %s", len(batch), error.message)
                    await self._pause(next(waits))
                    continue
                await self._divide(batch, error)
                return
            for end, was_written in zip(batch, written, strict=True):
                if not was_written:
                    self._counts["lost"] += 1
                    logger.warning(
                        "the result of task %s was not written: another worker owns it by now, or a try whose answer "
                        "was lost wrote it",
                        end.lease.task_id,
                        extra={"task_id": end.lease.task_id},
                    )
            return

    async def _pause(self, seconds: float) -> None:
        if self._hurried.is_set():
            await anyio.sleep(min(seconds, self._resilience.retry_initial))
            return
        with anyio.move_on_after(seconds):
            await self._hurried.wait()

    async def _divide(self, batch: Sequence[Finish], error: BrokerError) -> None:
        """Halve a batch that the database refuses until the guilty end stands alone; that one fails for itself."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
            return
        (end,) = batch
        if end.error_code == TaskErrorCode.BROKER_ERROR:
            raise error
        logger.error(
            "the database refuses the result of task %s: %s",
            end.lease.task_id,
            error.message,
            extra={"task_id": end.lease.task_id},
        )
        failure = TaskError(TaskErrorCode.BROKER_ERROR, f"the result could not be stored: {error.message}")
        data = encode_result(Err(failure), None, "", None)
        await self._write([Finish(end.lease, TaskStatus.FAILED, data, TaskErrorCode.BROKER_ERROR)])
