"""Group commit for sends: whatever has queued while one batch was written goes into the next.

State of a send: queued (in `_queue`; a cancelled sender withdraws it), then in the batch being written (a cancelled
sender leaves a committed row behind), then answered.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from .._core.errors import BrokerError
from ..abc import EnqueueOutcome, NewTask, Producer

logger = logging.getLogger("horsies.send")

BATCH_ROWS = 1_000
BATCH_BYTES = 4 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Ticket:
    task: NewTask
    replay: bool
    answered: anyio.Event = field(default_factory=anyio.Event)
    answer: EnqueueOutcome | BrokerError | None = None

    def settle(self, answer: EnqueueOutcome | BrokerError) -> None:
        self.answer = answer
        self.answered.set()


class Flusher:
    """The one writer of a runtime's sends."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._queue: deque[_Ticket] = deque()
        self._filled = anyio.Event()
        self._closed = False

    async def submit(self, task: NewTask, *, replay: bool) -> EnqueueOutcome:
        """Queue `task` and wait for the answer.

        Raises:
            BrokerError: the database's, or a retryable one when the runtime closes first.
        """
        if self._closed:
            raise BrokerError("the runtime is closed", retryable=True)
        ticket = _Ticket(task, replay)
        self._queue.append(ticket)
        self._filled.set()
        try:
            await ticket.answered.wait()
        finally:
            if ticket.answer is None and ticket in self._queue:
                self._queue.remove(ticket)
        if isinstance(ticket.answer, BrokerError):
            raise ticket.answer
        assert ticket.answer is not None
        return ticket.answer

    async def run(self) -> None:
        try:
            while True:
                await self._filled.wait()
                self._filled = anyio.Event()
                while self._queue:
                    await self.run_once()
        finally:
            self._closed = True
            while self._queue:
                self._queue.popleft().settle(BrokerError("the runtime is closed", retryable=True))

    async def run_once(self) -> int:
        """Write one batch of what is queued; how many sends were answered."""
        batch = self._take()
        try:
            await self._write(batch)
        finally:
            for ticket in batch:
                if ticket.answer is None:
                    ticket.settle(BrokerError("the runtime closed while the task was being written", retryable=True))
        return len(batch)

    def _take(self) -> list[_Ticket]:
        """As many queued sends as fit one statement; a replay, which can wait for another's row, stands alone."""
        batch = [self._queue.popleft()]
        size = len(batch[0].task.envelope)
        while self._queue and not batch[0].replay and not self._queue[0].replay and len(batch) < BATCH_ROWS:
            size += len(self._queue[0].task.envelope)
            if size > BATCH_BYTES:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _write(self, batch: Sequence[_Ticket]) -> None:
        """Write `batch`; one that the database refuses is halved until the guilty row stands alone."""
        try:
            outcomes = await self._producer.enqueue([ticket.task for ticket in batch])
        except BrokerError as error:
            if error.retryable or len(batch) == 1:
                for ticket in batch:
                    ticket.settle(error)
                return
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
            return
        for ticket, outcome in zip(batch, outcomes, strict=True):
            ticket.settle(outcome)
