"""The broker for SQLite 3.37 and later: one file and no server, or the memory of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from horsies import AppConfig
from horsies.abc import Broker, BrokerFactory, Clock, SchemaState
from horsies.hookspecs import hookimpl


@hookimpl
def horsies_brokers() -> Mapping[str, BrokerFactory]:
    """`sqlite:///relative.db`, `sqlite:////absolute.db` and `sqlite://:memory:`."""
    return {"sqlite": SqliteBrokerFactory()}


class SqliteBrokerFactory:
    """Opens brokers on SQLite. Whoever uses another one need not have all of this loaded."""

    def open(self, config: AppConfig, *, clock: Clock) -> AbstractAsyncContextManager[Broker]:
        """See `horsies.abc.BrokerFactory.open`. A file goes by the clock of the machine, memory by `clock`."""
        from .broker import open_broker

        return open_broker(config, clock)

    def schema_sql(self, config: AppConfig) -> str:
        """See `horsies.abc.BrokerFactory.schema_sql`."""
        from .schema import schema_sql

        return schema_sql()

    async def migrate(self, config: AppConfig, tell: Callable[[str], object]) -> None:
        """See `horsies.abc.Migrating.migrate`. Opening does it, and waits for other processes up to `pool.timeout`."""
        async with self.open(config, clock=lambda: datetime.now(UTC)):
            pass

    async def upgrade_sql(self, config: AppConfig, tell: Callable[[str], object]) -> str:
        """See `horsies.abc.Migrating.upgrade_sql`. The script is for the shell `sqlite3`."""
        from .schema_commands import upgrade_script

        return await upgrade_script(config)

    async def schema_state(self, config: AppConfig) -> SchemaState:
        """See `horsies.abc.Migrating.schema_state`."""
        from .schema_commands import schema_state

        return await schema_state(config)
