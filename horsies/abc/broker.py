"""What a broker plugin implements; its roles are in modules of their own.

Rules for every method of every role:

- A call is one bounded batch. Outcomes come back in the order of the request, one for each item.
- Failures are raised as `BrokerError`, nothing else; a failed call wrote nothing or its outcome is unknown, which the
  fences (ids, SHAs, claim numbers) make harmless.
- The database's clock decides. `now` replaces it, for tests and simulations only.
- Methods are cancellable at any await, and leave their connection usable or closed, never in between. A broker that is
  used after its connection broke opens a new one.
- No argument, result or password appears in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol, TypeAlias, runtime_checkable

from .._core.config import AppConfig
from .control import Control
from .listener import Listener, Topic
from .maintenance import Maintenance
from .reader import Reader
from .records import SchemaState
from .tasks import Producer
from .workers import Consumer

Clock: TypeAlias = Callable[[], datetime]
"""The current instant, aware UTC."""


class Broker(Protocol):
    """An open broker."""

    reader: Reader
    control: Control

    def producer(self, *, lock_wait: float | None = None) -> AbstractAsyncContextManager[Producer]:
        """A producer, closed with the scope.

        `lock_wait` is how many seconds one call may wait for somebody else's open transaction on the same id or unique
        key; None: as long as any statement.
        """
        ...

    def consumer(self, worker_id: str, queues: Sequence[tuple[str, int]]) -> AbstractAsyncContextManager[Consumer]:
        """A consumer for `worker_id` serving `queues` (name, priority), closed with the scope.

        A call of one kind (heartbeat; lease and holdings; claims; starts; ends) waits for no call of another kind.
        """
        ...

    def maintenance(self, worker_id: str) -> AbstractAsyncContextManager[Maintenance]:
        """Maintenance, done by `worker_id`, closed with the scope. A connection of its own, opened at first use."""
        ...

    def listen(self, topic: Topic) -> AbstractAsyncContextManager[Listener]:
        """Subscribe. Once entered, no notice is missed until the scope ends or `receive` raises."""
        ...

    async def check(self) -> str:
        """Reach the database; what answered, in one line without credentials."""
        ...


@runtime_checkable
class Transactional(Protocol):
    """A broker whose database is the application's too, so that a send can be part of the application's transaction."""

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """A connection with an open transaction, committed at the end of the scope, rolled back when it raises."""
        ...

    def joining(self, connection: Any) -> Producer:
        """A producer that writes through the caller's `connection` and neither commits nor rolls back.

        Its calls are shielded from cancellation and bounded to a few seconds. They raise ValueError as well, when
        they find that `connection` leads to another database than the broker's.

        Raises:
            ValueError: `connection` is none that this broker can join, and what would be.
        """
        ...


@runtime_checkable
class Migrating(Protocol):
    """A `BrokerFactory` whose schema can be brought up to date, printed and looked at without opening a broker.

    All of it raises HorsiesError HRS-203 and HRS-211 as `BrokerFactory.open` does, except where it says otherwise.
    """

    async def migrate(self, config: AppConfig, tell: Callable[[str], object]) -> None:
        """Bring the schema up to date, for as long as it gets on; `tell` is handed what it waits for, in sentences.

        Raises:
            HorsiesError: HRS-218, as for `BrokerFactory.open`.
        """
        ...

    async def upgrade_sql(self, config: AppConfig, tell: Callable[[str], object]) -> str:
        """A script that leads the schema from where it stands to the newest version, or changes nothing.

        It checks by itself that the schema stands where it did. If the database cannot be reached, it is the script for
        an empty one, and `tell` is handed why.

        Raises:
            HorsiesError: HRS-218, the schema is newer than this version can use.
        """
        ...

    async def schema_state(self, config: AppConfig) -> SchemaState:
        """Where the schema stands; nothing is changed."""
        ...


class BrokerFactory(Protocol):
    """What the hook `horsies_brokers` returns for a URL scheme."""

    def open(self, config: AppConfig, *, clock: Clock) -> AbstractAsyncContextManager[Broker]:
        """Connect, bring the schema up to date, and close everything with the scope.

        `clock` is for a broker without a database clock of its own (SQLite in memory).

        Raises:
            HorsiesError: HRS-203 for a URL that cannot be read, HRS-211 when the database cannot be reached within
                `pool.timeout` (host, role, database and TLS in one line), HRS-218 for a schema this version cannot use.
        """
        ...

    def schema_sql(self, config: AppConfig) -> str:
        """The statements that make the schema in an empty database, for review."""
        ...
