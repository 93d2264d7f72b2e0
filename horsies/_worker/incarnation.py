"""One incarnation of a worker: from joining under a new identity until it leaves, or is found dead.

Dead is a worker whose registration somebody removed because its heartbeat was old; one that thaws after having been
frozen for `dead_after` counts itself dead without asking. Its running tasks are cancelled, and whatever it still writes
is fenced by claim numbers. A new incarnation follows under another identity, so the two never mix.

Nesting, from the outside: the consumer; the services (completer and heartbeat are shielded, so that results are written
and the claims stay ours while tasks end); the dispatcher. The running tasks have a parent beside the incarnation,
because an async one that swallows its cancellation outlasts it. On the way out the running tasks end first, then what
they produced is written, then what was claimed and never started is given back. Each step is bounded, also when the
database hangs: what is left behind then is found by those who reap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.abc

from .._core.config import QueueConfig, WorkerConfig
from .._core.errors import BrokerError
from .._declare.context import ContextLogger
from .._declare.placement import Place
from ..abc import Consumer
from .completer import Completer
from .execution.executor import Executor
from .execution.job import GRACE, logger
from .gateway import WorkerGateway
from .heartbeat import Heartbeat
from .intake.dispatcher import Dispatcher
from .leader import Leader
from .memory_limit import watch

CLEANUP = 3.0
"""Seconds for writing results and giving back once the running tasks have been told to stop."""
LAST = 0.5
"""Seconds that a thread or process, which had `GRACE` to end, gets to be heard of."""


class Incarnation:
    """One identity and what it does.

    Args:
        counts: of all incarnations of the worker.
        abandoned: what is to be said of each task that could not be ended, in any of them.
    """

    def __init__(
        self,
        gateway: WorkerGateway,
        config: WorkerConfig,
        queues: Sequence[QueueConfig],
        *,
        counts: Counter[str],
        abandoned: list[str],
    ) -> None:
        place = gateway.environment
        self.worker_id = f"{config.name or place.host}:{place.pid}:{place.new_id()[-8:]}"
        self._log = ContextLogger(logger, {"worker_id": self.worker_id})
        self._gateway = gateway
        self._config = config
        self._queues = queues
        self._counts = counts
        self._abandoned = abandoned
        self.dispatcher: Dispatcher | None = None
        self.leader: Leader | None = None
        self.heartbeat: Heartbeat | None = None
        self.held: Mapping[Place, list[str]] = {}
        self.found_dead = False
        self.left_behind = False
        self._is_stopping = False
        self._joining = anyio.CancelScope()
        self._working = anyio.CancelScope()
        self._all_ended = anyio.Event()
        self._shields: list[anyio.CancelScope] = []

    @property
    def _is_capped(self) -> bool:
        caps = [queue.max_concurrency for queue in self._queues]
        return any(cap is not None for cap in [*caps, self._gateway.app.config.cluster_wide_cap])

    @property
    def is_ready(self) -> bool:
        """Whether it may claim: registered, heard of lately, and not on its way out."""
        return (
            self.dispatcher is not None
            and self.dispatcher.is_alive()
            and not self._is_stopping
            and not self.is_retiring
        )

    @property
    def is_retiring(self) -> bool:
        """Whether it stops of its own accord, at a limit of its configuration."""
        return self.dispatcher is not None and self.dispatcher.is_retiring

    def stop_nowait(self) -> None:
        """Claim nothing more, and let what runs end within `drain_timeout`."""
        if not self._is_stopping:
            self._is_stopping = True
            self._joining.cancel()
            self._working.deadline = anyio.current_time() + self._config.drain_timeout
            if self.dispatcher is not None:
                self.dispatcher.stop_nowait()

    def cut_short(self) -> None:
        """Cancel what runs now."""
        self.stop_nowait()
        self._working.cancel()

    def die(self, why: str) -> None:
        """Others have taken what it held, or may: nothing of it is worth going on with."""
        if not self.found_dead:
            self._log.warning("worker %s: %s; its running tasks are cancelled", self.worker_id, why)
            self.found_dead = True
            self.cut_short()

    async def live(self, state: Any, ready: Callable[[], None], bodies: anyio.abc.TaskGroup) -> None:
        """Live until stopped, idle or found dead.

        Args:
            state: what the application's lifespan gave.
            ready: called once it may claim.
            bodies: where the running tasks are. It may last longer than this call.
        """
        gateway, app = self._gateway, self._gateway.app.config
        dispatcher: Dispatcher

        def written() -> None:
            if self._is_capped:
                # What has ended makes room under a cap, and where notices do not reach nobody else says so.
                dispatcher.notice([""])

        async with AsyncExitStack() as stack:
            consumer = await stack.enter_async_context(
                gateway.broker.consumer(self.worker_id, [(q.name, q.priority) for q in self._queues])
            )
            maintenance = await stack.enter_async_context(gateway.broker.maintenance(self.worker_id))
            completer = Completer(
                gateway, consumer, self._counts, self._log, written, until_idle=self._config.until_idle
            )
            executor = Executor(
                gateway,
                completer,
                self._config,
                worker_id=self.worker_id,
                log=self._log,
                state=state,
                counts=self._counts,
                abandoned=self._abandoned,
            )
            stack.push_async_callback(executor.aclose)
            self.held = executor.held
            self.dispatcher = dispatcher = Dispatcher(
                gateway,
                consumer,
                completer,
                executor,
                self._config,
                worker_id=self.worker_id,
                log=self._log,
                queues=[queue.name for queue in self._queues],
                silence=app.recovery.dead_after,
                counts=self._counts,
            )
            self.leader = leader = Leader(
                maintenance,
                gateway.recover_workflows,
                app,
                worker_id=self.worker_id,
                counts=self._counts,
                log=self._log,
            )
            self.heartbeat = heartbeat = Heartbeat(
                gateway.broker,
                consumer,
                dispatcher,
                leader,
                gateway.contact,
                app,
                self._log,
                self.die,
                until_idle=self._config.until_idle,
            )
            with self._joining:
                running = await self._sign_on(heartbeat, consumer, bodies)
            if self._joining.cancelled_caught:
                return
            async with anyio.create_task_group() as group:
                group.start_soon(self._shielded, completer.run)
                group.start_soon(self._shielded, executor.serve_threads)
                group.start_soon(self._shielded, heartbeat.keep_beating)
                group.start_soon(self._shielded, heartbeat.keep_looking)
                group.start_soon(self._shielded, heartbeat.notice_freezes)
                group.start_soon(heartbeat.listen)
                group.start_soon(heartbeat.keep_leading)
                group.start_soon(leader.run)
                if gateway.app.schedules:
                    group.start_soon(gateway.keep_schedules, lambda: leader.leads)
                if self._config.max_memory is not None:
                    group.start_soon(watch, self._config.max_memory, dispatcher.retire_nowait)
                try:
                    self._log.info("worker %s is ready", self.worker_id)
                    ready()
                    await self._work(dispatcher, executor, running)
                finally:
                    await self._clean_up(consumer, dispatcher, completer)
                    group.cancel_scope.cancel()

    async def _sign_on(
        self, heartbeat: Heartbeat, consumer: Consumer, bodies: anyio.abc.TaskGroup
    ) -> anyio.abc.TaskGroup:
        """Register; the parent of the running tasks.

        A registration that is cut short may have been written, and is taken back. If that fails too, the worker is
        found dead in time.
        """
        try:
            await heartbeat.sign_on()
            running: anyio.abc.TaskGroup = await bodies.start(self._hold_running)
            return running
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(CLEANUP, shield=True), suppress(BrokerError):
                await consumer.leave()
            raise

    async def _shielded(self, service: Callable[[], Awaitable[None]]) -> None:
        with anyio.CancelScope(shield=True) as scope:
            self._shields.append(scope)
            await service()

    async def _hold_running(self, *, task_status: anyio.abc.TaskStatus[anyio.abc.TaskGroup]) -> None:
        """Be the parent of the running tasks until all have ended."""
        try:
            async with anyio.create_task_group() as running:
                task_status.started(running)
                await anyio.sleep_forever()
        finally:
            self._all_ended.set()

    async def _work(self, dispatcher: Dispatcher, executor: Executor, running: anyio.abc.TaskGroup) -> None:
        try:
            with self._working:
                await dispatcher.run(running)
                if not dispatcher.is_retiring:
                    self.stop_nowait()
                await dispatcher.give_back_ready()
                await dispatcher.wait_reported()
                self.stop_nowait()
                await dispatcher.wait_ended()
        finally:
            running.cancel_scope.cancel()
            with anyio.move_on_after(GRACE, shield=True):
                await self._all_ended.wait()
            if not self._all_ended.is_set():
                executor.abandon_rest()
                with anyio.move_on_after(LAST, shield=True):  # the others have bounds of their own, of as many seconds
                    await dispatcher.wait_ended()

    async def _clean_up(self, consumer: Consumer, dispatcher: Dispatcher, completer: Completer) -> None:
        """Write what has ended and give back what has not begun, within `CLEANUP` seconds."""
        try:
            with anyio.move_on_after(CLEANUP, shield=True) as cleanup:
                dispatcher.starter.settle_unsure()
                await completer.wait_written(hurry=True)
                await dispatcher.give_back_lost()
                left = await consumer.leave()
                self._counts["given_back"] += left
            if cleanup.cancelled_caught:
                self.left_behind = True
                self._log.error("worker %s could not write everything in time", self.worker_id)
        except BrokerError as error:
            self.left_behind = True
            self._log.error("worker %s could not sign off: %s", self.worker_id, error.message)
        finally:
            for scope in self._shields:
                scope.cancel()
