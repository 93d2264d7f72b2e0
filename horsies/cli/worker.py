"""A worker process: a runtime, one worker in it, and what stops it: signals, and the end of its supervisor."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import NoReturn

import anyio
import anyio.abc

from horsies import Horsies, Runtime, Worker, WorkerConfig

from .health import Health, health_of, serving
from .locate import load_app
from .logs import Log, configure
from .signals import stopping_signals
from .supervisor import IN_ORDER

logger = logging.getLogger("horsies.worker")

CLOSE_WITHIN = 5.0
"""Seconds for a runtime to close whose worker has abandoned tasks, and then for the event loop."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker process has to do with beside its application.

    Args:
        health_host, health_port: where probes are answered; no port: nowhere.
        lifeline: a descriptor whose end says that the supervisor is gone; None: there is none.
    """

    health_host: str
    health_port: int | None = None
    lifeline: int | None = None


def run_worker(locator: str, config: WorkerConfig, surroundings: Surroundings, backend: str, log: Log) -> None:
    """Be a worker process until the worker has stopped.

    Raises:
        SystemExit: 1: running tasks were left behind. With what cannot be ended the process ends at once, by 1 too.
            IN_ORDER: none were, and a supervisor is there to be told so.
    """
    configure(*log)
    closing = threading.Timer(CLOSE_WITHIN, _end_unclosed)
    closing.daemon = True

    async def run(app: Horsies) -> Worker | None:
        try:
            return await serve(app, config, surroundings)
        finally:
            closing.start()

    try:
        stopped = anyio.run(run, load_app(locator), backend=backend)
    finally:
        closing.cancel()
    if stopped is not None and stopped.statistics().abandoned > 0:
        _end_now()  # a thread that does not return would keep the interpreter alive for ever
    if stopped is not None and stopped.left_behind:
        raise SystemExit(1)
    if surroundings.lifeline is not None:
        raise SystemExit(IN_ORDER)


def _end_unclosed() -> NoReturn:
    """In a thread: end the process, whose event loop waits for what user code started there without its worker."""
    logger.error("the event loop did not close within %g s; something that a task started there goes on", CLOSE_WITHIN)
    _end_now()


def _end_now() -> NoReturn:
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


async def serve(app: Horsies, config: WorkerConfig, surroundings: Surroundings) -> Worker | None:
    """Run a worker until it is told to stop or stops by itself; the stopped one, if it came to that."""
    return await _Process().run(app, config, surroundings)


class _Process:
    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._opening = anyio.CancelScope()
        self._told = False
        self._stopped = False

    async def run(self, app: Horsies, config: WorkerConfig, surroundings: Surroundings) -> Worker | None:
        async with AsyncExitStack() as stack:
            if surroundings.health_port is not None:
                address = surroundings.health_host, surroundings.health_port
                await stack.enter_async_context(serving(*address, self._health))
            group = await stack.enter_async_context(anyio.create_task_group())
            await group.start(self._heed_signals)
            if surroundings.lifeline is not None:
                group.start_soon(self._heed_supervisor, surroundings.lifeline)
            with self._opening:
                async with Runtime(app) as rt:
                    self._worker = rt.start_worker(config)
                    group.start_soon(self._heed_end, self._worker)
                    await self._worker.wait_stopped()
                    self._stopped = True
            group.cancel_scope.cancel()
        return self._worker

    def _health(self) -> Health:
        return health_of(self._worker, stopped=self._stopped)

    def _stop(self) -> None:
        """The first time drains the worker, the second cancels its running tasks; before there is one, just leave."""
        if self._worker is None:
            self._opening.cancel()
            return
        if self._told:
            self._worker.cut_short()
        else:
            self._worker.drain_nowait()
        doing = "cancels what still runs" if self._told else "drains"
        self._told = True
        worker_id = self._worker.worker_id
        logger.info("worker %s %s", worker_id, doing, extra={"worker_id": worker_id})

    async def _heed_end(self, worker: Worker) -> None:
        """End the process if the runtime does not close after its worker has stopped: an async task keeps it open."""
        await worker.wait_stopped()
        if worker.statistics().abandoned > 0:
            await anyio.sleep(CLOSE_WITHIN)
            _end_now()

    async def _heed_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with stopping_signals() as signals:
            task_status.started()
            async for _ in signals:
                self._stop()

    async def _heed_supervisor(self, lifeline: int) -> None:
        # Nothing is ever written there, so it becomes readable at its end.
        await anyio.wait_readable(lifeline)
        if not self._told:
            self._stop()
