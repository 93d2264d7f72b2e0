"""What a worker does beside running tasks: it shows that it lives, listens, and looks after tasks nobody holds.

Each service is one loop over a call that is complete in itself; a database that is away stops none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from .._core.config import RecoveryConfig, ResilienceConfig
from .._core.errors import BrokerError
from .._task.host import Environment
from ..abc import Broker, Consumer, Topic
from .backoff import pauses
from .pump import Pump

logger = logging.getLogger("horsies.worker")

EXPIRE_BATCH = 500
REAP_BATCH = 200


class Services:
    """The services of one worker."""

    def __init__(
        self,
        broker: Broker,
        consumer: Consumer,
        pump: Pump,
        environment: Environment,
        *,
        worker_id: str,
        resilience: ResilienceConfig,
        recovery: RecoveryConfig,
    ) -> None:
        self._broker = broker
        self._consumer = consumer
        self._pump = pump
        self._environment = environment
        self._worker_id = worker_id
        self._resilience = resilience
        self._recovery = recovery
        self._watching_since = anyio.current_time()

    async def beat(self) -> None:
        """Write the heartbeat once, and heed what it answers."""
        asked = await self._consumer.beat()
        now = anyio.current_time()
        if now - self._pump.last_beat >= self._recovery.dead_after:
            self._watching_since = now
        self._pump.last_beat = now
        for lease in asked:
            self._pump.cancel(lease.task_id)

    async def sign_on(self) -> None:
        """Write the first heartbeat, which registers the worker, however long the database is away."""
        waits = pauses(self._resilience, self._environment.random)
        while not self._pump.is_stopping:
            try:
                await self.beat()
                return
            except BrokerError as error:
                if not error.retryable:
                    raise
                logger.warning("worker %s: cannot sign on: %s", self._worker_id, error.message)
                await anyio.sleep(next(waits))

    async def keep_beating(self) -> None:
        waits = pauses(self._resilience, self._environment.random)
        pause = self._recovery.heartbeat_interval
        while True:
            await anyio.sleep(pause)
            try:
                await self.beat()
            except BrokerError as error:
                pause = min(next(waits), self._recovery.heartbeat_interval)
                logger.warning("worker %s: cannot write its heartbeat: %s", self._worker_id, error.message)
            else:
                waits = pauses(self._resilience, self._environment.random)
                pause = self._recovery.heartbeat_interval

    async def listen(self) -> None:
        waits = pauses(self._resilience, self._environment.random)
        while True:
            try:
                async with self._broker.listen(Topic.WORK) as listener:
                    waits = pauses(self._resilience, self._environment.random)
                    # What came while nobody listened is not known.
                    self._pump.notice([""])
                    while True:
                        self._pump.notice(await listener.receive())
            except BrokerError as error:
                logger.warning("worker %s: no notifications: %s", self._worker_id, error.message)
                await anyio.sleep(next(waits))

    async def keep_expiring(self) -> None:
        while True:
            self._pump.counts["expired"] += await self._all(EXPIRE_BATCH, self._consumer.expire, "expire tasks")
            await anyio.sleep(self._recovery.reap_interval)

    async def keep_reaping(self) -> None:
        """Take tasks from dead workers.

        Only after the database was there for us without a gap for as long as a heartbeat may be old: when it was away,
        everybody's is, and nobody is dead.
        """
        while True:
            await anyio.sleep(self._recovery.reap_interval)
            if anyio.current_time() - self._watching_since >= self._recovery.dead_after:
                reaped = await self._all(REAP_BATCH, self._consumer.reap, "take tasks from dead workers")
                if reaped:
                    logger.warning("worker %s: took %d tasks from dead workers", self._worker_id, reaped)

    async def _all(self, batch: int, call: Callable[[int], Awaitable[int]], what: str) -> int:
        """Call until it has nothing left to do; how much it did."""
        total = 0
        try:
            while (done := await call(batch)) > 0:
                total += done
        except BrokerError as error:
            logger.warning("worker %s: cannot %s: %s", self._worker_id, what, error.message)
        return total
