"""Sends that are more than one row of their own: unique keys, batches, and the caller's transaction."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest
import sqlalchemy

from horsies import (
    AppConfig,
    Horsies,
    HorsiesError,
    Ok,
    Runtime,
    TaskFunction,
    TaskHandle,
    TaskSendErrorCode,
    TaskSendOptions,
    TaskStatus,
    WorkerConfig,
)
from horsies._send import batcher

from .conftest import Bench

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def keyed(function: TaskFunction[Any, Any], key: str) -> TaskFunction[Any, Any]:
    return function.with_options(TaskSendOptions(unique_key=key))


def count(config: AppConfig, where: str = "true") -> int:
    """How many committed tasks there are."""
    with psycopg.connect(config.url) as connection:
        row = connection.execute(f"SELECT count(*) FROM {config.schema}.tasks WHERE {where}".encode()).fetchone()
    assert row is not None
    found: int = row[0]
    return found


async def test_one_unfinished_task_for_each_key(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add, say = keyed(bench.add.handle(rt), "k"), keyed(bench.tasks["say"].handle(rt), "k")
        first = (await add.send(1, 2)).unwrap()
        second = (await add.send(3, 4)).unwrap()
        assert (first.deduplicated, second.deduplicated) == (False, True)
        assert second.task_id == first.task_id
        assert not (await say.send()).unwrap().deduplicated
        await rt.run_worker(UNTIL_IDLE)
        assert await second.get(timeout=10) == Ok(3)
        third = (await add.send(5, 6)).unwrap()
        assert not third.deduplicated
        assert third.task_id != first.task_id


async def test_many_concurrent_senders_of_one_key_give_one_task(bench: Bench) -> None:
    found: list[Any] = []
    async with Runtime(bench.app) as rt, anyio.create_task_group() as group:

        async def send() -> None:
            found.append((await keyed(bench.add.handle(rt), "k").send(1, 2)).unwrap())

        for _ in range(50):
            group.start_soon(send)
    assert len({handle.task_id for handle in found}) == 1
    assert sum(not handle.deduplicated for handle in found) == 1


PROGRAM = """
import json, sys, anyio
from horsies import AppConfig, Horsies, Runtime, TaskSendOptions
url, schema, backend = sys.argv[1:]
app = Horsies(AppConfig.for_database_url(url, schema=schema))

@app.task("add")
async def add(a: int, b: int) -> int: ...

async def main():
    found = []
    async with Runtime(app) as rt, anyio.create_task_group() as group:
        async def send():
            handle = (await add.handle(rt).with_options(TaskSendOptions(unique_key="k")).send(1, 2)).unwrap()
            found.append((handle.task_id, handle.deduplicated))
        for _ in range(10):
            group.start_soon(send)
    print(json.dumps(found))

anyio.run(main, backend=backend)
"""


@on_postgres
async def test_fifty_senders_in_five_processes_give_one_task(bench: Bench) -> None:
    async with Runtime(bench.app):
        pass  # so that the schema is there
    config = bench.app.config
    command = [sys.executable, "-c", PROGRAM, config.url, config.schema]
    answers: list[Any] = []

    async def run(backend: str) -> None:
        done = await anyio.run_process([*command, backend])
        answers.extend(json.loads(done.stdout))

    async with anyio.create_task_group() as group:
        for backend in ("trio", "asyncio", "trio", "asyncio", "trio"):
            group.start_soon(run, backend)
    assert len(answers) == 50
    assert len({task_id for task_id, _ in answers}) == 1
    assert sum(not deduplicated for _, deduplicated in answers) == 1
    assert count(config) == 1


async def test_send_many_answers_each_call_in_order(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        calls: list[Any] = [(n, n) for n in range(2_500)]
        calls[7] = {"a": 7, "b": 7}
        calls[8], calls[9], calls[10] = ("no", 1), {"a": 1, "c": 2}, [1, 2]
        answers = await add.send_many(calls)
        assert len(answers) == len(calls)
        refused = [index for index, answer in enumerate(answers) if answer.is_err()]
        assert refused == [8, 9, 10]
        assert {answers[index].unwrap_err().code for index in refused} == {TaskSendErrorCode.VALIDATION_FAILED}
        assert await add.send_many([]) == []
        await rt.run_worker(UNTIL_IDLE)
        assert await answers[7].unwrap().get(timeout=20) == Ok(14)
        assert await answers[-1].unwrap().get(timeout=20) == Ok(2 * 2_499)


async def test_send_many_with_one_key_gives_one_task(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handles = [
            answer.unwrap() for answer in await keyed(bench.add.handle(rt), "k").send_many([(1, 1), (2, 2), (3, 3)])
        ]
        assert [handle.deduplicated for handle in handles] == [False, True, True]
        assert len({handle.task_id for handle in handles}) == 1


@on_postgres
async def test_send_many_is_a_thousand_to_a_statement(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    async with Runtime(bench.app) as rt:
        write = batcher.Lane._write

        async def counted(self: Any, producer: Any, rows: Any, returning: Any) -> None:
            sizes.append(len(rows))
            await write(self, producer, rows, returning)

        monkeypatch.setattr(batcher.Lane, "_write", counted)
        assert all(answer.is_ok() for answer in await bench.add.handle(rt).send_many([(1, 1)] * 2_500))
    assert sizes == [1_000, 1_000, 500]


@on_postgres
@pytest.mark.parametrize(("senders", "together"), [(batcher.CROWD - 1, 1), (batcher.CROWD, 2)])
async def test_two_write_where_many_send_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, senders: int, together: int
) -> None:
    batches: list[tuple[Any, int]] = []
    all_taken = anyio.Event()
    write = batcher.Lane._write

    async def held(self: Any, producer: Any, rows: Any, returning: Any) -> None:
        batches.append((producer, len(rows)))
        if sum(size for _, size in batches) == senders:
            all_taken.set()
        await all_taken.wait()  # a writer that is quick would take both halves
        await write(self, producer, rows, returning)

    monkeypatch.setattr(batcher.Lane, "_write", held)
    with anyio.fail_after(20):
        async with Runtime(bench.app) as rt, anyio.create_task_group() as group:
            for n in range(senders):
                group.start_soon(bench.add.handle(rt).send, n, n)
    assert len({producer for producer, _ in batches}) == len(batches) == together


@on_postgres
async def test_the_second_writer_keeps_what_belongs_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = batcher.Lane._write

    async def counted(self: Any, producer: Any, rows: Any, returning: Any) -> None:
        sizes.append(len(rows))
        await write(self, producer, rows, returning)

    monkeypatch.setattr(batcher.Lane, "_write", counted)
    async with Runtime(bench.app) as rt, anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(bench.add.handle(rt).send_many, [(1, 1)] * 30)
    assert sizes == [60, 60]


@on_postgres
@pytest.mark.parametrize("end", ["commit", "rollback", "savepoint"])
async def test_a_send_in_a_transaction_is_there_with_its_commit(bench: Bench, end: str) -> None:
    config = bench.app.config
    async with Runtime(bench.app) as rt:
        add, handle = bench.add.handle(rt), None
        try:
            async with rt.transaction() as connection:
                if end == "savepoint":
                    try:
                        async with connection.transaction():
                            (await add.using(connection).send(9, 9)).unwrap()
                            raise ArithmeticError
                    except ArithmeticError:
                        pass
                handle = (await add.using(connection).send(1, 2)).unwrap()
                assert count(config) == 0
                assert (await handle.info()) == Ok(None)
                if end == "rollback":
                    raise ArithmeticError
        except ArithmeticError:
            assert end == "rollback"
        assert count(config) == (0 if end == "rollback" else 1)
        if end != "rollback":
            await rt.run_worker(UNTIL_IDLE)
            assert await handle.get(timeout=10) == Ok(3)


@on_postgres
async def test_a_worker_hears_of_a_send_with_the_commit(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        rt.start_worker()
        async with rt.transaction() as connection:
            handle = (await bench.add.handle(rt).using(connection).send(1, 2)).unwrap()
            await anyio.lowlevel.checkpoint()
            assert count(bench.app.config, "status <> 'PENDING'") == 0
        with anyio.fail_after(4):  # the poll interval is 5 s
            assert await handle.get() == Ok(3)


async def sent_twice(rt: Runtime, bench: Bench, connection: object) -> TaskHandle[int]:
    """Send with one key twice in the transaction of `connection`; the second one's handle."""
    add = keyed(bench.add.handle(rt), "k").using(connection)
    assert not (await add.send(1, 2)).unwrap().deduplicated
    again = (await add.send(1, 2)).unwrap()
    assert again.deduplicated
    assert count(bench.app.config) == 0
    return again


@on_postgres
async def test_a_sync_connection_of_the_caller(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        with psycopg.connect(bench.app.config.url, row_factory=psycopg.rows.dict_row) as connection:
            handle = await sent_twice(rt, bench, connection)
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(3)


@on_postgres
async def test_a_connection_of_the_caller_beneath_sqlalchemy(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        engine = sqlalchemy.create_engine(bench.app.config.url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
            handle = await sent_twice(rt, bench, connection.connection.driver_connection)
        engine.dispose()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(3)


@on_postgres
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # psycopg's own async connection knows no other loop
async def test_an_async_connection_of_the_caller(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        async with await psycopg.AsyncConnection.connect(bench.app.config.url) as connection:
            handle = await sent_twice(rt, bench, connection)
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(3)


@on_postgres
async def test_what_cannot_be_joined_is_refused_at_the_send(bench: Bench) -> None:
    config = bench.app.config
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        closed = psycopg.connect(config.url)
        closed.close()
        with psycopg.connect(config.url, autocommit=True) as open_ended:
            for connection, why in ((42, "not a psycopg"), (closed, "closed"), (open_ended, "autocommit")):
                error = (await add.using(connection).send(1, 2)).unwrap_err()
                assert error.code is TaskSendErrorCode.VALIDATION_FAILED
                assert why in error.message
            with open_ended.transaction():
                assert (await add.using(open_ended).send(1, 2)).is_ok()
        assert count(config) == 1


@on_postgres
async def test_an_error_in_a_transaction_is_not_sent_again(bench: Bench) -> None:
    app = Horsies(replace(bench.app.config, resend_on_transient_err=True))
    app.include(bench.add)
    async with Runtime(app) as rt:
        with psycopg.connect(app.config.url) as connection:
            with pytest.raises(psycopg.errors.DivisionByZero):
                connection.execute("SELECT 1 / 0")
            many = await bench.add.handle(rt).using(connection).send_many([(1, 2), (3, 4)])
            assert {answer.unwrap_err().code for answer in many} == {TaskSendErrorCode.ENQUEUE_FAILED}
            connection.rollback()
            error = many[0].unwrap_err()
            assert (await bench.add.handle(rt).using(connection).retry_send(error)).is_ok()
        assert count(app.config) == 1


@on_postgres
async def test_a_send_that_waits_too_long_in_a_transaction_ends_in_an_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horsies.plugins.postgres.caller_transaction.PATIENCE", 0.2)
    async with Runtime(bench.app) as rt:
        add = keyed(bench.add.handle(rt), "k")
        with psycopg.connect(bench.app.config.url) as holder, psycopg.connect(bench.app.config.url) as waiter:
            (await add.using(holder).send(1, 2)).unwrap()
            error = (await add.using(waiter).send(1, 2)).unwrap_err()
            assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, True)
            assert waiter.info.transaction_status == psycopg.pq.TransactionStatus.INERROR


@pytest.mark.parametrize("database_url", ["sqlite-memory"], indirect=True)
async def test_sqlite_takes_no_part_in_transactions(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        error = (await bench.add.handle(rt).using(object()).send(1, 2)).unwrap_err()
        assert error.code is TaskSendErrorCode.VALIDATION_FAILED
        assert "transactions" in error.message
        with pytest.raises(HorsiesError, match="transactions"):
            rt.transaction()


@on_postgres
async def test_a_row_behind_an_open_transaction_delays_no_other(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        done: list[str] = []

        async def send(name: str, function: TaskFunction[Any, Any]) -> None:
            (await function.send(1, 2)).unwrap()
            done.append(name)

        with psycopg.connect(bench.app.config.url) as holder:
            (await keyed(add, "stuck").using(holder).send(1, 2)).unwrap()
            async with anyio.create_task_group() as group:
                group.start_soon(send, "stuck", keyed(add, "stuck"))
                async with anyio.create_task_group() as others:
                    for n in range(30):
                        others.start_soon(send, "keyed", keyed(add, f"key {n}"))
                        others.start_soon(send, "plain", add)
                assert sorted(done) == ["keyed"] * 30 + ["plain"] * 30
                holder.commit()
        assert done[-1] == "stuck"
        assert count(bench.app.config, "unique_key = 'stuck'") == 1


@on_postgres
async def test_a_key_that_stays_locked_is_an_error_to_try_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "LOCKED_PAUSES", (0.01, 0.01))
    async with Runtime(bench.app) as rt:
        add = keyed(bench.add.handle(rt), "stuck")
        with psycopg.connect(bench.app.config.url) as holder:
            (await add.using(holder).send(1, 2)).unwrap()
            error = (await add.send(1, 2)).unwrap_err()
            assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, True)
            holder.rollback()
            assert not (await add.retry_send(error)).unwrap().deduplicated
        assert count(bench.app.config) == 1


@on_postgres
async def test_one_guilty_row_fails_alone(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        with psycopg.connect(bench.app.config.url) as connection:
            schema = bench.app.config.schema
            connection.execute(f"ALTER TABLE {schema}.tasks ADD CHECK (queue <> 'images')".encode())
        add = bench.add.handle(rt)
        images = add.with_options(TaskSendOptions(queue="images"))
        answers: dict[int, Any] = {}

        async def send(n: int) -> None:
            answers[n] = await (images if n == 17 else add).send(n, n)

        async with anyio.create_task_group() as group:
            for n in range(40):
                group.start_soon(send, n)
        assert [n for n in answers if answers[n].is_err()] == [17]
        error = answers[17].unwrap_err()
        assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, False)
        assert "23514" in error.message


@on_postgres
async def test_an_oversized_row_stands_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "STATEMENT_BYTES", 10_000)
    batches = []
    async with Runtime(bench.app) as rt:
        take = batcher.Lane._take

        def recorded(self: Any, enough: int) -> Any:
            batch = take(self, enough)
            batches.append([len(row.task.envelope) > 10_000 for row in batch])
            return batch

        monkeypatch.setattr(batcher.Lane, "_take", recorded)
        upper = bench.tasks["in_thread"].handle(rt)
        texts = ["small"] * 5 + ["x" * 20_000] + ["small"] * 5
        assert all(answer.is_ok() for answer in await upper.send_many([(text,) for text in texts]))
    assert [batch for batch in batches if any(batch)] == [[True]]


async def test_a_withdrawn_send_was_never_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Runtime(bench.app) as rt:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bench.add.handle(rt).send(1, 2)
        assert scope.cancelled_caught
        handle = (await bench.add.handle(rt).send(3, 4)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(7)
        info = (await handle.info()).unwrap()
        assert info is not None
        assert info.status is TaskStatus.COMPLETED
        assert rt._engine._batcher._orders == set()
