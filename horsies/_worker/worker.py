"""A worker: claims, starts, runs, finishes and expires tasks until it is cancelled, drained or idle.

Nesting, from the outside: the consumer and the application's lifespan; the services (finisher and heartbeat are
shielded, so that results are written and the claims stay ours while tasks end); the running tasks. On the way out the
running tasks end first, then what they produced is written, then what was claimed and never started is given back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.abc

from .._core.config import QueueConfig, WorkerConfig
from .._core.errors import BrokerError, HorsiesError
from .._task.host import Host
from ..abc import Broker, Consumer
from .finisher import Finisher
from .job import logger
from .pump import Pump
from .services import Services

if TYPE_CHECKING:
    from .._runtime.runtime import Runtime

CLEANUP = 3.0
"""Seconds for writing results and giving back once the running tasks have been told to stop."""


class WorkerHost(Host, Protocol):
    """An open runtime, as a worker sees it."""

    @property
    def broker(self) -> Broker: ...


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Counts since the worker started; `ready` and `running` are now."""

    worker_id: str
    ready: int = 0
    running: int = 0
    claimed: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    cancelled: int = 0
    expired: int = 0
    given_back: int = 0
    lost: int = 0
    abandoned: int = 0


class Worker:
    """One worker of a runtime; made by `Runtime.start_worker`."""

    def __init__(self, host: WorkerHost, config: WorkerConfig | None = None) -> None:
        self._host = host
        self._config = config or WorkerConfig()
        self._queues = _served(host, self._config)
        place = host.environment
        self.worker_id = f"{self._config.name or place.host}:{place.pid}:{place.new_id()[-8:]}"
        self._pump: Pump | None = None
        self._finisher: Finisher
        self._draining = False
        self._drain_scope = anyio.CancelScope()
        self._stopped = anyio.Event()
        self._shields: list[anyio.CancelScope] = []

    def statistics(self) -> WorkerStatistics:
        pump = self._pump
        if pump is None:
            return WorkerStatistics(self.worker_id)
        return WorkerStatistics(
            self.worker_id,
            ready=pump.ready,
            running=pump.running,
            lost=self._finisher.lost,
            abandoned=len(pump.abandoned),
            **pump.counts,
        )

    async def drain(self) -> None:
        """Stop claiming, let running tasks end within `drain_timeout`, write their results; returns when stopped."""
        self.drain_nowait()
        await self.wait_stopped()

    def drain_nowait(self) -> None:
        """Begin to drain."""
        self._draining = True
        if self._pump is not None:
            self._pump.stop_nowait()

    def cut_short(self) -> None:
        """Drain without patience: cancel the running tasks now."""
        self.drain_nowait()
        self._drain_scope.cancel()

    @property
    def is_draining(self) -> bool:
        return self._draining

    async def wait_stopped(self) -> None:
        """Wait until the worker has stopped, for whatever reason."""
        await self._stopped.wait()

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled, drained or idle; `task_status` reports when the worker is ready to claim."""
        host, app = self._host, self._host.app.config
        pump: Pump | None = None
        try:
            async with AsyncExitStack() as stack:
                consumer = await stack.enter_async_context(
                    host.broker.consumer(self.worker_id, [(q.name, q.priority) for q in self._queues])
                )
                finisher = self._finisher = Finisher(consumer, app.resilience, host.environment)
                pump = self._pump = Pump(
                    host,
                    consumer,
                    finisher,
                    self._config,
                    worker_id=self.worker_id,
                    queues=[queue.name for queue in self._queues],
                    state=await stack.enter_async_context(_lifespan(host)),
                    silence=app.recovery.dead_after,
                )
                stack.push_async_callback(pump.processes.aclose)
                if self._draining:
                    pump.stop_nowait()
                services = Services(
                    host.broker,
                    consumer,
                    pump,
                    host.environment,
                    worker_id=self.worker_id,
                    resilience=app.resilience,
                    recovery=app.recovery,
                )
                await services.sign_on()
                async with anyio.create_task_group() as group:
                    group.start_soon(self._shielded, finisher.run)
                    group.start_soon(self._shielded, services.keep_beating)
                    for service in (services.listen, services.keep_expiring, services.keep_reaping):
                        group.start_soon(service)
                    try:
                        logger.info("worker %s is ready", self.worker_id, extra={"worker_id": self.worker_id})
                        task_status.started()
                        await self._work(pump)
                    finally:
                        await self._clean_up(consumer, pump)
                        group.cancel_scope.cancel()
        finally:
            self._stopped.set()
            for name in pump.abandoned if pump is not None else ():
                logger.error("a thread that runs task %r did not return and was abandoned", name)

    async def _shielded(self, service: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope(shield=True) as scope:
            self._shields.append(scope)
            await service()

    async def _work(self, pump: Pump) -> None:
        async with anyio.create_task_group() as running:
            await pump.run(running)
            await pump.give_back_ready()
            with self._drain_scope:
                self._drain_scope.deadline = anyio.current_time() + self._config.drain_timeout
                await pump.wait_ended()
            running.cancel_scope.cancel()

    async def _clean_up(self, consumer: Consumer, pump: Pump) -> None:
        """Write what has ended and give back what has not begun, within `CLEANUP` seconds."""
        try:
            with anyio.move_on_after(CLEANUP, shield=True) as cleanup:
                pump.settle_unsure()
                await self._finisher.wait_written()
                pump.counts["given_back"] += await consumer.leave()
            if cleanup.cancelled_caught:
                logger.error("worker %s could not write everything in time", self.worker_id)
        except BrokerError as error:
            # What it leaves behind is found by those who reap.
            logger.error("worker %s could not sign off: %s", self.worker_id, error.message)
        finally:
            for scope in self._shields:
                scope.cancel()


def _served(host: Host, config: WorkerConfig) -> list[QueueConfig]:
    """The queues a worker serves.

    Raises:
        HorsiesError: HRS-215 for a queue the application lacks, HRS-201 for a cap, which nothing enforces yet.
    """
    app = host.app
    capped = [queue.name for queue in app.queues.values() if queue.max_concurrency is not None]
    if capped or app.config.cluster_wide_cap is not None:
        raise HorsiesError(
            "HRS-201",
            "this version of horsies does not enforce caps, so a worker does not run under them",
            ["remove cluster_wide_cap and max_concurrency", *(f"queue {name!r} has one" for name in capped)],
        )
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


def _lifespan(host: WorkerHost) -> AbstractAsyncContextManager[Any]:
    factory = host.app.lifespan_factory
    runtime: Runtime = host  # type: ignore[assignment]  # the one host there is
    return _NoLifespan() if factory is None else factory(runtime)
