"""The broker for SQLite 3.35 and later: one file and no server, or the memory of this process."""

from __future__ import annotations

from collections.abc import Mapping

from horsies.abc import BrokerFactory
from horsies.hookspecs import hookimpl

from .broker import SqliteBrokerFactory


@hookimpl
def horsies_brokers() -> Mapping[str, BrokerFactory]:
    """`sqlite:///relative.db`, `sqlite:////absolute.db` and `sqlite://:memory:`."""
    return {"sqlite": SqliteBrokerFactory()}
