"""Group commit for sends: whatever has queued while one batch was written goes into the next.

Two lanes, each with a connection of its own. Plain sends insert rows that nobody else can know of, so they never wait.
Sends with a unique key, and replays, can meet a row in somebody's open transaction and would have to wait for its end:
they go by the careful lane, where such a wait is cut short, the batch is halved until the guilty row stands alone, and
that row comes back later, a few times, while the others go on.

Where many send at once, the plain lane has a second writer, and each takes half: the database writes one half while the
senders of the other hear of their answers and send again. A few do better in one batch, with one commit.

State of a row: queued (a cancelled sender withdraws it, and nothing stays of it but its place), then in the batch being
written (a cancelled sender leaves a committed row behind), then answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.errors import BrokerError
from .._core.isolate import isolate
from .._core.limits import SEND_ROWS, STATEMENT_BYTES
from ..abc import Broker, Enqueued, NewTask, Producer
from .contact import Contact
from .suppression import SuppressedError, are_suppressed

CROWD = 16
"""Rows in the queue from which two write them."""
LOCK_WAIT = 0.1
"""Seconds that a batch of the careful lane waits for somebody's open transaction."""
LOCKED_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds before each further try of a row that stands behind somebody's open transaction."""
ABOUT_ROWS = frozenset({"55P03", "40001", "40P01"})
"""Retryable failures that single rows cause; all others are the connection's or the server's."""


class _Order:
    """What one sender submits together."""

    __slots__ = ("answered", "answers", "tasks", "unanswered")

    def __init__(self, tasks: Sequence[NewTask]) -> None:
        self.tasks = tasks
        self.answers: list[Enqueued | BrokerError | None] = [None] * len(tasks)
        self.unanswered = len(tasks)
        self.answered = anyio.Event()

    @property
    def is_withdrawn(self) -> bool:
        return not self.tasks

    def withdraw(self) -> None:
        """Nobody waits for the answers any more."""
        self.tasks = ()

    def answer(self, index: int, answer: Enqueued | BrokerError) -> None:
        if self.answers[index] is None:
            self.answers[index] = answer
            self.unanswered -= 1
            if not self.unanswered:
                self.answered.set()


@dataclass(slots=True, eq=False)
class _Row:
    order: _Order
    index: int
    tries: int = 0

    @property
    def task(self) -> NewTask:
        return self.order.tasks[self.index]

    def answer(self, answer: Enqueued | BrokerError) -> None:
        self.order.answer(self.index, answer)


class Batcher:
    """The one writer of a runtime's sends."""

    def __init__(self, broker: Broker, contact: Contact) -> None:
        self._broker = broker
        self._plain = Lane(contact, has_help=True)
        self._careful = Lane(contact, has_help=False)
        self._orders: set[_Order] = set()
        self._closed = False

    async def submit(self, tasks: Sequence[NewTask], *, replay: bool) -> list[Enqueued | BrokerError]:
        """Queue `tasks` and wait for the answers, in order. They are `BrokerError`s when the runtime closes first."""
        order = _Order(tasks)
        if self._closed:
            await anyio.lowlevel.checkpoint()
            return [_closed() for _ in tasks]
        for index, task in enumerate(tasks):
            lane = self._careful if replay or task.unique_key is not None else self._plain
            lane.put(_Row(order, index))
        if tasks:
            self._orders.add(order)
            try:
                await order.answered.wait()
            finally:
                order.withdraw()
                self._orders.discard(order)
        if self._closed:
            # Who is cancelled along with the runtime hears of that alone.
            await anyio.lowlevel.checkpoint_if_cancelled()
        return [answer for answer in order.answers if answer is not None]

    async def run(self) -> None:
        try:
            async with AsyncExitStack() as stack, anyio.create_task_group() as group:
                careful = await stack.enter_async_context(self._broker.producer(lock_wait=LOCK_WAIT))
                group.start_soon(self._careful.run, careful)
                plain = await stack.enter_async_context(self._broker.producer())
                helper = await stack.enter_async_context(self._broker.producer())
                group.start_soon(partial(self._plain.run, helper, helps=True))
                await self._plain.run(plain)
        finally:
            self._closed = True
            for order in self._orders:
                for index in range(len(order.answers)):
                    order.answer(index, _closed())


class Lane:
    """A queue of rows, and the loop that writes it batch by batch; with `has_help` a second one runs beside it."""

    def __init__(self, contact: Contact, *, has_help: bool) -> None:
        self._contact = contact
        self._queue: deque[_Row] = deque()
        self._filled = anyio.Event()
        self._crowded = anyio.Event()
        self._writing = 0
        self._has_help = has_help

    def put(self, row: _Row) -> None:
        self._queue.append(row)
        self._filled.set()

    async def run(self, producer: Producer, *, helps: bool = False) -> None:
        """Write what is queued. One that `helps` begins where the other has left half of a crowd."""
        async with anyio.create_task_group() as returning:
            while True:
                if helps:
                    await self._crowded.wait()
                    self._crowded = anyio.Event()
                else:
                    await self._filled.wait()
                    self._filled = anyio.Event()
                while self._queue:
                    await self.run_once(producer, returning)

    async def run_once(self, producer: Producer, returning: anyio.abc.TaskGroup) -> int:
        """Write one batch of what is queued; how many rows left the queue. `returning` is where locked rows wait."""
        is_crowd = self._has_help and not self._writing and len(self._queue) >= CROWD
        batch = self._take(len(self._queue) // 2 if is_crowd else SEND_ROWS)
        if is_crowd and self._queue:
            self._crowded.set()
        if are_suppressed():
            for row in batch:
                row.answer(SuppressedError())
        elif batch:
            self._writing += 1
            try:
                await self._write(producer, batch, returning)
            finally:
                self._writing -= 1
        return len(batch)

    def _take(self, enough: int) -> list[_Row]:
        """Queued rows that fit one statement, `enough` and the rest of the last order. One too large stands alone."""
        batch: list[_Row] = []
        size = 0
        while self._queue and len(batch) < SEND_ROWS:
            row = self._queue[0]
            if len(batch) >= enough and row.order is not batch[-1].order:
                break
            if not row.order.is_withdrawn:
                size += len(row.task.envelope)
                if batch and size > STATEMENT_BYTES:
                    break
                batch.append(row)
            self._queue.popleft()
        return batch

    async def _write(self, producer: Producer, rows: Sequence[_Row], returning: anyio.abc.TaskGroup) -> None:
        async def write(rows: Sequence[_Row]) -> Sequence[None]:
            wanted = [row for row in rows if not row.order.is_withdrawn]
            answers: Iterable[Enqueued | BrokerError] = []
            try:
                if wanted:
                    answers = await producer.enqueue([row.task for row in wanted])
                    self._contact.answered()
            except BrokerError as error:
                if _concerns_rows(error):
                    raise
                answers = [error] * len(wanted)
            for row, answer in zip(wanted, answers, strict=True):
                row.answer(answer)
            return ()

        async def alone(row: _Row, error: BrokerError) -> None:
            if error.locked and row.tries < len(LOCKED_PAUSES):
                returning.start_soon(self._return, row)
            else:
                row.answer(error)

        await isolate(rows, write, alone, _concerns_rows)

    async def _return(self, row: _Row) -> None:
        await anyio.sleep(LOCKED_PAUSES[row.tries])
        row.tries += 1
        self.put(row)


def _concerns_rows(error: BrokerError) -> bool:
    return not error.retryable or error.code in ABOUT_ROWS


def _closed() -> BrokerError:
    return BrokerError("the runtime is closed", retryable=True)
