"""Instants at the ends of the calendar and spans without end: refused at the send, or read again everywhere."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from horsies import (
    AppConfig,
    Every,
    Horsies,
    NodeRef,
    Ok,
    Runtime,
    TaskError,
    TaskSendErrorCode,
    TaskSendOptions,
    TaskSendPayload,
    WorkerConfig,
    WorkflowBuilder,
    WorkflowStartPayload,
    hookimpl,
)

from .conftest import Bench

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)
REFUSED = TaskSendErrorCode.VALIDATION_FAILED
FAR = datetime.max.replace(tzinfo=ZoneInfo("America/New_York"))
EARLY = datetime.min.replace(tzinfo=ZoneInfo("Europe/Paris"))
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (TaskSendOptions(good_until=FAR), "good_until is beyond the calendar"),
        (TaskSendOptions(good_until=EARLY), "good_until is beyond the calendar"),
        (TaskSendOptions(timeout=timedelta.max), "timeout is too long"),
        (TaskSendOptions(timeout=float("nan")), "timeout is not"),
        (TaskSendOptions(timeout=1e15), "timeout is"),
        (TaskSendOptions(metadata={"a": "\ud800"}), "metadata holds text"),
        (None, "with_options() takes TaskSendOptions, and got NoneType"),
        ({"priority": 1}, "with_options() takes TaskSendOptions, and got dict"),
    ],
)
async def test_an_option_out_of_range_is_refused_at_the_send(bench: Bench, options: Any, why: str) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt).with_options(options)
        many = await add.send_many([(1, 2)])
        for answer in (await add.send(1, 2), await add.schedule(1, 1, 2), *many):
            error = answer.unwrap_err()
            assert error.code is REFUSED
            assert why in error.message


@pytest.mark.parametrize(
    "delay", [timedelta(days=365 * 8_000), timedelta.max, timedelta.min, 1e15, 1e300, float("nan"), True, "1"]
)
async def test_a_delay_out_of_range_is_refused_at_the_send(bench: Bench, delay: Any) -> None:
    async with Runtime(bench.app) as rt:
        error = (await bench.add.handle(rt).schedule(delay, 1, 2)).unwrap_err()
        assert error.code is REFUSED
        assert error.message.startswith("task 'add': delay is ")


async def test_the_longest_delay_can_be_looked_at(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        handle = (await bench.add.handle(rt).schedule(timedelta(days=365_000), 1, 2)).unwrap()
        assert (await handle.info()).unwrap().due_at.year > 3000


def with_field(payload: TaskSendPayload, index: int, value: object) -> TaskSendPayload:
    fields = msgspec.msgpack.decode(payload.envelope)
    fields[index] = value
    data = msgspec.msgpack.encode(fields)
    return TaskSendPayload(data, hashlib.sha256(data).hexdigest())


async def test_a_payload_out_of_range_is_not_replayed(bench: Bench) -> None:
    async with Runtime(bench.app) as rt:
        add = bench.add.handle(rt)
        made: list[TaskSendPayload] = []

        async def keep(rows: Any, **_: Any) -> Any:
            made.extend(TaskSendPayload(row.envelope, row.sha.hex()) for row in rows)
            raise ValueError("kept")

        rt._engine.submit = keep  # type: ignore[method-assign]
        await add.send(1, 2)
        await add.schedule(5, 1, 2)
        now, later = made
        for index, value in ((7, 2**62), (9, 2**62), (9, -(2**62)), (10, 2**63 - 1)):
            error = (await add.retry_send(with_field(now, index, value))).unwrap_err()
            assert error.code is REFUSED
        error = (await add.retry_schedule(with_field(later, 8, 2**62))).unwrap_err()
        assert error.code is REFUSED
        assert "1,000 years" in error.message


@on_postgres
async def test_the_ends_of_the_calendar_are_read_in_any_time_zone(database_url: str, schema: str) -> None:
    joint = "&" if "?" in database_url else "?"
    for zone in ("Asia/Tokyo", "America/New_York"):
        url = f"{database_url}{joint}options=-c%20TimeZone%3D{zone}"
        app = Horsies(AppConfig.for_database_url(url, schema=schema))

        @app.task("echo")
        async def echo(n: int) -> int:
            return n

        @app.workflow("w")
        def w(wf: WorkflowBuilder) -> NodeRef[int]:
            return wf.task(echo.node(1).good_until(datetime.max.replace(tzinfo=UTC)))

        async with Runtime(app) as rt:
            for end in (datetime.min, datetime.max):
                at = end.replace(tzinfo=UTC)
                handle = (await echo.handle(rt).with_options(TaskSendOptions(good_until=at)).send(1)).unwrap()
                assert (await handle.info()).unwrap().good_until == at
                await rt.run_worker(UNTIL_IDLE)
                assert (await handle.get(timeout=5)).is_ok() is (end is datetime.max)
            run = (await w.handle(rt).good_until(datetime.max.replace(tzinfo=UTC)).start()).unwrap()
            assert (await run.info()).unwrap().good_until == datetime.max.replace(tzinfo=UTC)
            await rt.run_worker(UNTIL_IDLE)
            assert await run.get(timeout=5) == Ok(1)


async def test_a_workflow_beyond_the_calendar_is_refused_at_its_start(bench: Bench) -> None:
    app = bench.app

    @app.workflow("whole")
    def whole(wf: WorkflowBuilder) -> NodeRef[int]:
        return wf.task(bench.add.node(1, 2))

    @app.workflow("node")
    def node(wf: WorkflowBuilder, far: bool) -> NodeRef[int]:
        one = bench.add.node(1, 2)
        return wf.task(one.good_until(FAR) if far else one.timeout(timedelta.max))

    built = WorkflowBuilder("w")
    built.task(bench.add.node(1, 2))
    async with Runtime(app) as rt:
        answers = [
            await whole.handle(rt).good_until(FAR).start(),
            await whole.handle(rt).good_until(EARLY).start(),
            await whole.handle(rt).good_until(datetime(2026, 1, 1)).start(),
            await node.handle(rt).start(True),
            await node.handle(rt).start(False),
            await rt.start(built.build(), good_until=FAR),
        ]
        assert {answer.unwrap_err().code for answer in answers} == {REFUSED}
        fields = (1, "0" * 8 + "-0000-7000-8000-" + "0" * 12, b"", "whole", 1, b"", 2**62, None)
        data = msgspec.msgpack.encode(fields)
        payload = WorkflowStartPayload(data, hashlib.sha256(data).hexdigest())
        assert (await whole.handle(rt).retry_start(payload)).unwrap_err().code is REFUSED


@pytest.mark.parametrize("delay", [float("nan"), float("inf"), 1e300, 10**400, timedelta(seconds=1), -1])
async def test_a_policy_that_gives_no_delay_ends_the_task(config: AppConfig, delay: Any) -> None:
    class Policy:
        def delay(self, retry: int, error: TaskError) -> Any:
            return delay

    class Plugin:
        @hookimpl
        def horsies_retry_policies(self) -> dict[str, Any]:
            return {"odd": Policy()}

    app = Horsies(config, plugins=[Plugin()])

    @app.task("fails", retry="odd", retry_for=("NO", "WORKER_CRASHED"))
    async def fails() -> None:
        raise TaskError("NO")

    async with Runtime(app) as rt:
        handle = (await fails.handle(rt).send()).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert (await handle.get(timeout=5)).unwrap_err().code == "NO"


async def test_a_backfill_takes_the_ends_of_the_calendar_for_a_range(bench: Bench) -> None:
    app = bench.app
    app.schedule("often", bench.add, Every(timedelta(days=365 * 20)), args=(1, 2))
    async with Runtime(app) as rt:
        assert (await rt.backfill_schedule("often", EARLY, FAR)).unwrap().sent >= 3
        with pytest.raises(ValueError, match="time zone"):
            await rt.backfill_schedule("often", datetime(2026, 1, 1), FAR)
