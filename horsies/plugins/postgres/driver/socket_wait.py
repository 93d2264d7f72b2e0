"""Waiting for a socket, on whichever event loop runs."""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
from psycopg.waiting import Ready, Wait


def poll(fd: int, wanted: int) -> int:
    """What `fd` is ready for at this instant; an error counts as everything that was asked for."""
    poller = select.poll()
    poller.register(fd, (select.POLLIN if wanted & Wait.R else 0) | (select.POLLOUT if wanted & Wait.W else 0))
    ready = 0
    for _, events in poller.poll(0):
        if events & select.POLLIN:
            ready |= Ready.R
        if events & select.POLLOUT:
            ready |= Ready.W
        if events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            ready |= wanted
    return ready


async def _either(fd: int) -> int:
    """Wait until `fd` is readable or writable."""
    ready = 0

    async def watch(wait: Callable[[int], Awaitable[None]], flag: int) -> None:
        nonlocal ready
        # libpq, asked to go on, says better what is wrong with its socket.
        with suppress(OSError, anyio.ClosedResourceError):
            await wait(fd)
        ready |= flag
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(watch, anyio.wait_readable, Ready.R)
        group.start_soon(watch, anyio.wait_writable, Ready.W)
    return ready


async def wait_ready(fd: int, wanted: int, now: float, deadline: float) -> int:
    """Wait until `deadline` for `fd` to be ready for something `wanted`; 0 when it is not."""
    # Sockets are nearly always writable, and a look is far cheaper than a turn of the event loop.
    if (wanted & Wait.W or deadline <= now) and (ready := poll(fd, wanted)):
        return ready
    with anyio.CancelScope(deadline=deadline):
        if wanted == Wait.RW:
            return await _either(fd)
        if wanted == Wait.R:
            await anyio.wait_readable(fd)
        else:
            await anyio.wait_writable(fd)
        return wanted
    os.fstat(fd)  # raises when the socket was closed behind our back, which no event would ever tell
    return 0
