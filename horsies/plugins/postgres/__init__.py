"""The broker for PostgreSQL 14 and later. The database's clock decides, and NOTIFY wakes whoever waits."""

from __future__ import annotations

from collections.abc import Mapping

from horsies.abc import BrokerFactory
from horsies.hookspecs import hookimpl

from .broker import PostgresBrokerFactory


@hookimpl
def horsies_brokers() -> Mapping[str, BrokerFactory]:
    """`postgresql://` URLs; `postgres://` is another spelling of the same scheme."""
    factory = PostgresBrokerFactory()
    return {"postgresql": factory, "postgres": factory}
