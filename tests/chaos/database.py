"""The database of the chaos tests: looking into it, and doing it harm."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg

from horsies.testing.postgres import EmbeddedServer

OBSERVER = "chaos"


class Database:
    """One schema of a server, seen from outside through a connection of its own."""

    def __init__(self, server: EmbeddedServer, schema: str) -> None:
        self.server = server
        self.schema = schema
        self._connection: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()

    def connect(self) -> psycopg.Connection[Any]:
        """Another connection, in autocommit mode."""
        return psycopg.connect(self.server.url, autocommit=True, application_name=OBSERVER, connect_timeout=5)

    async def rows(self, query: str, *given: object) -> list[tuple[Any, ...]]:
        """The rows of one query, in which `{s}` is the schema."""
        return await anyio.to_thread.run_sync(self._rows, query.replace("{s}", self.schema), given)

    async def execute(self, query: str, *given: object) -> None:
        await self.rows(query, *given)

    async def number(self, query: str, *given: object) -> int:
        ((number,),) = await self.rows(query, *given)
        return int(number)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _rows(self, query: str, given: Sequence[object]) -> list[tuple[Any, ...]]:
        with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = self.connect()
            cursor = self._connection.execute(query, given or None)
            return cursor.fetchall() if cursor.description else []

    async def held_by(self, pid: int) -> int:
        """How many tasks the worker in that process holds."""
        return await self.number(
            "SELECT count(*) FROM {s}.tasks WHERE phase = 2 AND split_part(worker_id, ':', 2) = %s", str(pid)
        )

    async def leader(self) -> int | None:
        """The process that holds the leader's lease, if it has not run out."""
        rows = await self.rows(
            "SELECT split_part(holder, ':', 2) FROM {s}.leases WHERE name = 'leader' AND expires_at > clock_timestamp()"
        )
        return int(rows[0][0]) if rows else None

    async def statuses(self) -> dict[str, tuple[str, str | None]]:
        """Status and error code of every task by id."""
        rows = await self.rows("SELECT id::text, status, error_code FROM {s}.tasks")
        return {task_id: (status, code) for task_id, status, code in rows}

    async def progress(self) -> tuple[int, int]:
        """Unfinished tasks, and a number that grows whenever any task moves."""
        ((unfinished, moves),) = await self.rows(
            "SELECT count(*) FILTER (WHERE phase < 3), coalesce(sum(claim_number * 4 + attempt * 2 + phase), 0)"
            " FROM {s}.tasks"
        )
        return int(unfinished), int(moves)

    async def stop(self, *, immediately: bool) -> None:
        """Stop the server: as an operator does, or as a crash does (without a last checkpoint)."""
        if immediately:
            folder = Path((await self.rows("SHOW data_directory"))[0][0])
            self.close()
            await anyio.to_thread.run_sync(_quit, folder)
        self.close()
        await anyio.to_thread.run_sync(self.server.stop)

    async def start(self) -> float:
        """Start the server; the instant from which it took connections."""
        returned: list[float] = []
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, self._until_it_answers, returned)
            await anyio.to_thread.run_sync(self.server.start)
        return returned[0]

    def _until_it_answers(self, returned: list[float]) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                self.connect().close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                break
        returned.append(time.monotonic())


def _quit(folder: Path) -> None:
    """An immediate shutdown: every backend ends where it stands, and the next start recovers from the log."""
    pid = int((folder / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGQUIT)
    until = time.monotonic() + 20
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.02)
        raise TimeoutError("the server did not stop")
