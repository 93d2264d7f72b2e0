"""What keeps a worker in touch: it shows that it lives, learns whether it is dead or leads, and listens.

Each service is one loop over a call that is complete in itself; a database that is away stops none of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel

from .._core.config import AppConfig
from .._core.errors import BrokerError
from .._declare.context import ContextLogger
from .._send.contact import Contact
from ..abc import Broker, Membership, Topic
from .intake.dispatcher import Dispatcher
from .leader import Leader

KNOCK = 7
"""Tries of the heartbeat for each `retry_max` while the database is away: its answer ends all other pauses."""


class Heartbeat:
    """The services of one incarnation of a worker.

    Args:
        die: called with the reason once the worker is dead.
        until_idle: the worker is to end by itself, so what the database refuses for good ends it.
    """

    def __init__(
        self,
        broker: Broker,
        membership: Membership,
        dispatcher: Dispatcher,
        leader: Leader,
        contact: Contact,
        config: AppConfig,
        log: ContextLogger,
        die: Callable[[str], None],
        *,
        until_idle: bool,
    ) -> None:
        self._broker = broker
        self._membership = membership
        self._dispatcher = dispatcher
        self._leader = leader
        self._contact = contact
        self._recovery = config.recovery
        self._retry_max = config.resilience.retry_max
        self._until_idle = until_idle
        self._log = log
        self._die = die
        self._is_dead = False
        self._look_wanted = anyio.Event()
        dispatcher.look_soon = self.look_soon

    async def sign_on(self) -> None:
        """Register the worker, however long the database is away, or refuses it.

        Raises:
            BrokerError: `until_idle`, and the database refuses it for good.
        """
        backoff = self._contact.backoff()
        while True:
            try:
                await self._membership.join()
                await self.beat()
                backoff.answered()
                return
            except BrokerError as error:
                self._raise_for_good(error)
                await backoff.failed(error, f"worker {self._dispatcher.worker_id}: cannot sign on", self._log)

    def _raise_for_good(self, error: BrokerError) -> None:
        if self._until_idle and not error.retryable:
            raise error

    async def beat(self) -> None:
        """Write the heartbeat once, and heed what it answers."""
        if not await self._membership.beat():
            self._dies("it was silent for recovery.dead_after and was found dead")
            return
        answered_at = anyio.current_time()
        if answered_at - self._dispatcher.last_beat > self._recovery.dead_after / 2:
            self._dispatcher.notice([""])  # notices may have been lost meanwhile
        self._dispatcher.last_beat = answered_at

    async def lead(self) -> None:
        """Take or renew the lease of the leader once."""
        asked_at = anyio.current_time()
        leads = await self._membership.lead()
        self._leader.leads_until = asked_at + self._recovery.dead_after / 2 if leads else 0.0

    async def look(self) -> None:
        """Compare once what the worker holds by the database with what it knows; cancel what it is asked to cancel."""
        known = set(self._dispatcher.known())
        held = await self._membership.held()
        for one in held:
            if one.is_cancelled:
                self._dispatcher.cancel(one.lease)
        known.update(self._dispatcher.known())
        self._dispatcher.see_strangers([one.lease for one in held if one.lease not in known])

    def look_soon(self) -> None:
        """Look before the next heartbeat: a notice says that the worker is asked to cancel something."""
        self._look_wanted.set()

    async def keep_beating(self) -> None:
        """Write heartbeats until the worker is dead. While that fails, nothing is claimed once the last one is old.

        Raises:
            BrokerError: `until_idle`, and the database refuses it for good.
        """
        await self._wait()
        await self._keep("write its heartbeat", self.beat, self._wait)

    async def keep_leading(self) -> None:
        """Ask for the lease of the leader every `heartbeat_interval`. Raises: BrokerError, as `keep_beating`."""
        await self._keep("ask for the lease", self.lead, self._wait)

    async def keep_looking(self) -> None:
        """Look every `heartbeat_interval`, and when `look_soon` says so. Raises: BrokerError, as `keep_beating`."""
        await self._keep("look at what it holds", self.look, self._wait_to_look)

    async def _wait(self) -> None:
        await anyio.sleep(self._recovery.heartbeat_interval)

    async def _wait_to_look(self) -> None:
        with anyio.move_on_after(self._recovery.heartbeat_interval):
            await self._look_wanted.wait()
        self._look_wanted = anyio.Event()

    async def _keep(self, what: str, once: Callable[[], Awaitable[None]], wait: Callable[[], Awaitable[None]]) -> None:
        backoff = self._contact.backoff()
        interval = self._recovery.heartbeat_interval
        while not self._is_dead:
            try:
                await once()
            except BrokerError as error:
                self._raise_for_good(error)
                at_most = min(interval, self._retry_max / KNOCK) if error.lost else interval
                doing = f"worker {self._dispatcher.worker_id}: cannot {what}"
                await backoff.failed(error, doing, self._log, at_most=at_most)
            else:
                backoff.answered()
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
        backoff = self._contact.backoff()
        while True:
            try:
                async with self._broker.listen(Topic.WORK) as listener:
                    backoff.answered()
                    # What came while nobody listened is not known.
                    self._dispatcher.notice([""])
                    self.look_soon()
                    while True:
                        self._dispatcher.notice(await listener.receive())
                        await anyio.lowlevel.checkpoint()  # the dispatcher sends its claim before this waits again
            except BrokerError as error:
                await backoff.failed(error, f"worker {self._dispatcher.worker_id}: no notifications", self._log)
