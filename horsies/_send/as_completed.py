"""Handles in the order in which their tasks end."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio
import anyio.streams.memory

from .nursery import open_nursery
from .task_handle import TaskHandle

T = TypeVar("T")


@asynccontextmanager
async def completed(handles: Iterable[TaskHandle[T]]) -> AsyncGenerator[AsyncIterator[TaskHandle[T]]]:
    """An iterator over `handles` that gives each once its `get` has an answer."""
    # It never holds more than there are handles, so nobody ever waits to put one in.
    send, receive = anyio.create_memory_object_stream[TaskHandle[T]](math.inf)
    async with open_nursery() as nursery:
        with receive:
            with send:
                for handle in handles:
                    nursery.start_soon(_wait, handle, send.clone())
            yield receive
        nursery.cancel_scope.cancel()


async def _wait(handle: TaskHandle[Any], send: anyio.streams.memory.MemoryObjectSendStream[TaskHandle[Any]]) -> None:
    with send, suppress(anyio.BrokenResourceError):
        await handle.get()
        send.send_nowait(handle)
