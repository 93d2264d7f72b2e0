"""What keeps a worker in touch: it shows that it lives, learns whether it is dead or leads, and listens.

Each service is one loop over a call that is complete in itself; a database that is away stops none of them.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel

from .._core.config import AppConfig
from .._core.errors import BrokerError
from .._task.contact import Contact
from .._task.context import ContextLogger
from ..abc import Broker, Consumer, Topic
from .leader import Leader
from .pump import Pump

KNOCK = 7
"""Tries of the heartbeat for each `retry_max` while the database is away: its answer ends all other pauses."""


class Services:
    """The services of one life of a worker.

    Args:
        die: called with the reason once the worker is dead.
        until_idle: the worker is to end by itself, so what the database refuses for good ends it.
    """

    def __init__(
        self,
        broker: Broker,
        consumer: Consumer,
        pump: Pump,
        leader: Leader,
        contact: Contact,
        config: AppConfig,
        log: ContextLogger,
        die: Callable[[str], None],
        *,
        until_idle: bool,
    ) -> None:
        self._broker = broker
        self._consumer = consumer
        self._pump = pump
        self._leader = leader
        self._contact = contact
        self._recovery = config.recovery
        self._retry_max = config.resilience.retry_max
        self._until_idle = until_idle
        self._log = log
        self._die = die
        self._is_dead = False
        self._watching_since = anyio.current_time()

    async def sign_on(self) -> None:
        """Register the worker, however long the database is away, or refuses it.

        Raises:
            BrokerError: `until_idle`, and the database refuses it for good.
        """
        backoff = self._contact.backoff()
        while True:
            try:
                await self._consumer.join()
                await self.beat()
                backoff.answered()
                return
            except BrokerError as error:
                self._raise_for_good(error)
                await backoff.failed(error, f"worker {self._pump.worker_id}: cannot sign on", self._log)

    def _raise_for_good(self, error: BrokerError) -> None:
        if self._until_idle and not error.retryable:
            raise error

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
        """Write heartbeats until the worker is dead. While that fails, nothing is claimed once the last one is old.

        Raises:
            BrokerError: `until_idle`, and the database refuses it for good.
        """
        backoff = self._contact.backoff()
        interval = self._recovery.heartbeat_interval
        await anyio.sleep(interval)
        while not self._is_dead:
            try:
                await self.beat()
            except BrokerError as error:
                self._raise_for_good(error)
                what = f"worker {self._pump.worker_id}: cannot write its heartbeat"
                at_most = min(interval, self._retry_max / KNOCK) if error.lost else interval
                await backoff.failed(error, what, self._log, at_most=at_most)
            else:
                backoff.answered()
                await anyio.sleep(interval)

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
        backoff = self._contact.backoff()
        while True:
            try:
                async with self._broker.listen(Topic.WORK) as listener:
                    backoff.answered()
                    # What came while nobody listened is not known.
                    self._pump.notice([""])
                    while True:
                        self._pump.notice(await listener.receive())
                        await anyio.lowlevel.checkpoint()  # the pump sends its claim before this waits again
            except BrokerError as error:
                await backoff.failed(error, f"worker {self._pump.worker_id}: no notifications", self._log)
