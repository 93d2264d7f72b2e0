"""How a workflow is started: once for each id and content, after a lost answer, and in a caller's transaction."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import anyio
import psycopg
import pytest

from horsies import (
    AppConfig,
    Err,
    Horsies,
    NodeRef,
    Ok,
    RecoveryConfig,
    Runtime,
    TaskSendErrorCode,
    WorkerConfig,
    Workflow,
    WorkflowBuilder,
    WorkflowStartPayload,
    WorkflowStatus,
    blocking,
)
from horsies._payload.ids import new_task_id
from horsies._payload.start_payload import arguments_sha
from horsies.abc import BrokerError

pytestmark = pytest.mark.anyio
on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

UNTIL_IDLE = WorkerConfig(until_idle=True)


@dataclass
class Desk:
    """An application with a workflow that is built differently each time."""

    app: Horsies
    greet: Workflow[[str, int], str]
    other: Workflow[[], str]
    built: list[str] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)


@pytest.fixture
def desk(config: AppConfig) -> Desk:
    recovery = RecoveryConfig(heartbeat_interval=0.25, dead_after=2.0, reap_interval=0.25)
    app = Horsies(replace(config, recovery=recovery, resend_on_transient_err=False))

    @app.task
    async def say(name: str, token: str) -> str:
        desk.ran.append(token)
        return f"hello {name}"

    @app.task
    async def wait() -> str:
        await anyio.sleep_forever()
        return ""

    @app.workflow("greet")
    def greet(wf: WorkflowBuilder, name: str, times: int = 1) -> NodeRef[str]:
        desk.built.append(str(uuid4()))
        return wf.task(say.node(name, desk.built[-1]))

    @app.workflow("other")
    def other(wf: WorkflowBuilder) -> NodeRef[str]:
        return wf.task(wait.node())

    desk = Desk(app, greet, other)
    return desk


async def test_two_starts_with_the_same_arguments_are_one_whatever_is_built(desk: Desk) -> None:
    async with Runtime(desk.app) as rt:
        start = desk.greet.handle(rt).with_id(new_task_id())
        first = (await start.start("Ada", 1)).unwrap()
        again = (await start.start(name="Ada")).unwrap()
        assert again.workflow_id == first.workflow_id
        await rt.run_worker(UNTIL_IDLE)
        assert await first.get() == Ok("hello Ada")
        assert desk.ran == desk.built[:1]
        for other in (start.start("Bob"), start.start("Ada", 2), start.good_until(late()).start("Ada")):
            assert (await other).unwrap_err().code is TaskSendErrorCode.PAYLOAD_MISMATCH


def late() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_what_tells_starts_apart() -> None:
    """A change here is a change of the format: a start could not be told from its replay by another version."""
    at = datetime(2027, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    sha = arguments_sha("wörk", 3, {"b": [1, None], "a": "x"}, at)
    assert sha.hex() == "522bba8262b418e59d0705ac6f9a0a44cdf3a2fb72db7bc5ecfbf180629e26ee"
    assert sha == arguments_sha("wörk", 3, {"a": "x", "b": [1, None]}, at.astimezone())
    others = [("work", 3, {}, at), ("wörk", 4, {}, at), ("wörk", 3, {}, at), ("wörk", 3, {}, None)]
    assert len({sha, *(arguments_sha(*other) for other in others)}) == 5


async def test_wrong_arguments(desk: Desk) -> None:
    async with Runtime(desk.app) as rt:
        start: Any = desk.greet.handle(rt).start
        for args, kwargs, what in (
            ((), {}, "missing a required argument: 'name'"),
            ((object(),), {}, "argument 'name'"),
            (("Ada", "a secret"), {}, "argument 'times'"),
            (("Ada",), {"zzz": "a secret"}, "zzz"),
        ):
            error = (await start(*args, **kwargs)).unwrap_err()
            assert error.code is TaskSendErrorCode.VALIDATION_FAILED
            assert what in error.message
            assert "a secret" not in error.message
        assert desk.built == []


@asynccontextmanager
async def lossy(app: Horsies, script: list[str]) -> AsyncIterator[Runtime]:
    """A runtime on the real database, whose starts are lost as `script` says: before they are written, or after."""
    async with Runtime(app) as rt:
        write: Callable[..., Any] = rt._engine.workflows.start

        async def start(*args: Any, **kwargs: Any) -> Any:
            step = script.pop(0) if script else "fine"
            if step == "before":
                raise BrokerError("lost", retryable=True)
            answer = await write(*args, **kwargs)
            if step == "after":
                raise BrokerError("lost", retryable=True)
            return answer

        rt._engine.workflows.start = start
        yield rt


@pytest.mark.parametrize("lost", ["before", "after"])
async def test_a_lost_start_is_there_once_after_its_replay(desk: Desk, lost: str) -> None:
    async with lossy(desk.app, [lost]) as rt:
        greet = desk.greet.handle(rt)
        error = (await greet.start("Ada")).unwrap_err()
        assert (error.code, error.retryable) == (TaskSendErrorCode.ENQUEUE_FAILED, True)
        assert error.start is not None
        stored = WorkflowStartPayload.from_bytes(error.start.to_bytes())
        assert stored == error.start == copy.deepcopy(error.start) == pickle.loads(pickle.dumps(error)).start
        replays = [greet.retry_start(error), greet.retry_start(stored), rt.retry_start(error)]
        handles = [(await replay).unwrap() for replay in replays]
        assert {handle.workflow_id for handle in handles} == {error.task_id}
        await rt.run_worker(UNTIL_IDLE)
        assert await handles[0].get(timeout=10) == Ok("hello Ada")
        assert desk.ran == desk.built
        assert (await greet.retry_start(error)).is_ok()
        await rt.run_worker(UNTIL_IDLE)
        assert len(desk.ran) == 1


async def test_what_passes_by_itself_is_tried_again(desk: Desk) -> None:
    app = Horsies(replace(desk.app.config, resend_on_transient_err=True))
    for task in desk.app.tasks.values():
        app.include(task)
    app.workflow("greet")(desk.greet.fn)
    async with lossy(app, ["after", "before"]) as rt:
        run = (await app.workflows["greet"].handle(rt).start("Ada")).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await run.get() == Ok("hello Ada")
        assert len(desk.ran) == 1


async def test_what_cannot_be_replayed(desk: Desk) -> None:
    async with lossy(desk.app, ["before"]) as rt:
        greet, payload = desk.greet.handle(rt), (await desk.greet.handle(rt).start("Ada")).unwrap_err().start
        assert payload is not None
        assert "Ada" not in repr(payload)
        assert desk.greet.name in repr(payload)
        for n in range(len(payload.data)):
            changed = bytes([*payload.data[:n], payload.data[n] ^ 1, *payload.data[n + 1 :]])
            error = (await greet.retry_start(replace(payload, data=changed))).unwrap_err()
            assert error.code is TaskSendErrorCode.PAYLOAD_MISMATCH
        error = (await desk.other.handle(rt).retry_start(payload)).unwrap_err()
        assert error.code is TaskSendErrorCode.VALIDATION_FAILED
        assert "of workflow 'greet'" in error.message
        without: Any = (await greet.start(5)).unwrap_err()
        for nothing in (without, None):
            error = (await greet.retry_start(nothing)).unwrap_err()
            assert error.code is TaskSendErrorCode.VALIDATION_FAILED
            assert "no payload to replay" in error.message
        for bad in (b"", b"\x93\x01\xa0\xc4\x00", payload.to_bytes()[:-1], payload.to_bytes() + b"\0"):
            with pytest.raises(ValueError, match=r"payload|Payload"):
                WorkflowStartPayload.from_bytes(bad)
        assert (await rt.workflow(payload.workflow_id).status()) == Ok(None)


async def test_a_deadline_of_the_whole(desk: Desk) -> None:
    with anyio.fail_after(30):
        async with Runtime(desk.app) as rt:
            rt.start_worker()
            soon = datetime.now(UTC) + timedelta(seconds=0.5)
            run = (await desk.other.handle(rt).good_until(soon).start()).unwrap()
            result = await run.get()
            assert isinstance(result, Err)
            assert result.error.code == "WORKFLOW_EXPIRED"
            assert datetime.now(UTC) >= soon
            assert await run.status() == Ok(WorkflowStatus.EXPIRED)
            while (await run.tasks()).unwrap()[0].error_code is None:
                await anyio.sleep(0.01)
            naive = desk.other.handle(rt).good_until(datetime.now())
            assert "time zone" in (await naive.start()).unwrap_err().message


@on_postgres
async def test_a_start_is_part_of_the_callers_transaction(desk: Desk) -> None:
    async with Runtime(desk.app) as rt:
        greet = desk.greet.handle(rt)
        async with rt.transaction() as connection:
            first = (await greet.using(connection).start("Ada")).unwrap()
            second = (await greet.using(connection).start("Bob")).unwrap()
            again = (await greet.using(connection).with_id(first.workflow_id).start("Ada")).unwrap()
            assert again.workflow_id == first.workflow_id
            mismatch = (await greet.using(connection).with_id(first.workflow_id).start("Eve")).unwrap_err()
            assert mismatch.code is TaskSendErrorCode.PAYLOAD_MISMATCH
            assert await first.status() == Ok(None)
        await rt.run_worker(UNTIL_IDLE)
        assert [await run.get() for run in (first, second)] == [Ok("hello Ada"), Ok("hello Bob")]
        with psycopg.connect(desk.app.config.url) as rolled_back:
            lost = (await greet.using(rolled_back).start("Ada")).unwrap()
            rolled_back.rollback()
        assert await lost.status() == Ok(None)
        with psycopg.connect(desk.app.config.url) as sync_connection:
            run = (await greet.using(sync_connection).start("Ada")).unwrap()
        assert await run.status() == Ok(WorkflowStatus.RUNNING)
        error = (await greet.using(42).start("Ada")).unwrap_err()
        assert error.code is TaskSendErrorCode.VALIDATION_FAILED
        assert "not a psycopg" in error.message


@pytest.mark.parametrize("database_url", ["sqlite-memory"], indirect=True)
async def test_sqlite_takes_no_part_in_transactions(desk: Desk) -> None:
    async with Runtime(desk.app) as rt:
        error = (await desk.greet.handle(rt).using(object()).start("Ada")).unwrap_err()
        assert error.code is TaskSendErrorCode.VALIDATION_FAILED
        assert "transactions" in error.message


def test_a_synchronous_program(desk: Desk) -> None:
    with blocking(desk.app) as rt:
        greet = desk.greet.handle(rt)
        run = greet.good_until(late()).start("Ada").unwrap()
        assert run.status() == Ok(WorkflowStatus.RUNNING)
        error = greet.using(object()).start("Ada").unwrap_err()
        assert greet.retry_start(error).unwrap_err().code is TaskSendErrorCode.VALIDATION_FAILED
        assert run.cancel() == Ok(True)
