"""An application with tasks of every kind, made anew for each test, because an application belongs to one database."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import psycopg
import pytest

from horsies import AppConfig, Err, Horsies, Ok, QueueConfig, Runtime, Task, TaskContext, TaskError, TaskResult

from .scheduling import Place, place_for


@dataclass
class Bench:
    """The application under test, its tasks, and what they recorded."""

    app: Horsies
    add: Task[[int, int], int]
    seen: list[Any] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)
    tasks: dict[str, Task[..., Any]] = field(default_factory=dict)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells, such as a number in a worker's statistics."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


@pytest.fixture
def bench(config: AppConfig) -> Iterator[Bench]:
    queues = (QueueConfig("default"), QueueConfig("images"))
    app = Horsies(AppConfig.for_database_url(config.url, schema=config.schema, queues=queues))

    @app.task("add")
    async def add(a: int, b: int) -> int:
        return a + b

    bench = Bench(app, add)

    @app.lifespan
    @asynccontextmanager
    async def resources(rt: Runtime) -> AsyncIterator[str]:
        bench.seen.append("entered")
        try:
            yield "the state"
        finally:
            bench.seen.append("left")

    @app.task("in_thread", queue="images", priority=10)
    def in_thread(ctx: TaskContext, text: str) -> str:
        bench.seen.append((threading.current_thread() is threading.main_thread(), ctx.attempt, ctx.state))
        return text.upper()

    @app.task("say")
    async def say(ctx: TaskContext) -> dict[str, str]:
        return {"id": ctx.task_id, "queue": ctx.queue, **ctx.metadata}

    @app.task("raises")
    async def raises(secret: str) -> None:
        raise ValueError(f"cannot use {secret}")

    @app.task("returns_err")
    async def returns_err(n: int) -> TaskResult[int]:
        return Ok(n) if n > 0 else Err(TaskError("TOO_SMALL", "n is not positive", data={"least": 1}))

    @app.task("raises_task_error")
    async def raises_task_error() -> int:
        raise TaskError("RATE_LIMITED")

    @app.task("wrong_return")
    async def wrong_return() -> int:
        return "seven"

    @app.task("sleep_forever")
    async def sleep_forever() -> None:
        bench.seen.append("started")
        await anyio.sleep_forever()

    @app.task("hold")
    def hold(ctx: TaskContext) -> str:
        bench.seen.append("started")
        bench.release.wait(20)
        return "stopped" if ctx.cancelled else "released"

    @app.task("nested")
    async def nested(n: int) -> int:
        inner = (await add.send(n, 1)).unwrap()
        return (await inner.get(timeout=20)).unwrap()

    bench.tasks = {task.name: task for task in app.tasks.values()}
    yield bench
    bench.release.set()


@contextmanager
def held_up(config: AppConfig) -> Iterator[None]:
    """In the block nobody can write: somebody has locked the table, or the file."""
    if config.url.startswith("sqlite"):
        with closing(sqlite3.connect(config.url.removeprefix("sqlite:///"), isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            yield
            holder.rollback()
        return
    with psycopg.connect(config.url) as holder:
        holder.execute(f"LOCK TABLE {config.schema}.tasks IN SHARE MODE".encode())
        yield


@pytest.fixture
def place(config: AppConfig) -> Place:
    return place_for(config)
