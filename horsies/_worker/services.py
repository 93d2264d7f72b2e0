"""What keeps a worker in touch: it shows that it lives, learns whether it is dead or leads, and listens.

Each service is one loop over a call that is complete in itself; a database that is away stops none of them.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel

from .._core.backoff import pauses
from .._core.config import AppConfig
from .._core.errors import BrokerError
from .._task.context import ContextLogger
from .._task.host import Environment
from ..abc import Broker, Consumer, Topic
from .leader import Leader
from .pump import Pump


class Services:
    """The services of one life of a worker.

    Args:
        die: called with the reason once the worker is dead.
    """

    def __init__(
        self,
        broker: Broker,
        consumer: Consumer,
        pump: Pump,
        leader: Leader,
        environment: Environment,
        config: AppConfig,
        log: ContextLogger,
        die: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._consumer = consumer
        self._pump = pump
        self._leader = leader
        self._environment = environment
        self._recovery = config.recovery
        self._resilience = config.resilience
        self._log = log
        self._die = die
        self._is_dead = False
        self._watching_since = anyio.current_time()

    async def sign_on(self) -> None:
        """Register the worker, however long the database is away."""
        waits = pauses(self._resilience, self._environment.random)
        while True:
            try:
                await self._consumer.join()
                await self.beat()
                return
            except BrokerError as error:
                if not error.retryable:
                    raise
                self._log.warning("worker %s: cannot sign on: %s", self._pump.worker_id, error.message)
                await anyio.sleep(next(waits))

    async def beat(self) -> None:
        """Write the heartbeat once, and heed what it answers."""
        asked_at = anyio.current_time()
        answer = await self._consumer.beat(watching=self.is_watching)
        answered_at = anyio.current_time()
        if not answer.alive:
            self._dies("it was silent for recovery.dead_after and was found dead")
            return
        if answered_at - self._pump.last_beat > self._recovery.dead_after / 2:
            # Whoever was away as long as this may come back any moment, and must not be found dead before.
            self._watching_since = answered_at
            self._pump.notice([""])
        self._pump.last_beat = answered_at
        self._leader.leads_until = asked_at + self._recovery.dead_after / 2 if answer.leads else 0.0
        self._leader.finds_dead = self.is_watching
        for lease in answer.to_cancel:
            self._pump.cancel(lease.task_id)

    @property
    def is_watching(self) -> bool:
        """Whether others may be found dead.

        That is after the database was there for us without a gap for as long as a heartbeat may be old: when it was
        away, everybody's is, and nobody is dead.
        """
        return anyio.current_time() - self._watching_since >= self._recovery.dead_after

    async def keep_beating(self) -> None:
        waits = pauses(self._resilience, self._environment.random)
        pause = self._recovery.heartbeat_interval
        while not self._is_dead:
            await anyio.sleep(pause)
            try:
                await self.beat()
            except BrokerError as error:
                if not error.retryable:
                    raise
                pause = min(next(waits), self._recovery.heartbeat_interval)
                self._log.warning("worker %s: cannot write its heartbeat: %s", self._pump.worker_id, error.message)
            else:
                waits = pauses(self._resilience, self._environment.random)
                pause = self._recovery.heartbeat_interval

    async def notice_freezes(self) -> None:
        """Die when the process was frozen (or its event loop blocked) for `dead_after`: others may have acted.

        A database that is away makes the heartbeat as old, but meanwhile time goes on here.
        """
        while not self._is_dead:
            before = anyio.current_time()
            await anyio.sleep(self._recovery.heartbeat_interval)
            if anyio.current_time() - before >= self._recovery.dead_after:
                self._dies("it was frozen, or its event loop blocked, for recovery.dead_after")

    def _dies(self, why: str) -> None:
        self._is_dead = True
        self._die(why)

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
                        await anyio.lowlevel.checkpoint()  # the pump sends its claim before this waits again
            except BrokerError as error:
                self._log.warning("worker %s: no notifications: %s", self._pump.worker_id, error.message)
                await anyio.sleep(next(waits))
