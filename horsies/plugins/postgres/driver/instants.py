"""Instants for people: what no datetime can be is shown as the first or the last one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from struct import Struct

from psycopg.adapt import AdaptersMap, Buffer, Loader
from psycopg.pq import Format

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""From which Postgres counts."""
_MICROSECOND = timedelta(microseconds=1)
_FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // _MICROSECOND
_unpack = Struct("!q").unpack


class _BoundedInstant(Loader):
    """Reads a timestamptz: infinities, years before 1 and after 9999 too, which psycopg refuses."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        (micros,) = _unpack(data)
        return EPOCH + timedelta(microseconds=min(max(micros, _FIRST), _LAST))


def register_bounded_instants(adapters: AdaptersMap) -> None:
    """Have a cursor read every timestamptz."""
    adapters.register_loader("timestamptz", _BoundedInstant)
