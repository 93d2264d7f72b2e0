"""A task group that does not dress up the exceptions of its body."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


@asynccontextmanager
async def open_nursery() -> AsyncGenerator[anyio.abc.TaskGroup]:
    """A task group; the body's own exception leaves it unwrapped when no task of the group failed."""
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            try:
                yield group
            except BaseException as error:
                failure = error
                raise
    except BaseExceptionGroup as raised:
        if failure is not None and raised.exceptions == (failure,):
            raise failure from failure.__cause__
        raise
