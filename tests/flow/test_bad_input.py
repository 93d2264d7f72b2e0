"""Every refusal of the contract that a sender or a worker can meet: clear, and nothing lost."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import psycopg
import pytest

import horsies
from horsies import (
    AppConfig,
    Err,
    Horsies,
    HorsiesError,
    Ok,
    PayloadPolicy,
    RecoveryConfig,
    RetryPolicy,
    Runtime,
    TaskError,
    TaskFunction,
    TaskSendErrorCode,
    TaskSendOptions,
    TaskStatus,
    WorkerConfig,
)

from .conftest import Bench

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)
two_ways_in = pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
"""A database in memory belongs to one runtime, and cannot be changed behind its back."""
SECRET = "hunter2-in-an-argument"


async def refused(sending: Any) -> str:
    error = (await sending).unwrap_err()
    assert error.code is TaskSendErrorCode.VALIDATION_FAILED
    assert not error.retryable
    assert SECRET not in repr(error)
    assert SECRET not in str(error)
    return str(error)


async def test_calls_that_do_not_fit_are_refused_before_any_io(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add: TaskFunction[..., int] = bench.add.handle(rt)
        assert "'b'" in await refused(add.send(1))
        assert "too many" in await refused(add.send(1, 2, 3))
        assert "argument 'a'" in await refused(add.send(SECRET, 2))
        assert "argument 'b'" in await refused(add.send(1, True))
        assert "64 bits" in await refused(add.send(1, 2**70))
        assert "argument 'a'" in await refused(add.send(object(), 2))
        assert "surrogate" in await refused(bench.tasks["raises"].handle(rt).send("\ud800"))


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "1", None, timedelta(seconds=-1), True])
async def test_a_delay_is_seconds_from_zero(bench: Bench, delay: Any) -> None:
    async with Runtime(bench.app) as rt:
        assert "delay" in await refused(bench.add.handle(rt).schedule(delay, 1, 2))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("good_until", datetime(2030, 1, 1)),  # naive
        ("good_until", "tomorrow"),
        ("queue", "nowhere"),
        ("priority", 0),
        ("priority", 101),
        ("priority", True),
        ("timeout", 0),
        ("timeout", -1.0),
        ("retry", "no_such_policy"),
        ("retry", 3),
        ("metadata", {"n": 1}),
        ("unique_key", ""),
    ],
)
async def test_bad_options_are_refused_at_the_send_and_not_before(bench: Bench, option: str, value: Any) -> None:
    async with Runtime(bench.app) as rt:
        bound = bench.add.handle(rt).with_options(TaskSendOptions(**{option: value}))
        assert option in await refused(bound.send(1, 2))


async def test_payloads_over_the_limit_are_refused_and_large_ones_noticed(
    config: AppConfig, caplog: pytest.LogCaptureFixture
) -> None:
    app = Horsies(replace(config, payload=PayloadPolicy(warn_bytes=500, reject_bytes=5_000)))

    @app.task
    async def echo(text: str) -> int:
        return len(text)

    async with Runtime(app) as rt:
        assert "reject_bytes" in await refused(echo.handle(rt).send(SECRET * 1_000))
        with caplog.at_level(logging.WARNING, "horsies.send"):
            assert (await echo.handle(rt).send(SECRET * 30)).is_ok()
    assert "payload of" in caplog.text
    assert SECRET not in caplog.text


async def test_sends_are_suppressed_on_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORSIES_SUPPRESS_SENDS", "1")
    async with Runtime(bench.app) as rt:
        error = (await bench.add.handle(rt).send(1, 2)).unwrap_err()
        assert error.code is TaskSendErrorCode.SEND_SUPPRESSED
        assert error.task_id is not None
        assert await rt.handle(error.task_id).info() == Ok(None)
        many = await bench.add.handle(rt).send_many([(1, 2), (3, 4)])
        assert [one.unwrap_err().code for one in many] == [TaskSendErrorCode.SEND_SUPPRESSED] * 2
        replayed = (await bench.add.handle(rt).retry_send(error)).unwrap_err()
        assert (replayed.code, replayed.retryable) == (TaskSendErrorCode.SEND_SUPPRESSED, False)
        monkeypatch.setenv("HORSIES_SUPPRESS_SENDS", "0")
        sent = (await bench.add.handle(rt).retry_send(error)).unwrap()
        assert sent.task_id == error.task_id


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_sends_in_a_transaction_are_suppressed_on_request(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORSIES_SUPPRESS_SENDS", "1")
    async with Runtime(bench.app) as rt:
        async with rt.transaction() as connection:
            error = (await bench.add.handle(rt).using(connection).send(1, 2)).unwrap_err()
        assert error.code is TaskSendErrorCode.SEND_SUPPRESSED
        assert error.task_id is not None
        assert await rt.handle(error.task_id).info() == Ok(None)


async def test_no_argument_and_no_password_shows_anywhere(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with Runtime(bench.app) as rt:
            function = bench.tasks["raises"].handle(rt)
            handle = (await function.send(SECRET)).unwrap()
            await rt.run_worker(UNTIL_IDLE)
            await handle.get()
            shown = f"{handle!r} {function!r} {rt!r} {bench.app!r}"
    assert "UNHANDLED_ERROR" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in shown
    config = AppConfig.for_database_url("postgresql://me:pass-word-1@db/app?password=pass-word-2")
    for text in (repr(config), str(config), config.masked_url, repr(Horsies(config))):
        assert "pass-word" not in text


def overwrite(config: AppConfig, task_id: str, column: str, value: bytes) -> None:
    """Change a stored row behind everybody's back."""
    if config.url.startswith("sqlite"):
        with closing(sqlite3.connect(config.url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(f"UPDATE tasks SET {column} = ? WHERE id = ?", (value, task_id))
    else:
        with psycopg.connect(config.url) as connection:
            connection.execute(f'UPDATE "{config.schema}".tasks SET {column} = %s WHERE id = %s', (value, task_id))


@two_ways_in
async def test_a_corrupt_row_fails_alone(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        handles = [(await add.send(n, 1)).unwrap() for n in range(5)]
        overwrite(bench.app.config, handles[1].task_id, "envelope", b"garbage")
        overwrite(bench.app.config, handles[3].task_id, "sha", b"\0" * 32)
        await rt.run_worker(UNTIL_IDLE)
        results = [await handle.get(timeout=10) for handle in handles]
        assert [r.unwrap() for r in (results[0], results[2], results[4])] == [1, 3, 5]
        for broken in (results[1], results[3]):
            assert broken.unwrap_err().code == "WORKER_SERIALIZATION_ERROR"


@two_ways_in
async def test_an_unreadable_result_is_an_error_of_get(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).send(1, 1)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        overwrite(bench.app.config, handle.task_id, "result", b"garbage")
        assert (await handle.get(timeout=10)).unwrap_err().code == "RESULT_DESERIALIZATION_ERROR"


def two_versions(config: AppConfig, **recovery: float) -> tuple[Horsies, Horsies]:
    """The sender's application knows more than the worker's."""
    config = replace(config, recovery=RecoveryConfig(**recovery))
    return Horsies(config), Horsies(config)


@two_ways_in
async def test_a_task_unknown_to_the_worker_is_passed_on_and_fails_after_its_grace(config: AppConfig) -> None:
    sender, worker = two_versions(config, resolution_grace=0.3)

    @sender.task
    async def news(n: int) -> int:
        return n

    async with Runtime(sender) as sending, Runtime(worker) as working:
        handle = (await news.handle(sending).send(1)).unwrap()
        await working.run_worker(UNTIL_IDLE)
        info = (await handle.info()).unwrap()
        assert info is not None
        assert info.status is TaskStatus.PENDING
        assert info.attempt == 0
        working.start_worker()
        assert (await handle.get(timeout=20)).unwrap_err().code == "WORKER_RESOLUTION_ERROR"


@two_ways_in
async def test_arguments_of_another_version_are_a_type_mismatch(config: AppConfig) -> None:
    sender, worker = two_versions(config)

    @sender.task("count")
    async def old(n: str) -> int:
        return len(n)

    @worker.task("count")
    async def new(n: int) -> int:
        return n

    async with Runtime(sender) as sending, Runtime(worker) as working:
        handle = (await old.handle(sending).send("abc")).unwrap()
        await working.run_worker(UNTIL_IDLE)
        assert (await handle.get(timeout=10)).unwrap_err().code == "ARGUMENT_TYPE_MISMATCH"


async def test_a_worker_for_an_unknown_queue_is_refused(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        with pytest.raises(HorsiesError, match=r"HRS-215.*'nowhere'"):
            rt.start_worker(WorkerConfig(queues=("nowhere",)))


class TestDeclaring:
    """All of it without a database."""

    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

    def test_everything_wrong_is_said_at_once(self) -> None:
        with pytest.raises(HorsiesError) as caught:

            @horsies.task("t", priority=0, retry_for=("lower", "UNHANDLED_ERROR"), timeout=-1)
            async def wrong(a, *rest: int) -> dict[int, str]:
                return {}

        codes = [problem.code for problem in caught.value.problems]
        assert codes.count("HRS-105") == 2
        assert codes.count("HRS-102") == 4
        assert codes.count("HRS-101") == 1
        assert "'a'" in str(caught.value)

    def test_a_name_of_horsies_own(self) -> None:
        with pytest.raises(
            HorsiesError, match=r"HRS-102.*'horsies\.map': names that begin with 'horsies\.' are those of"
        ):
            horsies.task("horsies.map")(lambda: None)
        assert horsies.task("horsies")(lambda: None).name == "horsies"

    def test_a_duplicate_name(self) -> None:
        app = Horsies(self.app.config)

        @app.task("twice")
        async def one() -> None: ...

        with pytest.raises(HorsiesError, match="HRS-301"):

            @app.task("twice")
            async def two() -> None: ...

    def test_an_unknown_queue(self) -> None:
        with pytest.raises(HorsiesError, match="HRS-103"):

            @self.app.task("t", queue="nowhere")
            async def one() -> None: ...

    def test_a_task_declared_twice(self) -> None:
        @horsies.task
        async def one() -> None: ...

        with pytest.raises(HorsiesError, match="HRS-104"):
            horsies.task(one)

    def test_a_module_is_included_whole(self) -> None:
        module = ModuleType("tasks")

        @horsies.task
        async def one() -> None: ...

        module.one = one
        app = Horsies(self.app.config)
        app.include(module)
        assert app.tasks == {"one": one}

    @pytest.mark.parametrize("code", ["lower", "UNHANDLED_ERROR", "", "SPA CE", "9LIVES"])
    def test_reserved_and_malformed_codes(self, code: str) -> None:
        with pytest.raises(HorsiesError, match="HRS-212"):
            TaskError(code)

    def test_policies_without_sense(self) -> None:
        for make in (
            lambda: RetryPolicy.fixed([]),
            lambda: RetryPolicy.fixed([0]),
            lambda: RetryPolicy.fixed([1] * 21),
            lambda: RetryPolicy.exponential(base=-1),
            lambda: RetryPolicy.exponential(max_retries=0),
        ):
            with pytest.raises(HorsiesError, match="HRS-102"):
                make()


async def test_an_unknown_scheme_serializer_or_policy_fails_at_opening(config: AppConfig) -> None:
    app = Horsies(replace(config, url="mysql://localhost/x", serializer="pickle"))

    @app.task("t", retry="no_such_policy")
    async def one() -> None: ...

    with pytest.raises(HorsiesError) as caught:
        async with Runtime(app):
            pass
    assert [problem.code for problem in caught.value.problems] == ["HRS-217"] * 3
    assert "sqlite" in str(caught.value)
    assert "msgpack" in str(caught.value)


async def test_a_misspelt_hook_fails_at_opening(config: AppConfig) -> None:
    class Plugin:
        @horsies.hookimpl
        def horsies_serialisers(self) -> dict[str, object]:
            return {}

    with pytest.raises(HorsiesError, match=r"HRS-217.*horsies_serialisers"):
        async with Runtime(Horsies(config, plugins=[Plugin()])):
            pass


async def test_two_plugins_with_one_name_clash_and_one_can_be_blocked(config: AppConfig) -> None:
    class Plugin:
        @horsies.hookimpl
        def horsies_serializers(self) -> dict[str, object]:
            return {"json": object()}

    with pytest.raises(HorsiesError, match=r"HRS-217.*'json'"):
        async with Runtime(Horsies(config, plugins=[Plugin()])):
            pass


async def test_a_registered_retry_policy_is_obeyed(config: AppConfig) -> None:
    class Twice:
        def delay(self, retry: int, error: TaskError) -> float | None:
            return 0.01 if retry <= 2 else None

    class Plugin:
        @horsies.hookimpl
        def horsies_retry_policies(self) -> dict[str, Twice]:
            return {"twice": Twice()}

    app = Horsies(config, plugins=[Plugin()])
    attempts: list[int] = []

    @app.task("flaky", retry="twice")
    async def flaky(ctx: horsies.TaskContext) -> int:
        attempts.append(ctx.attempt)
        raise TaskError("NOT_YET")

    async with Runtime(app) as rt:
        rt.start_worker()
        handle = (await flaky.handle(rt).send()).unwrap()
        assert (await handle.get(timeout=20)) == Err(TaskError("NOT_YET"))
        info = (await handle.info(include_attempts=True)).unwrap()
        assert info is not None
        assert [attempt.error.code for attempt in info.attempts] == ["NOT_YET", "NOT_YET"]
    assert attempts == [1, 2, 3]


async def test_dates_out_of_range_are_refused(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        options = TaskSendOptions(good_until=datetime.max.replace(tzinfo=UTC))
        assert (await bench.add.handle(rt).with_options(options).send(1, 2)).is_ok()
