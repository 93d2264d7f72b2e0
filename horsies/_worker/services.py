"""What keeps a worker in touch: it shows that it lives, learns whether it is dead or leads, and listens.

Each service is one loop over a call that is complete in itself; a database that is away stops none of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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
        self._look_wanted = anyio.Event()
        pump.look_soon = self.look_soon

    async def sign_on(self) -> None:
        """Register the worker, however long the database is away."""
        waits = pauses(self._resilience, self._environment.random)
        while True:
            try:
                await self._consumer.join()
            except BrokerError as error:
                if not error.retryable:
                    raise
                self._log.warning("worker %s: cannot sign on: %s", self._pump.worker_id, error.message)
                await anyio.sleep(next(waits))
            else:
                self._pump.last_beat = anyio.current_time()
                return

    async def beat(self) -> None:
        """Write the heartbeat once, and heed what it answers."""
        if not await self._consumer.beat():
            self._dies("it was silent for recovery.dead_after and was found dead")
            return
        answered_at = anyio.current_time()
        if answered_at - self._pump.last_beat > self._recovery.dead_after / 2:
            self._pump.notice([""])  # notices may have been lost meanwhile
        self._pump.last_beat = answered_at

    async def lead(self) -> None:
        """Take or renew the lease of the leader once."""
        asked_at = anyio.current_time()
        leads = await self._consumer.lead()
        self._leader.leads_until = asked_at + self._recovery.dead_after / 2 if leads else 0.0

    async def look(self) -> None:
        """Compare once what the worker holds by the database with what it knows; cancel what it is asked to cancel."""
        known = set(self._pump.known())
        held = await self._consumer.held()
        for one in held:
            if one.is_cancelled:
                self._pump.cancel(one.lease)
        known.update(self._pump.known())
        self._pump.see_strangers([one.lease for one in held if one.lease not in known])

    def look_soon(self) -> None:
        """Look before the next heartbeat: a notice says that the worker is asked to cancel something."""
        self._look_wanted.set()

    async def keep_beating(self) -> None:
        """Write the heartbeat every `heartbeat_interval`, until the worker is dead."""
        await anyio.sleep(self._recovery.heartbeat_interval)
        await self._keep("write its heartbeat", self.beat, lambda: anyio.sleep(self._recovery.heartbeat_interval))

    async def keep_leading(self) -> None:
        """Ask for the lease of the leader every `heartbeat_interval`."""
        await self._keep("ask for the lease", self.lead, lambda: anyio.sleep(self._recovery.heartbeat_interval))

    async def keep_looking(self) -> None:
        """Look every `heartbeat_interval`, and when `look_soon` says so."""
        await self._keep("look at what it holds", self.look, self._wait_to_look)

    async def _wait_to_look(self) -> None:
        with anyio.move_on_after(self._recovery.heartbeat_interval):
            await self._look_wanted.wait()
        self._look_wanted = anyio.Event()

    async def _keep(self, what: str, once: Callable[[], Awaitable[None]], wait: Callable[[], Awaitable[None]]) -> None:
        waits = pauses(self._resilience, self._environment.random)
        while not self._is_dead:
            try:
                await once()
            except BrokerError as error:
                if not error.retryable:
                    raise
                self._log.warning("worker %s: cannot %s: %s", self._pump.worker_id, what, error.message)
                await anyio.sleep(min(next(waits), self._recovery.heartbeat_interval))
            else:
                waits = pauses(self._resilience, self._environment.random)
                await wait()

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
