"""The engine of a runtime: what tasks, workflows and workers see of it. One task group owns everything that runs."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

from .._core.config import WorkerConfig
from .._core.errors import BrokerError, HorsiesError
from .._core.urls import scheme_of
from .._declare.app import Horsies
from .._declare.context import AttemptContext
from .._declare.current_runtime import registered
from .._schedule.scheduler import Scheduler
from .._send.batcher import Batcher
from .._send.contact import Contact
from .._send.forks import refuse_in_fork
from .._send.gateway import NO_CONNECTION, NOTHING_TO_JOIN, Environment
from .._send.nursery import open_nursery
from .._send.suppression import SuppressedError, are_suppressed
from .._send.waiters import Waiters, ended_tasks
from .._worker.execution.process_main import refuse_while_loading
from .._worker.intake.decide import Timings
from .._worker.worker import Worker
from ..abc import (
    Broker,
    BrokerFactory,
    CancelOutcome,
    Enqueued,
    NewTask,
    Serializer,
    StoredResult,
    SupportsDelay,
    TaskRow,
    Transactional,
)
from .check import check
from .plugins import Plugins
from .schedules import require_store
from .workflows import WorkflowEngine


class Engine(WorkflowEngine):
    """An application, open. `horsies._worker.gateway` and its like say what each method is for.

    Args:
        runtime: the `Runtime` that users have of it.
        context_type: `TaskContext`.
    """

    timings = Timings()

    def __init__(
        self, app: Horsies, environment: Environment, runtime: object, context_type: type[AttemptContext[Any]]
    ) -> None:
        super().__init__(app, Contact(app.config.resilience, environment.random))
        self.environment = environment
        self.runtime = runtime
        self.context_type = context_type
        self._plugins: Plugins | None = None
        self._broker: Broker | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._batcher: Batcher
        self._waiters: Waiters[StoredResult]
        self._workers: list[Worker] = []
        self._opened_by: int | None = None

    @property
    def is_open(self) -> bool:
        return self._group is not None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Load the plugins and open the broker, and close it with the scope, once everything has ended.

        Raises:
            HorsiesError: see `Runtime`.
        """
        if self._broker is not None:
            raise HorsiesError("HRS-211", "this Runtime has been opened before", ["make a new one for each scope"])
        refuse_while_loading()
        self._opened_by = os.getpid()
        config = self.app.config
        async with self.broker_factory().open(config, clock=self.environment.clock) as self._broker:
            if self.app.schedules:
                require_store(self._broker)
            lookup = partial(ended_tasks, self._broker)
            self._waiters = Waiters(self._broker, lookup, config.resilience, self.contact)
            self._batcher = Batcher(self._broker, self.contact)
            self._open_workflows(self._broker)
            with registered(self):
                async with self._nursery():
                    yield

    @asynccontextmanager
    async def _nursery(self) -> AsyncGenerator[None]:
        """The task group of this runtime, with its services; workers drain when the body ends in order."""
        try:
            async with open_nursery() as self._group:
                self._group.start_soon(self._batcher.run)
                self._group.start_soon(self._waiters.run)
                self._serve_workflows(self._group)
                yield
                async with anyio.create_task_group() as drains:
                    for worker in self._workers:
                        drains.start_soon(worker.drain)
                self._group.cancel_scope.cancel()
        finally:
            self._group = None

    def broker_factory(self) -> BrokerFactory:
        """The broker plugin that the application's URL chooses.

        Raises:
            HorsiesError: HRS-217, everything that no plugin offers.
        """
        self._plugins = check(self.app)
        return self._plugins.brokers[scheme_of(self.app.config.url) or ""]

    def refuse_in_fork(self) -> None:
        """For whatever uses the runtime. Raises: HorsiesError, HRS-211, in a fork of the process that opened it."""
        refuse_in_fork(self._opened_by)

    @property
    def broker(self) -> Broker:
        """The open broker.

        Raises:
            HorsiesError: HRS-211 if the runtime is not open.
        """
        self.refuse_in_fork()
        if self._broker is None or self._group is None:
            raise _not_open()
        return self._broker

    @property
    def serializers(self) -> Mapping[str, Serializer]:
        """The installed serializers by name."""
        return self._opened().serializers

    @property
    def retry_policies(self) -> Mapping[str, SupportsDelay]:
        """The installed retry policies by name."""
        return self._opened().retry_policies

    def _opened(self) -> Plugins:
        if self._plugins is None:
            raise _not_open()
        return self._plugins

    async def run_worker(
        self, config: WorkerConfig | None, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """See `Runtime.run_worker`."""
        self.refuse_in_fork()
        self._opened()
        worker = self._new_worker(config)
        await self._run_known(worker, task_status=task_status)

    def start_worker(self, config: WorkerConfig | None) -> Worker:
        """See `Runtime.start_worker`."""
        self.refuse_in_fork()
        if self._group is None:
            raise _not_open()
        worker = self._new_worker(config)
        self._group.start_soon(self._run_known, worker, name=f"horsies worker {worker.worker_id}")
        return worker

    def _new_worker(self, config: WorkerConfig | None) -> Worker:
        worker = Worker(self, config)
        self._workers.append(worker)
        return worker

    async def _run_known(
        self, worker: Worker, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await worker.run(task_status=task_status)
        finally:
            self._workers.remove(worker)

    async def keep_schedules(self, goes_first: Callable[[], bool]) -> None:
        await Scheduler(self, require_store(self.broker), goes_first).run()

    def transactional(self) -> Transactional:
        """The broker, if it shares transactions. Raises: HorsiesError, HRS-211, it does not."""
        broker = self.broker
        if not isinstance(broker, Transactional):
            raise HorsiesError("HRS-211", _NO_TRANSACTIONS, ["use a postgresql:// URL for it"])
        return broker

    async def submit(
        self, tasks: Sequence[NewTask], *, replay: bool, connection: object | None
    ) -> list[Enqueued | BrokerError]:
        self.refuse_in_fork()
        if connection is None:
            return await self._batcher.submit(tasks, replay=replay)
        broker = self.broker
        if not isinstance(broker, Transactional):
            raise ValueError(_NO_TRANSACTIONS)
        if connection is NO_CONNECTION:
            raise ValueError(NOTHING_TO_JOIN)
        producer = broker.joining(connection)
        if are_suppressed():
            await anyio.lowlevel.checkpoint()
            return [SuppressedError() for _ in tasks]
        try:
            return [*await producer.enqueue(tasks)]
        except BrokerError as error:
            return [error] * len(tasks)

    async def cancel(self, task_id: str) -> CancelOutcome:
        (outcome,) = await self.broker.control.cancel([task_id])
        return outcome

    async def wait_finished(self, task_id: str, timeout: float | None = None) -> StoredResult | None:
        self.refuse_in_fork()
        return await self._waiters.wait_finished(task_id, timeout)

    async def read(self, task_id: str) -> TaskRow | None:
        return await self.broker.reader.read(task_id)


_NO_TRANSACTIONS = "this runtime's broker takes no part in transactions of the application"


def _not_open() -> HorsiesError:
    return HorsiesError("HRS-211", "the runtime is not open", ["use it inside `async with Runtime(app) as rt:`"])
