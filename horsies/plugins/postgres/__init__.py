"""The broker for PostgreSQL 14 and later. The database's clock decides, and NOTIFY wakes whoever waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from horsies import AppConfig
from horsies.abc import Broker, BrokerFactory, Clock, SchemaState
from horsies.hookspecs import hookimpl


@hookimpl
def horsies_brokers() -> Mapping[str, BrokerFactory]:
    """`postgresql://` URLs; `postgres://` is another spelling of the same scheme."""
    factory = PostgresBrokerFactory()
    return {"postgresql": factory, "postgres": factory}


class PostgresBrokerFactory:
    """Opens brokers on PostgreSQL. Whoever uses another one need not have psycopg loaded, which takes 12 MB."""

    def open(self, config: AppConfig, *, clock: Clock) -> AbstractAsyncContextManager[Broker]:
        """See `horsies.abc.BrokerFactory.open`. The database has a clock of its own."""
        from .broker import open_broker

        return open_broker(config)

    def schema_sql(self, config: AppConfig) -> str:
        """See `horsies.abc.BrokerFactory.schema_sql`."""
        from .schema import schema_sql

        return schema_sql(config.schema)

    async def migrate(self, config: AppConfig, tell: Callable[[str], object]) -> None:
        """See `horsies.abc.Migrating.migrate`."""
        from .schema_commands import migrate_database

        await migrate_database(config, tell)

    async def upgrade_sql(self, config: AppConfig, tell: Callable[[str], object]) -> str:
        """See `horsies.abc.Migrating.upgrade_sql`."""
        from .schema_commands import upgrade_script

        return await upgrade_script(config, tell)

    async def schema_state(self, config: AppConfig) -> SchemaState:
        """See `horsies.abc.Migrating.schema_state`."""
        from .schema_commands import schema_state

        return await schema_state(config)
