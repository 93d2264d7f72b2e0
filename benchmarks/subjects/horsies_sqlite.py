"""horsies on SQLite: a file of its own beside the database of the others, with the durability that horsies gives it."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from horsies import AppConfig, Runtime

from .horsies import KINDS, HorsiesQueue, application

__all__ = ["KINDS", "LOOPS", "SqliteQueue", "open"]

LOOPS = ("asyncio", "trio")


class SqliteQueue(HorsiesQueue):
    def __init__(self, rt: Runtime, file: Path) -> None:
        super().__init__(rt)
        self._file = file

    async def stored(self) -> int:
        def count() -> int:
            connection = sqlite3.connect(self._file)
            try:
                return int(connection.execute("SELECT count(*) FROM tasks WHERE phase = 3").fetchone()[0])
            finally:
                connection.close()

        return await anyio.to_thread.run_sync(count)


@asynccontextmanager
async def open(_: str) -> AsyncIterator[SqliteQueue]:
    with tempfile.TemporaryDirectory(prefix="horsies-bench-") as folder:
        file = Path(folder) / "bench.db"
        async with Runtime(application(AppConfig.for_database_url(f"sqlite:///{file}"))) as rt:
            yield SqliteQueue(rt, file)
