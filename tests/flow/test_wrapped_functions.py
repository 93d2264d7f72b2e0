"""What wraps a function: it runs as what it really is, or is refused at its declaration with the true reason."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pydantic
import pytest

from horsies import (
    AppConfig,
    Err,
    Horsies,
    HorsiesError,
    NodeRef,
    Ok,
    Runtime,
    TaskContext,
    TaskError,
    TaskSendOptions,
    WorkerConfig,
    WorkflowBuilder,
)
from horsies._send.gateway import Environment

from .conftest import until

pytestmark = pytest.mark.anyio

UNTIL_IDLE = WorkerConfig(until_idle=True)
RAN: list[Any] = []
in_memory = pytest.mark.parametrize("database_url", ["sqlite-memory"], indirect=True)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def traced(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return call


def async_traced(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    async def call(*args: Any, **kwargs: Any) -> Any:
        found = fn(*args, **kwargs)
        return await found if inspect.isawaitable(found) else found

    return call


def run_in_a_loop_of_its_own(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return anyio.run(functools.partial(fn, *args, **kwargs))

    return call


async def double(n: int) -> int:
    await anyio.lowlevel.checkpoint()
    RAN.append(n)
    return n * 2


def sync_double(n: int) -> int:
    RAN.append(n)
    return n * 2


def multiply(n: int, by: int = 1) -> int:
    RAN.append(n)
    return n * by


class Doubling:
    other: str  # an annotation of the class, and not of its call

    def __call__(self, n: int) -> int:
        RAN.append(n)
        return n * 2

    def method(self, n: int) -> int:
        return self(n)

    @staticmethod
    async def static(n: int) -> int:
        return await double(n)

    @classmethod
    async def of_class(cls, n: int) -> int:
        return await double(n)

    bound_later = functools.partialmethod(method, 1)


class AsyncDoubling:
    async def __call__(self, n: int) -> int:
        return await double(n)


WORKING: dict[str, Any] = {
    "sync wrapper over async": traced(double),
    "two sync wrappers over async": traced(traced(double)),
    "sync wrapper that runs a loop of its own": run_in_a_loop_of_its_own(double),
    "async wrapper over sync": async_traced(sync_double),
    "async wrapper over async": async_traced(double),
    "sync wrapper over sync": traced(sync_double),
    "validate_call": pydantic.validate_call(double),
    "partial by name": functools.partial(multiply, by=2),
    "partial over async": functools.partial(double),
    "partial over an async wrapper": functools.partial(traced(double)),
    "callable object": Doubling(),
    "async callable object": AsyncDoubling(),
    "partial over an async callable object": functools.partial(AsyncDoubling()),
    "bound method": Doubling().method,
    "bound class method": Doubling.of_class,
    "static method": Doubling.static,
    "static method object": staticmethod(double),
    "cached": None,  # made anew for each test, because it keeps what it has given
}


@in_memory
@pytest.mark.parametrize("kind", WORKING)
async def test_what_wraps_a_function_runs_as_what_it_is(config: AppConfig, kind: str) -> None:
    app = Horsies(config)
    fn = WORKING[kind]
    task = app.task("t")(functools.cache(sync_double) if kind == "cached" else fn)
    async with Runtime(app) as rt:
        handle = (await task.handle(rt).send(21)).unwrap()
        named = (await task.handle(rt).send(n=4)).unwrap()
        refused = await task.handle(rt).send("21")
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(42)
        assert await named.get(timeout=10) == Ok(8)
    assert sorted(RAN) == [4, 21]
    assert refused.is_err()


@in_memory
async def test_a_wrapped_async_function_runs_in_a_simulation(config: AppConfig) -> None:
    app = Horsies(config)
    task = app.task("t")(traced(double))
    async with Runtime(app, environment=Environment(inline=True)) as rt:
        handle = (await task.handle(rt).send(21)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(42)


async def test_a_wrapped_async_function_keeps_its_context_timeout_and_cancellation(config: AppConfig) -> None:
    app = Horsies(config)
    began: list[str] = []

    async def wait(ctx: TaskContext, name: str) -> str:
        began.append(name)
        assert threading.current_thread() is threading.main_thread()
        if name == "quick":
            return ctx.task_name
        try:
            await anyio.sleep_forever()
        finally:
            RAN.append(name)
        raise AssertionError

    async def fail() -> None:
        raise TaskError("MINE")

    async def unhandled() -> None:
        raise ValueError("no")

    task, failing, broken = (app.task(fn.__name__)(traced(fn)) for fn in (wait, fail, unhandled))
    async with Runtime(app) as rt:
        rt.start_worker()
        quick = (await task.handle(rt).send("quick")).unwrap()
        late = (await task.handle(rt).with_options(TaskSendOptions(timeout=0.2)).send("late")).unwrap()
        unwanted = (await task.handle(rt).send("unwanted")).unwrap()
        assert await quick.get(timeout=10) == Ok("wait")
        assert (await late.get(timeout=10)).unwrap_err().code == "TASK_TIMEOUT"
        await until(lambda: "unwanted" in began)
        (await unwanted.cancel()).unwrap()
        assert (await unwanted.get(timeout=10)).unwrap_err().code == "TASK_CANCELLED"
        assert (await (await failing.handle(rt).send()).unwrap().get(timeout=10)) == Err(TaskError("MINE"))
        assert (await (await broken.handle(rt).send()).unwrap().get(timeout=10)).unwrap_err().code == "UNHANDLED_ERROR"
    assert sorted(RAN) == ["late", "unwanted"]


async def test_a_worker_that_stops_ends_a_wrapped_async_function(config: AppConfig) -> None:
    app = Horsies(config)
    began = anyio.Event()

    async def wait() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            RAN.append("ended")

    task = app.task("wait")(traced(wait))
    async with Runtime(app) as rt:
        handle = (await task.handle(rt).send()).unwrap()
        worker = rt.start_worker(WorkerConfig(drain_timeout=0.1))
        with anyio.fail_after(10):
            await began.wait()
            await worker.drain()
        assert (await handle.get(timeout=5)).unwrap_err().code == "WORKER_CRASHED"
        assert worker.statistics().abandoned == 0
    assert RAN == ["ended"]


@in_memory
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_awaitable_that_nothing_awaits_is_a_mismatch(config: AppConfig, is_async: bool) -> None:
    app = Horsies(config)

    def plain(n: int) -> int:
        return double(n)  # type: ignore[return-value]

    async def in_async(n: int) -> int:
        return double(n)  # type: ignore[return-value]

    def generating(n: int) -> Any:
        yield n

    task = app.task("t")(in_async if is_async else plain)
    generator = app.task("g")(traced(generating))
    async with Runtime(app) as rt:
        handle = (await task.handle(rt).send(1)).unwrap()
        generated = (await generator.handle(rt).send(1)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        error = (await handle.get(timeout=10)).unwrap_err()
        assert error.code == "RETURN_TYPE_MISMATCH"
        assert "nothing awaits" in error.message
        assert (await generated.get(timeout=10)).unwrap_err().code == "RETURN_TYPE_MISMATCH"
    assert RAN == []  # and no warning of a coroutine that was never awaited, which would be an error


def drops(fn: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(fn)
    def call(n: int) -> Any:
        return fn(n, 2)

    return call


@contextlib.contextmanager
def managed(n: int) -> Iterator[int]:
    yield n


def generating(n: int) -> Iterator[int]:
    yield n


async def async_generating(n: int) -> Any:
    yield n


REFUSED: dict[str, tuple[Any, str, str]] = {
    "class": (Doubling, "HRS-105", "Doubling is a class"),
    "class method object": (vars(Doubling)["of_class"], "HRS-105", "a classmethod, which can be called only through"),
    "partial method": (vars(Doubling)["bound_later"], "HRS-105", "a partialmethod, which can be called only through"),
    "property": (property(lambda self: 1), "HRS-105", "a property, which"),
    "builtin": (dict.get, "HRS-105", "no annotation"),
    "builtin without a signature": (getattr, "HRS-105", ""),
    "number": (5, "HRS-105", "not a function with a signature"),
    "wrapper that takes less": (drops(multiply), "HRS-105", "wraps a function whose parameters it does not take"),
    "context manager": (managed, "HRS-101", "makes a context manager"),
    "async context manager": (contextlib.asynccontextmanager(async_generating), "HRS-101", "makes a context manager"),
    "generator": (generating, "HRS-101", "is a generator"),
    "async generator": (async_generating, "HRS-101", "is a generator"),
    "partial of a generator": (functools.partial(generating), "HRS-101", "is a generator"),
    "cache over async": (functools.cache(double), "HRS-101", "keeps the coroutine of its first call"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_run_is_refused_at_its_declaration(kind: str) -> None:
    fn, code, why = REFUSED[kind]
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))
    with pytest.raises(HorsiesError) as caught:
        app.task("t")(fn)
    assert caught.value.code == code
    assert why in str(caught.value)
    assert not app.tasks


@pytest.mark.parametrize("kind", ["class method object", "partial method", "property"])
def test_what_is_bound_later_is_refused_without_a_name_too(kind: str) -> None:
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))
    for declare in (app.task, app.workflow):
        with pytest.raises(HorsiesError, match=r"HRS-105|HRS-023"):
            declare(REFUSED[kind][0])


@in_memory
async def test_a_partial_binds_what_cannot_be_sent(config: AppConfig) -> None:
    class Client:
        def get(self, n: int) -> int:
            return n * 3

    def fetch(client: Client, n: int, times: int = 1) -> int:
        return client.get(n) * times

    app = Horsies(config)
    by_place = app.task("place")(functools.partial(fetch, Client()))
    by_name = app.task("name")(functools.partial(fetch, client=Client()))
    async with Runtime(app) as rt:
        handles = [
            (await by_place.handle(rt).send(1, 2)).unwrap(),
            (await by_name.handle(rt).send(n=1, times=2)).unwrap(),
        ]
        await rt.run_worker(UNTIL_IDLE)
        assert [await handle.get(timeout=10) for handle in handles] == [Ok(6)] * 2


@in_memory
@pytest.mark.skipif(sys.version_info < (3, 12), reason="markcoroutinefunction came with Python 3.12")
async def test_a_function_that_is_marked_async_is_awaited(config: AppConfig) -> None:
    def marked(n: int) -> Any:
        return double(n)

    app = Horsies(config)
    task = app.task("t")(inspect.markcoroutinefunction(marked))  # type: ignore[attr-defined, unused-ignore]
    async with Runtime(app) as rt:
        handle = (await task.handle(rt).send(21)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert await handle.get(timeout=10) == Ok(42)


def test_a_workflow_around_an_async_function_is_refused() -> None:
    app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

    async def w(wf: WorkflowBuilder) -> None: ...

    for fn in (w, traced(w), functools.partial(traced(w))):
        with pytest.raises(HorsiesError, match="HRS-023"):
            app.workflow("w")(fn)


@in_memory
async def test_parameters_may_be_named_like_those_of_horsies(config: AppConfig) -> None:
    app = Horsies(replace(config))

    @app.task("t")
    async def t(self: int, delay: int, timeout: int, connection: int, options: int, calls: int, fn: int) -> int:
        return self + delay + timeout + connection + options + calls + fn

    @app.task("u")
    async def u(workflow_id: int, args: int, kwargs: int, failed: int, name: int, ref: int) -> int:
        return workflow_id + args + kwargs + failed + name + ref

    ones: Any = dict.fromkeys(("self", "delay", "timeout", "connection", "options", "calls", "fn"), 1)
    others: Any = dict.fromkeys(("workflow_id", "args", "kwargs", "failed", "name", "ref"), 1)

    @app.workflow("w")
    def w(wf: WorkflowBuilder, self: int, workflow_id: int) -> NodeRef[int]:
        wf.task(t.node().set_input(**{**ones, "self": self}))
        return wf.task(u.node(**others))

    async with Runtime(app) as rt:
        sender = t.handle(rt).with_options(TaskSendOptions(priority=1))
        sent: list[Any] = [
            await t.send(**ones),
            await t.schedule(0, **ones),
            await sender.send(**ones),
            await sender.schedule(0, **ones),
            *await sender.send_many([ones]),
        ]
        run = (await w.handle(rt).start(self=1, workflow_id=1)).unwrap()
        await rt.run_worker(UNTIL_IDLE)
        assert [await one.unwrap().get(timeout=10) for one in sent] == [Ok(7)] * 5
        assert await run.get(timeout=10) == Ok(6)
    assert await t(**ones) == 7
