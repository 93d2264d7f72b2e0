"""A worker: one incarnation after the other until it is cancelled, drained or idle. Mostly one is enough.

The application's lifespan is entered before the first claim of the first incarnation, and left after the last result.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc

from .._core.config import QueueConfig, WorkerConfig
from .._core.errors import HorsiesError
from .._send.gateway import Gateway
from .._send.nursery import open_nursery
from .execution.job import logger
from .gateway import WorkerGateway
from .incarnation import Incarnation


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Numbers of tasks since the worker started. `ready` and `running` are those of now."""

    worker_id: str
    """Id of the worker."""
    ready: int = 0
    """Tasks that the worker holds and whose user code has not started."""
    running: int = 0
    """Tasks whose user code runs."""
    claimed: int = 0
    """Tasks that the worker claimed."""
    started: int = 0
    """Attempts whose user code started."""
    completed: int = 0
    """Attempts that ended with a result."""
    failed: int = 0
    """Attempts that ended with an error and have no retry."""
    retried: int = 0
    """Attempts that ended with an error and have a retry."""
    cancelled: int = 0
    """Running tasks that were cancelled on request."""
    expired: int = 0
    """Tasks that the worker found after their `good_until`, before user code started."""
    given_back: int = 0
    """Tasks that the worker returned to their queue without having run them."""
    lost: int = 0
    """Results that were not written, because the task was no longer the worker's."""
    abandoned: int = 0
    """Tasks that did not end when they were cancelled."""


class Worker:
    """One worker of a runtime; made by `Runtime.start_worker`."""

    def __init__(self, gateway: WorkerGateway, config: WorkerConfig | None = None) -> None:
        self._gateway = gateway
        self._config = config or WorkerConfig()
        self._queues = _served(gateway, self._config)
        self._counts: Counter[str] = Counter()
        self._abandoned: list[str] = []
        self._incarnation = self._new_incarnation()
        self._draining = False
        self._stopped = anyio.Event()

    @property
    def worker_id(self) -> str:
        """Id of the worker. A worker that was declared dead goes on with another id."""
        return self._incarnation.worker_id

    def statistics(self) -> WorkerStatistics:
        """Count the tasks of this worker since it started."""
        dispatcher = self._incarnation.dispatcher
        return WorkerStatistics(
            self.worker_id,
            ready=0 if dispatcher is None else dispatcher.ready,
            running=0 if dispatcher is None else dispatcher.running,
            abandoned=len(self._abandoned),
            **self._counts,
        )

    @property
    def is_ready(self) -> bool:
        """True if the worker may claim: it is registered, its heartbeat is recent, and it does not drain."""
        return self._incarnation.is_ready

    @property
    def is_draining(self) -> bool:
        """True if the worker stops, on request or because it reached `max_tasks` or `max_memory`."""
        return self._draining or self._incarnation.is_retiring

    @property
    def held(self) -> dict[str, list[str]]:
        """Names of the tasks that go on after their timeout and hold every slot of a place, by place.

        A place is "nursery" (async tasks) or "thread" (sync tasks). Nothing else runs there until one of them ends.
        """
        return {place.value: list(names) for place, names in self._incarnation.held.items()}

    @property
    def left_behind(self) -> bool:
        """True if the worker stopped with tasks that it neither ended nor returned. Other workers recover these."""
        return self._incarnation.left_behind

    async def drain(self) -> None:
        """Stop claiming, let running tasks end within `drain_timeout`, write their results; returns when stopped."""
        self.drain_nowait()
        await self.wait_stopped()

    def drain_nowait(self) -> None:
        """Begin to drain."""
        self._draining = True
        self._incarnation.stop_nowait()

    def cut_short(self) -> None:
        """Drain without patience: cancel the running tasks now."""
        self._draining = True
        self._incarnation.cut_short()

    async def wait_stopped(self) -> None:
        """Wait until the worker has stopped, for whatever reason."""
        await self._stopped.wait()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, drained or idle; `task_status` reports when the worker is ready to claim."""
        is_ready = False

        def ready() -> None:
            nonlocal is_ready
            if not is_ready:
                is_ready = True
                task_status.started()

        async with open_nursery() as bodies:
            try:
                async with _lifespan(self._gateway) as state:
                    await self._incarnation.live(state, ready, bodies)
                    while self._incarnation.found_dead and not self.is_draining:
                        self._incarnation = self._new_incarnation()
                        await self._incarnation.live(state, ready, bodies)
                    ready()
            finally:
                self._stopped.set()
                for what in self._abandoned:
                    logger.error("worker %s: %s", self.worker_id, what)

    def _new_incarnation(self) -> Incarnation:
        return Incarnation(self._gateway, self._config, self._queues, counts=self._counts, abandoned=self._abandoned)


def _served(gateway: Gateway, config: WorkerConfig) -> list[QueueConfig]:
    """The queues a worker serves.

    Raises:
        HorsiesError: HRS-215 for a queue the application lacks.
    """
    app = gateway.app
    unknown = [name for name in config.queues or () if name not in app.queues]
    if unknown:
        raise HorsiesError(
            "HRS-215",
            f"the worker is to serve {', '.join(map(repr, unknown))}, which the application does not have",
            [f"its queues: {', '.join(app.queues)}"],
        )
    return [app.queues[name] for name in config.queues or app.queues]


class _NoLifespan(AbstractAsyncContextManager[None]):
    async def __aexit__(self, *_: object) -> None:
        return None


def _lifespan(gateway: WorkerGateway) -> AbstractAsyncContextManager[Any]:
    factory = gateway.app.lifespan_factory
    return _NoLifespan() if factory is None else factory(gateway.runtime)
