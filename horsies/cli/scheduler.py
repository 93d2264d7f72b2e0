"""A scheduler process: a runtime that sends for its application's schedules, and the signals that end it."""

from __future__ import annotations

import logging

import anyio
import anyio.abc

from horsies import Horsies, HorsiesError, Runtime

from .locate import load_app
from .logs import Log, configure
from .signals import stopping_signals

logger = logging.getLogger("horsies.schedule")


def run_scheduler(locator: str, backend: str, log: Log) -> None:
    """Be a scheduler process until it is told to stop."""
    configure(*log)
    anyio.run(keep_schedules, load_app(locator), backend=backend)


async def keep_schedules(app: Horsies) -> None:
    """Send for the schedules until SIGTERM, SIGINT or SIGHUP.

    There is nothing to drain: a firing is written whole or not.

    Raises:
        HorsiesError: HRS-205: the application has no schedules.
    """
    if not app.schedules:
        raise HorsiesError("HRS-205", "the application has no schedules", ["declare them with app.schedule(...)"])
    async with anyio.create_task_group() as group:
        await group.start(_leave_when_told, group.cancel_scope)
        async with Runtime(app) as rt:
            logger.info("the scheduler is ready, for %d schedules", len(app.schedules))
            await rt.run_scheduler()


async def _leave_when_told(scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with stopping_signals() as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
