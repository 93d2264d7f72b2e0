"""`send_many`: any number of calls, sealed and written piece by piece.

A piece fills one statement. While one is written the next is sealed, and then nothing more is taken from the caller
until it is its turn: few payloads live at once, whatever yields the calls and however slow the database is. In a
transaction of the caller's nothing overlaps, because whatever yields the calls may use the same connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import anyio.streams.memory

from .._core.codes import TaskSendErrorCode
from .._core.limits import SEND_ROWS, STATEMENT_BYTES
from .._core.result import Err, Ok
from .._payload.send_error import TaskSendError
from .._payload.send_payload import TaskSendPayload
from .nursery import open_nursery
from .task_handle import TaskHandle

X = TypeVar("X", bound=TaskHandle[Any])
Sealed: TypeAlias = Ok[TaskSendPayload] | Err[TaskSendError]
Sent: TypeAlias = Ok[X] | Err[TaskSendError]
Enqueue: TypeAlias = Callable[[list[TaskSendPayload]], Awaitable[list[Sent[X]]]]

SEAL_BATCH = 50
"""Calls that are sealed before others get a turn on the event loop."""
_ENQUEUE_FAILED = TaskSendErrorCode.ENQUEUE_FAILED


class Bulk(Generic[X]):
    """One `send_many` under way; `open_bulk` makes it.

    Args:
        seal: makes the payload of one call.
        hand_over: takes a piece, and returns when the next one may be sealed.
        answers: one for each call, in order, as far as they are written.
    """

    def __init__(
        self,
        seal: Callable[[object], Sealed],
        hand_over: Callable[[list[Sealed]], Awaitable[None]],
        answers: list[Sent[X]],
    ) -> None:
        self._seal = seal
        self._hand_over = hand_over
        self._piece: list[Sealed] = []
        self._size = 0
        self.answers = answers

    async def add(self, calls: Iterable[object]) -> None:
        """Take each of `calls` when there is room for it."""
        for number, call in enumerate(calls, 1):
            sealed = self._seal(call)
            size = len(sealed.value.envelope) if isinstance(sealed, Ok) else 0
            if len(self._piece) == SEND_ROWS or (self._piece and self._size + size > STATEMENT_BYTES):
                await self.flush()
            self._piece.append(sealed)
            self._size += size
            if number % SEAL_BATCH == 0:
                await anyio.lowlevel.checkpoint()

    async def flush(self) -> None:
        """Hand over what was taken."""
        piece, self._piece, self._size = self._piece, [], 0
        await self._hand_over(piece)


@asynccontextmanager
async def open_bulk(seal: Callable[[object], Sealed], enqueue: Enqueue[X], *, joined: bool) -> AsyncGenerator[Bulk[X]]:
    """A `Bulk`, all of which is written when the scope ends in order.

    Args:
        seal: makes the payload of one call.
        enqueue: writes the payloads of one piece.
        joined: they become part of a transaction of the caller's.
    """
    if joined:
        in_transaction = _Transaction(enqueue)
        bulk = Bulk(seal, in_transaction.write, in_transaction.answers)
        yield bulk
        await bulk.flush()
        return
    answers: list[Sent[X]] = []
    async with open_nursery() as nursery:
        # Without a buffer: a piece waits with its maker until the one before it is written.
        send, receive = anyio.create_memory_object_stream[list[Sealed]](0)
        nursery.start_soon(_write_each, receive, enqueue, answers)
        with send:
            bulk = Bulk(seal, send.send, answers)
            yield bulk
            await bulk.flush()


async def _write_each(
    pieces: anyio.streams.memory.MemoryObjectReceiveStream[list[Sealed]], enqueue: Enqueue[X], answers: list[Sent[X]]
) -> None:
    with pieces:
        async for piece in pieces:
            answers += await _written(piece, enqueue)


async def _written(piece: list[Sealed], enqueue: Enqueue[X]) -> list[Sent[X]]:
    sent = iter(await enqueue([one.value for one in piece if isinstance(one, Ok)]))
    return [one if isinstance(one, Err) else next(sent) for one in piece]


class _Transaction(Generic[X]):
    """Pieces in a transaction of the caller's. One that fails aborts it, and takes back what was inserted before."""

    def __init__(self, enqueue: Enqueue[X]) -> None:
        self._enqueue = enqueue
        self._is_aborted = False
        self.answers: list[Sent[X]] = []

    async def write(self, piece: list[Sealed]) -> None:
        sent = await _written(piece, self._enqueue)
        failures = [one.error for one in sent if isinstance(one, Err) and one.error.code is _ENQUEUE_FAILED]
        if failures and not self._is_aborted:
            self._is_aborted = True
            self.answers[:] = [_taken_back(one, failures[0]) for one in self.answers]
        self.answers += sent


def _taken_back(answer: Sent[X], failure: TaskSendError) -> Sent[X]:
    if isinstance(answer, Err):
        return answer
    return Err(TaskSendError(failure.code, failure.message, retryable=failure.retryable, task_id=answer.value.task_id))
