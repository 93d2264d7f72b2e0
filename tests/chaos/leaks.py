"""What a runtime has left behind: connections, threads, file descriptors, claims, and complaints of the interpreter."""

from __future__ import annotations

import gc
import logging
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from horsies import AppConfig, Runtime

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds for the server to see that sockets are closed, and for threads that nobody waits for to notice it."""
_EXPECTED = re.compile(
    "ended with TASK_CANCELLED"  # a task that was cancelled by its handle
    "|was found dead|another worker owns it by now"  # and one of a worker that was
)
_IDLE = re.compile(r"Trio thread \d+")
"""Threads that Trio keeps for later."""


class Ground:
    """The database beneath a series of lives, and this process, seen from outside."""

    def __init__(self, config: AppConfig, server: psycopg.Connection[Any] | None, path: Path | None) -> None:
        self.config = config
        self._server = server
        self._path = path
        self._connections = self._backends()
        self._threads = _threads()
        self._children = _children()
        self._descriptors: int | None = None
        self._complaints: list[str] = []

    @property
    def lasts(self) -> bool:
        """Whether the database is there when no runtime is."""
        return self._server is not None or self._path is not None

    def rows(self, query: str, rt: Runtime | None = None) -> list[tuple[Any, ...]]:
        """The rows of `query`. A database in memory is looked at through the runtime that has it open."""
        if self._server is not None:
            return self._server.execute(query.encode()).fetchall()
        if self._path is not None:
            with closing(sqlite3.connect(self._path)) as connection:
                return connection.execute(query).fetchall()
        assert rt is not None
        rows: list[tuple[Any, ...]] = rt._engine.broker._session._connection.execute(query).fetchall()
        return rows

    def remove(self) -> None:
        """Remove the schema."""
        if self._server is not None:
            self._server.execute(f"DROP SCHEMA IF EXISTS {self.config.schema} CASCADE".encode())
        elif self._path is not None:
            for path in self._path.parent.glob(f"{self._path.name}*"):
                path.unlink()

    def clear(self) -> None:
        """Remove the tasks."""
        if self._server is not None:
            self._server.execute(b"TRUNCATE tasks CASCADE")
        elif self._path is not None:
            with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("DELETE FROM tasks")

    def held(self, rt: Runtime | None = None) -> Iterator[str]:
        """Whatever belongs to a worker, when none lives."""
        for task_id, status, worker in self.rows("SELECT id, status, worker_id FROM tasks WHERE phase = 2", rt):
            yield f"task {task_id} is {status} by {worker}"
        for (worker,) in self.rows("SELECT worker_id FROM workers", rt):
            yield f"worker {worker} is registered"
        for (holder,) in self.rows("SELECT holder FROM leases WHERE holder IS NOT NULL", rt):
            yield f"worker {holder} leads"

    def processes(self) -> Iterator[str]:
        """Processes of tasks."""
        yield from (f"process {child}" for child in _children() - self._children)

    def left(self) -> Iterator[str]:
        """What is left of this process's doing, after a moment; and what was complained of since the last time."""
        # Threads first: one that is just connecting opens a connection before it closes it.
        yield from (f"thread {thread.name}" for thread in _lasting(lambda: _threads() - self._threads))
        yield from (f"connection {backend}" for backend in _lasting(lambda: self._backends() - self._connections))
        yield from self.processes()
        gc.collect()
        yield from self._complaints
        self._complaints.clear()
        descriptors = len(os.listdir("/dev/fd"))
        if self._descriptors is None:
            self._descriptors = descriptors
        elif descriptors > self._descriptors:
            yield f"{descriptors} file descriptors, there were {self._descriptors}"
            self._descriptors = descriptors

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear what horsies warns of and what nobody else would hear: exceptions raised where none can be caught."""

        class Ear(logging.Handler):
            def emit(_, record: logging.LogRecord) -> None:  # noqa: N805  # self is the Ground
                if not _EXPECTED.search(record.getMessage()):
                    self._complaints.append(f"{record.name} logged: {record.getMessage()}")

        ears = {name: Ear(logging.WARNING) for name in ("horsies", "asyncio", "trio", "psycopg")}
        hooks = sys.unraisablehook, threading.excepthook
        sys.unraisablehook = lambda raised: self._complaints.append(f"unraisable: {raised.exc_value!r} {raised.object}")
        threading.excepthook = lambda raised: self._complaints.append(f"a thread died: {raised.exc_value!r}")
        for name, ear in ears.items():
            logging.getLogger(name).addHandler(ear)
        gc.collect()
        gc.freeze()  # what is there already need not be looked through after each life
        try:
            yield
        finally:
            gc.unfreeze()
            for name, ear in ears.items():
                logging.getLogger(name).removeHandler(ear)
            sys.unraisablehook, threading.excepthook = hooks

    def _backends(self) -> set[tuple[Any, ...]]:
        if self._server is None:
            return set()
        query = b"SELECT pid, state, query FROM pg_stat_activity WHERE application_name = 'horsies'"
        return set(self._server.execute(query).fetchall())


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not _IDLE.fullmatch(thread.name)}


def _children() -> set[str]:
    """Processes that this one has started and not seen the end of, as far as the system tells."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if int(parent) == os.getpid():
                found.add(stat.parent.name)
    return found


def _lasting(look: Callable[[], set[T]]) -> set[T]:
    """What `look` still finds after `PATIENCE`."""
    until = time.monotonic() + PATIENCE
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.005)
    return found


@contextmanager
def open_ground(config: AppConfig) -> Iterator[Ground]:
    """The database of `config`."""
    if not config.url.startswith("postgresql"):
        path = None if ":memory:" in config.url else Path("/" + config.url.removeprefix("sqlite:///").lstrip("/"))
        yield Ground(config, None, path)
        return
    options = f"-c search_path={config.schema}"
    with psycopg.connect(config.url, autocommit=True, application_name="ground", options=options) as server:
        yield Ground(config, server, None)


def shown(faults: Sequence[str]) -> str:
    """One line each."""
    return "".join(f"\n  {fault}" for fault in faults)
