"""Writes the ends of attempts in batches.

What follows from the ends of nodes of workflows is written in the same transaction, where that can be done at once.

State: a buffer of ends, filled by the running tasks without waiting, emptied by one loop. The slot of a task is free
once its end is in the buffer; `has_room` is what keeps a slow database from filling it without bound: while it is false
nothing is claimed or started. An end leaves the buffer only when the database has answered for it.

A row that somebody else's open transaction has locked holds up nobody else's result: the broker says so soon, the batch
is halved until the locked row stands alone, and its end is set aside and tried again by itself, at growing intervals.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence

import anyio

from .._core.backoff import pauses
from .._core.codes import TaskErrorCode
from .._core.errors import BrokerError, TaskError
from .._core.limits import STATEMENT_BYTES
from .._core.result import Err
from .._core.status import TaskStatus
from .._payload.result import encode_result
from .._task.context import ContextLogger
from ..abc import Consumer, Finish, Lease
from .host import WorkerHost

BATCH = 200
BUFFER = 2_000
"""Ends not written yet with which nothing more is begun."""
BUFFER_BYTES = 64 * 1024 * 1024
"""Bytes of results not written yet with which nothing more is begun."""


class Finisher:
    """The one writer of a worker's results.

    Args:
        counts: the worker's, for its statistics.
        written: called after each batch that the database has answered for.

    Attributes:
        freed: called when there is room again.
    """

    def __init__(
        self,
        host: WorkerHost,
        consumer: Consumer,
        counts: Counter[str],
        log: ContextLogger,
        written: Callable[[], None],
    ) -> None:
        self._host = host
        self._consumer = consumer
        self._resilience = host.app.config.resilience
        self._environment = host.environment
        self.freed: Callable[[], None] = lambda: None
        self._buffer: list[Finish] = []
        self._unwritten = 0
        self._unwritten_bytes = 0
        self._may_not_have_started: set[Lease] = set()
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._hurried = anyio.Event()
        self._counts = counts
        self._log = log
        self._written = written
        self._aside: deque[Finish] = deque()
        self._aside_until = math.inf
        self._waits = pauses(self._resilience, self._environment.random)

    @property
    def leases(self) -> list[Lease]:
        """Of all ends that the database has not answered for."""
        return [end.lease for end in (*self._buffer, *self._aside)]

    @property
    def has_room(self) -> bool:
        return self._unwritten < BUFFER and self._unwritten_bytes < BUFFER_BYTES

    def add_nowait(self, end: Finish, *, has_started: bool = True) -> None:
        """Have `end` written. Unless its attempt is known to have started, there may turn out to be none to end."""
        if not has_started:
            self._may_not_have_started.add(end.lease)
        self._buffer.append(end)
        self._unwritten += 1
        self._unwritten_bytes += len(end.result)
        self._filled.set()

    async def wait_written(self, *, hurry: bool = False) -> None:
        """Wait until everything added so far, and meanwhile, is written.

        With `hurry` a database that was away is tried again at once, then every `retry_initial`: there is no time for
        longer pauses.
        """
        if hurry:
            self._hurried.set()
            self._aside_until = anyio.current_time()
            self._filled.set()
        while self._buffer or self._aside:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    async def run(self) -> None:
        while True:
            with anyio.CancelScope(deadline=self._aside_until):
                await self._filled.wait()
            self._filled = anyio.Event()
            while self._buffer:
                await self.run_once()
            if anyio.current_time() >= self._aside_until:
                await self._try_aside()
            if not self._aside:
                self._emptied.set()

    async def run_once(self) -> int:
        """Write one batch from the buffer; how many ends left it."""
        batch = self._next_batch()
        await self._write(batch)
        del self._buffer[: len(batch)]
        return len(batch)

    def _next_batch(self) -> list[Finish]:
        """As many ends as fit one statement; one that is larger stands alone."""
        batch, size = self._buffer[:BATCH], 0
        for place, end in enumerate(batch):
            size += len(end.result)
            if place and size > STATEMENT_BYTES:
                return batch[:place]
        return batch

    async def _write(self, batch: Sequence[Finish]) -> None:
        waits = pauses(self._resilience, self._environment.random)
        workflow_ids = {end.workflow_id for end in batch if end.workflow_id is not None}
        following = self._host.following() if workflow_ids else None
        while True:
            try:
                if following is None:
                    written = await self._consumer.finish(batch)
                else:
                    written = await self._consumer.finish(batch, decide=following.decide)
            except BrokerError as error:
                if error.retryable and not error.locked:
                    self._log.warning("cannot write %d results, trying again: %s", len(batch), error.message)
                    following = None  # nor if that takes longer than a statement may
                    await self._pause(next(waits))
                elif following is not None:
                    following = None  # it may be what follows that is refused, and no end waits for that
                else:
                    await self._divide(batch, error)
                    return
                continue
            if following is not None:
                following.committed(workflow_ids)
            elif workflow_ids:
                self._host.nodes_ended(workflow_ids)
            self._count_written(batch)
            self._written()
            for end, was_written in zip(batch, written, strict=True):
                if not was_written and end.lease not in self._may_not_have_started:
                    self._counts["lost"] += 1
                    self._log.warning(
                        "the result of task %s was not written: another worker owns it by now, or a try whose answer "
                        "was lost wrote it",
                        end.lease.task_id,
                        extra={"task_id": end.lease.task_id},
                    )
            return

    def _count_written(self, batch: Sequence[Finish]) -> None:
        was_full = not self.has_room
        self._unwritten -= len(batch)
        self._unwritten_bytes -= sum(len(end.result) for end in batch)
        if was_full and self.has_room:
            self.freed()

    async def _try_aside(self) -> None:
        """Write what was set aside, until one is found that is still locked: each costs the time of a wait."""
        self._aside_until = math.inf
        for _ in range(len(self._aside)):
            await self._write([self._aside[0]])
            self._aside.popleft()  # the database has answered; one that is still locked stands at the end again
            if self._aside_until < math.inf:
                return
        self._waits = pauses(self._resilience, self._environment.random)

    async def _pause(self, seconds: float) -> None:
        if self._hurried.is_set():
            await anyio.sleep(min(seconds, self._resilience.retry_initial))
            return
        with anyio.move_on_after(seconds):
            await self._hurried.wait()

    async def _divide(self, batch: Sequence[Finish], error: BrokerError) -> None:
        """Halve a batch that the database refuses until the guilty end stands alone; only that one fails or waits."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
            return
        (end,) = batch
        if error.locked:
            self._aside.append(end)
            pause = self._resilience.retry_initial if self._hurried.is_set() else next(self._waits)
            self._aside_until = anyio.current_time() + pause
            self._log.warning(
                "the result of task %s waits for a transaction that has locked its row; trying again in %.1f s",
                end.lease.task_id,
                pause,
                extra={"task_id": end.lease.task_id},
            )
            return
        if end.error_code == TaskErrorCode.BROKER_ERROR:
            raise error
        self._log.error(
            "the database refuses the result of task %s: %s",
            end.lease.task_id,
            error.message,
            extra={"task_id": end.lease.task_id},
        )
        failure = TaskError(TaskErrorCode.BROKER_ERROR, f"the result could not be stored: {error.message}")
        data = encode_result(Err(failure), None, "", None)
        self._unwritten_bytes += len(data) - len(end.result)
        code = TaskErrorCode.BROKER_ERROR
        await self._write([Finish(end.lease, TaskStatus.FAILED, data, code, workflow_id=end.workflow_id)])
