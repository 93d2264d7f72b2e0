"""The broker for SQLite: for tests, and for programs that want a queue without a server."""

from __future__ import annotations

from collections.abc import Mapping

from horsies.abc import BrokerFactory
from horsies.hookspecs import hookimpl

from .broker import SqliteBrokerFactory


@hookimpl
def horsies_brokers() -> Mapping[str, BrokerFactory]:
    """`sqlite://` URLs."""
    return {"sqlite": SqliteBrokerFactory()}
