"""A lost send is replayed with the identical payload, and only so."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from horsies import (
    AppConfig,
    BrokerError,
    Err,
    Horsies,
    Ok,
    Runtime,
    TaskSendErrorCode,
    TaskSendPayload,
    TaskStatus,
    WorkerConfig,
)
from horsies.abc import Broker, Clock, Enqueued, NewTask, Producer

from .conftest import Bench

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)


class Lossy:
    """A producer whose answers get lost: it writes, or not, and then the connection breaks."""

    def __init__(self, inner: Producer, script: list[str]) -> None:
        self._inner = inner
        self._script = script

    async def enqueue(self, tasks: Sequence[NewTask], *, now: datetime | None = None) -> list[Enqueued]:
        step = self._script.pop(0) if self._script else "fine"
        if step == "refused":
            raise BrokerError("permission denied", retryable=False)
        if step == "before":
            raise BrokerError("lost", retryable=True)
        answers = await self._inner.enqueue(tasks, now=now)
        if step == "after":
            raise BrokerError("lost", retryable=True)
        return answers


@asynccontextmanager
async def lossy(bench: Bench, *script: str, **fields: Any) -> AsyncIterator[Runtime]:
    """A runtime on the real database, whose connections for sends break as `script` says."""
    app = Horsies(replace(bench.app.config, **fields))
    for task in bench.app.tasks.values():
        app.include(task)
    rt, steps = Runtime(app), list(script)
    factory = rt._engine.broker_factory()

    class LossyFactory:
        @asynccontextmanager
        async def open(self, config: AppConfig, *, clock: Clock) -> AsyncIterator[Broker]:
            async with factory.open(config, clock=clock) as broker:
                producer = broker.producer

                @asynccontextmanager
                async def lossy_producer(*, lock_wait: float | None = None) -> AsyncIterator[Producer]:
                    async with producer(lock_wait=lock_wait) as inner:
                        yield Lossy(inner, steps)

                broker.producer = lossy_producer
                yield broker

    rt._engine.broker_factory = LossyFactory
    async with rt:
        yield rt


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_lost_send_is_there_once_after_its_replay(bench: Bench, lost: str) -> None:
    async with lossy(bench, lost) as rt:
        add = bench.add.handle(rt)
        error = (await add.send(2, 3)).unwrap_err()
        assert error.code is TaskSendErrorCode.ENQUEUE_FAILED
        assert error.retryable
        handles = [(await add.retry_send(error)).unwrap() for _ in range(3)]
        assert {handle.task_id for handle in handles} == {error.task_id}
        await rt.run_worker(UNTIL_IDLE)
        assert await handles[0].get(timeout=10) == Ok(5)


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_replay_does_not_run_a_finished_task_twice(bench: Bench, lost: str) -> None:
    async with lossy(bench, lost) as rt:
        add = bench.add.handle(rt)
        error = (await add.send(2, 3)).unwrap_err()
        first = (await add.retry_send(error)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        before = (await first.info(include_result=True)).unwrap()
        again = (await add.retry_send(error)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        after = (await again.info(include_result=True)).unwrap()
        assert before is not None
        assert (before.status, before.attempt, before.result) == (TaskStatus.COMPLETED, 1, Ok(5))
        assert after == before


async def test_an_edited_payload_with_the_old_sha_is_refused_before_any_io(bench: Bench) -> None:
    async with lossy(bench, "after", "refused") as rt:
        add = bench.add.handle(rt)
        payload = (await add.send(2, 3)).unwrap_err().payload
        assert payload is not None
        for n in range(len(payload.envelope)):
            changed = bytes([*payload.envelope[:n], payload.envelope[n] ^ 1, *payload.envelope[n + 1 :]])
            error = (await add.retry_send(replace(payload, envelope=changed))).unwrap_err()
            assert error.code is TaskSendErrorCode.PAYLOAD_MISMATCH
        error = (await add.retry_send(replace(payload, enqueue_sha="0" * 64))).unwrap_err()
        assert error.code is TaskSendErrorCode.PAYLOAD_MISMATCH
        # The second step of the script is still there: nothing has reached the producer since the first.
        assert (await add.retry_send(payload)).unwrap_err().code is TaskSendErrorCode.ENQUEUE_FAILED


async def test_another_payload_under_the_same_id_is_a_mismatch(bench: Bench) -> None:
    ids = iter(["01a20b61-2781-7630-ab1a-6e10e1777af4"] * 2)
    async with lossy(bench, "fine", "before") as rt:
        before = rt.environment
        rt._engine.environment = replace(before, new_id=lambda: next(ids))
        add = bench.add.handle(rt)
        first = (await add.send(2, 3)).unwrap()
        other = (await add.send(2, 4)).unwrap_err()
        rt._engine.environment = before
        assert (await add.retry_send(other)).unwrap_err().code is TaskSendErrorCode.PAYLOAD_MISMATCH
        await rt.run_worker(UNTIL_IDLE)
        assert await first.get(timeout=10) == Ok(5)


REPLAYER = """
import sys, anyio
from horsies import AppConfig, Horsies, Runtime, TaskSendPayload
url, schema, file, backend = sys.argv[1:]
app = Horsies(AppConfig.for_database_url(url, schema=schema))

@app.task("add")
async def add(a: int, b: int) -> int: ...

async def main():
    with open(file, "rb") as stored:
        payload = TaskSendPayload.from_bytes(stored.read())
    async with Runtime(app) as rt:
        print((await add.handle(rt).retry_send(payload)).unwrap().task_id)

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_stored_payload_is_replayed_by_another_process(bench: Bench, lost: str, tmp_path: Path) -> None:
    file = anyio.Path(tmp_path / "payload")
    async with lossy(bench, lost) as rt:
        payload = (await bench.add.handle(rt).send(2, 3)).unwrap_err().payload
    assert payload is not None
    stored = payload.to_bytes()
    read = TaskSendPayload.from_bytes(stored)
    assert read == payload
    assert (read.task_name, read.queue, read.priority) == ("add", "default", 50)
    with pytest.raises(ValueError, match="payload"):
        TaskSendPayload.from_bytes(stored[:-1] + b"\0")
    await file.write_bytes(stored)
    config = bench.app.config
    for backend in ("trio", "asyncio"):
        command = [sys.executable, "-c", REPLAYER, config.url, config.schema, str(file), backend]
        assert (await anyio.run_process(command)).stdout.decode().strip() == payload.task_id
    async with Runtime(bench.app) as rt:
        await rt.run_worker(UNTIL_IDLE)
        assert await rt.handle(payload.task_id).get(timeout=10) == Ok(5)


async def test_a_replay_does_not_move_the_due_time(bench: Bench) -> None:
    async with lossy(bench, "before") as rt:
        add = bench.add.handle(rt)
        clock = rt.environment.clock
        rt._engine.environment = replace(rt.environment, clock=lambda: clock() - timedelta(seconds=40))
        error = (await add.schedule(60, 2, 3)).unwrap_err()
        rt._engine.environment = replace(rt.environment, clock=clock)
        handle = (await add.retry_schedule(error)).unwrap()
        info = (await handle.info()).unwrap()
        assert info is not None
        remaining = (info.due_at - datetime.now(UTC)).total_seconds()
        assert 15 < remaining < 21


async def test_payloads_that_cannot_be_replayed(bench: Bench) -> None:
    async with lossy(bench, "before", "before") as rt:
        add, say = bench.add.handle(rt), bench.tasks["say"].handle(rt)
        sent = (await add.send(2, 3)).unwrap_err()
        scheduled = (await add.schedule(1, 2, 3)).unwrap_err()
        for replaying in (say.retry_send(sent), add.retry_schedule(sent), add.retry_send(scheduled)):
            assert (await replaying).unwrap_err().code is TaskSendErrorCode.VALIDATION_FAILED
        invalid = (await add.schedule(-1, 2, 3)).unwrap_err()
        assert (await add.retry_send(invalid)).unwrap_err().code is TaskSendErrorCode.VALIDATION_FAILED
        clock = rt.environment.clock
        rt._engine.environment = replace(rt.environment, clock=lambda: clock() + timedelta(days=31))
        old = (await add.retry_send(sent)).unwrap_err()
        assert (old.code, old.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, False)


async def test_transient_failures_are_resent_on_request(bench: Bench) -> None:
    async with lossy(bench, "before", "after", resend_on_transient_err=True) as rt:
        handle = (await bench.add.handle(rt).send(2, 3)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(5)


async def test_a_permanent_failure_says_so_and_is_not_resent(bench: Bench) -> None:
    async with lossy(bench, "refused", resend_on_transient_err=True) as rt:
        sent = await bench.add.handle(rt).send(2, 3)
        assert isinstance(sent, Err)
        assert (sent.error.code, sent.error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, False)
        assert "permission denied" in sent.error.message
