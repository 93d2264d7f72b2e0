"""A database that is slower than its users slows them down, and nothing piles up in memory meanwhile."""

from __future__ import annotations

import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from horsies import Horsies, Runtime, TaskSendErrorCode, TaskSendPayload, blocking
from horsies._core.limits import SEND_ROWS, STATEMENT_BYTES
from horsies._send.batcher import _Order
from horsies._send.bulk import SEAL_BATCH

from .conftest import Bench, held_up
from .test_sending import count

pytestmark = pytest.mark.anyio

on_both = pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


of_other_tests = set[int]()
"""Payloads that other modules keep."""


def payloads() -> int:
    """How many payloads live: those that senders hold, or those that wait to be written, whichever are more."""
    gc.collect()
    found = gc.get_objects()
    queued = sum(len(one.tasks) for one in found if type(one) is _Order)
    return max(queued, sum(type(one) is TaskSendPayload and id(one) not in of_other_tests for one in found))


@pytest.fixture(autouse=True)
def count_from_here() -> None:
    gc.collect()
    of_other_tests.clear()
    of_other_tests.update(id(one) for one in gc.get_objects() if type(one) is TaskSendPayload)


async def stored(rt: Runtime) -> int:
    """How many tasks wait in the database."""
    return sum(queue.ready for queue in (await rt.queues()).unwrap())


class Calls:
    """Yields `total` calls, and knows how far it was read and how many payloads lived meanwhile."""

    def __init__(self, total: int, text: str | None = None) -> None:
        self._total = total
        self._text = text
        self.read = 0
        self.most_alive = 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for n in range(self._total):
            self.read += 1
            if n % 999 == 0:
                self.most_alive = max(self.most_alive, payloads())
            yield (n, 0) if self._text is None else (self._text,)


@asynccontextmanager
async def sending(function: Any, calls: Any) -> AsyncIterator[list[Any]]:
    """Around the block `send_many` goes on; its answers are there at the end."""
    answers: list[Any] = []

    async def send() -> None:
        answers.extend(await function.send_many(calls))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        yield answers


@on_both
async def test_send_many_reads_no_faster_than_the_database_writes(bench: Bench) -> None:
    calls = Calls(20_000)
    async with Runtime(bench.app) as rt:
        async with sending(bench.add.handle(rt), calls) as answers:
            with held_up(bench.app.config):
                await anyio.wait_all_tasks_blocked()
                assert SEND_ROWS < calls.read <= 2 * SEND_ROWS + 1
                assert payloads() <= 2 * SEND_ROWS + 1
        assert len({answer.unwrap().task_id for answer in answers}) == 20_000
        assert calls.most_alive <= 2 * SEND_ROWS + 1
        assert payloads() == 0
        last = (await answers[-1].unwrap().info()).unwrap()
        assert last is not None


@on_both
async def test_large_payloads_are_counted_in_bytes(bench: Bench) -> None:
    text = "x" * 100_000
    in_one_statement = STATEMENT_BYTES // len(text)
    calls = Calls(300, text)
    async with Runtime(bench.app) as rt, sending(bench.tasks["in_thread"].handle(rt), calls) as answers:
        with held_up(bench.app.config):
            await anyio.wait_all_tasks_blocked()
            assert in_one_statement < calls.read <= 2 * in_one_statement + 1
    assert [answer.is_ok() for answer in answers] == [True] * 300


@on_both
async def test_what_was_committed_stays_when_the_calls_raise(bench: Bench) -> None:
    mine = LookupError("mine")

    def calls() -> Iterator[tuple[int, int]]:
        for n in range(2 * SEND_ROWS + 500):
            yield n, 0
        raise mine

    async with Runtime(bench.app) as rt:
        with pytest.raises(LookupError) as caught:
            await bench.add.handle(rt).send_many(calls())
        assert caught.value is mine
        assert await stored(rt) in (SEND_ROWS, 2 * SEND_ROWS)


@on_both
async def test_what_was_committed_stays_when_send_many_is_cancelled(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        with held_up(bench.app.config):
            async with anyio.create_task_group() as group:
                group.start_soon(add.send_many, Calls(20_000))
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
        (await add.send(1, 2)).unwrap()  # behind the one statement that was under way
        assert await stored(rt) == SEND_ROWS + 1


@on_both
async def test_a_single_send_does_not_wait_for_the_end_of_send_many(bench: Bench) -> None:
    calls = Calls(20_000)
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        async with sending(add, calls):
            async with anyio.create_task_group() as group:
                with held_up(bench.app.config):
                    await anyio.wait_all_tasks_blocked()
                    group.start_soon(add.send, 1, 2)
                    await anyio.wait_all_tasks_blocked()
            assert calls.read <= 5 * SEND_ROWS


@on_both
async def test_ten_thousand_senders_wait_and_nothing_is_lost(bench: Bench) -> None:
    answers: list[Any] = []
    async with Runtime(bench.app) as rt:

        async def send(n: int) -> None:
            answers.append((await bench.add.handle(rt).send(n, 0)).unwrap())

        async with anyio.create_task_group() as staying:
            with held_up(bench.app.config):
                for n in range(10_000):
                    staying.start_soon(send, n)
                await anyio.wait_all_tasks_blocked()
                async with anyio.create_task_group() as leaving:
                    for n in range(1_000):
                        leaving.start_soon(send, n)
                    await anyio.wait_all_tasks_blocked()
                    leaving.cancel_scope.cancel()
                assert answers == []
                assert payloads() == 10_000
        assert len({handle.task_id for handle in answers}) == 10_000
        assert await stored(rt) == 10_000


@on_postgres
async def test_send_many_in_a_transaction_leaves_the_connection_to_the_calls(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        with psycopg.connect(bench.app.config.url) as connection:

            def calls() -> Iterator[tuple[int, int]]:
                for n in range(2 * SEND_ROWS + 500):
                    assert connection.info.transaction_status is not psycopg.pq.TransactionStatus.ACTIVE
                    yield n, 0

            answers = await bench.add.handle(rt).using(connection).send_many(calls())
            assert all(answer.is_ok() for answer in answers)
            assert await stored(rt) == 0
        assert await stored(rt) == len(answers) == 2 * SEND_ROWS + 500


@on_postgres
async def test_one_failure_in_a_transaction_fails_all_of_send_many(bench: Bench) -> None:
    config = bench.app.config
    async with Runtime(bench.app) as rt:
        with psycopg.connect(config.url) as owner:
            owner.execute(f"ALTER TABLE {config.schema}.tasks ADD CHECK (length(envelope) < 5000)".encode())
        texts: list[Any] = [("small",)] * (3 * SEND_ROWS)
        texts[SEND_ROWS + 500] = ("x" * 10_000,)
        texts[7] = (7,)
        with psycopg.connect(config.url) as connection:
            answers = await bench.tasks["in_thread"].handle(rt).using(connection).send_many(texts)
            assert len(answers) == len(texts)
            errors = [answer.unwrap_err() for answer in answers]
            assert errors.pop(7).code is TaskSendErrorCode.VALIDATION_FAILED
            assert {error.code for error in errors} == {TaskSendErrorCode.ENQUEUE_FAILED}
            assert len({error.task_id for error in errors}) == len(errors)
            assert [error.payload is None for error in errors] == [n < SEND_ROWS - 1 for n in range(len(errors))]
            connection.rollback()
        assert await stored(rt) == 0


@on_postgres
async def test_send_many_sends_again_what_a_lost_connection_cut_off(bench: Bench) -> None:
    app = Horsies(replace(bench.app.config, resend_on_transient_err=True))
    app.include(bench.add)
    cuts = []

    def calls() -> Iterator[tuple[int, int]]:
        for n in range(5 * SEND_ROWS):
            if n % (2 * SEND_ROWS) == SEND_ROWS + 500:
                with psycopg.connect(app.config.url, application_name="test") as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'horsies'"
                    )
                cuts.append(n)
            yield n, 0

    async with Runtime(app) as rt:
        answers = await bench.add.handle(rt).send_many(calls())
        assert len(cuts) == 2
        assert len({answer.unwrap().task_id for answer in answers}) == 5 * SEND_ROWS
    assert count(app.config) == 5 * SEND_ROWS


@on_both
async def test_a_blocking_send_many_reads_in_its_own_thread(bench: Bench, anyio_backend_name: str) -> None:
    threads = set[int]()
    calls = Calls(5_000)

    def noted() -> Iterator[tuple[Any, ...]]:
        for call in calls:
            threads.add(threading.get_ident())
            yield call

    def program() -> None:
        with blocking(bench.app, backend=anyio_backend_name) as rt:
            answers = bench.add.handle(rt).send_many(noted())
            assert len({answer.unwrap().task_id for answer in answers}) == 5_000
            assert threads == {threading.get_ident()}
            with pytest.raises(LookupError, match="mine"):
                bench.add.handle(rt).send_many(failing())

    def failing() -> Iterator[tuple[int, int]]:
        yield 1, 2
        raise LookupError("mine")

    await anyio.to_thread.run_sync(program)
    assert calls.most_alive <= 3 * SEND_ROWS + SEAL_BATCH
