"""What a type checker knows of a task. Nothing here runs: mypy and pyright read it in `make check`.

An ignore comment claims an error; both checkers complain when there is none.
"""

from typing import Any, assert_type

from horsies import (
    BlockingRuntime,
    BlockingTaskFunction,
    BrokerError,
    Err,
    Horsies,
    Ok,
    Runtime,
    Task,
    TaskContext,
    TaskError,
    TaskFunction,
    TaskHandle,
    TaskInfo,
    TaskResult,
    TaskSendError,
    TaskSendOptions,
    task,
)


@task("add")
async def add(a: int, b: int = 0) -> int:
    return a + b


@task
def bare(text: str) -> bytes:
    return text.encode()


@task("computed", run_in="process", timeout=10)
def computed(n: int) -> TaskResult[int]:
    return Ok(n * n)


@task("with_context", queue="images", priority=10)
async def with_context(ctx: TaskContext, path: str) -> TaskResult[float]:
    ctx.check_cancelled()
    return Ok(1.0) if path else Err(TaskError("EMPTY"))


@task("named_like_ours")
async def named_like_ours(self: int, delay: str, timeout: int = 0) -> int:
    return self + len(delay) + timeout


async def registered(app: Horsies) -> None:
    @app.task("union")
    def union(n: int) -> Ok[str] | Err[TaskError]:
        return Ok(str(n))

    @app.task
    async def plain(n: int) -> None: ...

    assert_type(await union.send(1), Ok[TaskHandle[str]] | Err[TaskSendError])
    assert_type(await plain.send(n=1), Ok[TaskHandle[None]] | Err[TaskSendError])


async def sent(rt: Runtime) -> None:
    function = add.handle(rt)
    sending = await function.send(1, b=2)
    assert_type(sending, Ok[TaskHandle[int]] | Err[TaskSendError])
    assert_type(await function.schedule(0.5, 1), Ok[TaskHandle[int]] | Err[TaskSendError])
    urgent = function.with_options(TaskSendOptions(priority=1))
    assert_type(await urgent.send(1), Ok[TaskHandle[int]] | Err[TaskSendError])
    assert_type(await computed.send(3), Ok[TaskHandle[int]] | Err[TaskSendError])
    assert_type(await bare.send("text"), Ok[TaskHandle[bytes]] | Err[TaskSendError])
    assert_type(await with_context.send("a path"), Ok[TaskHandle[float]] | Err[TaskSendError])

    ours = named_like_ours.handle(rt)
    assert_type(await ours.send(self=1, delay="a"), Ok[TaskHandle[int]] | Err[TaskSendError])
    assert_type(await ours.schedule(5, self=1, delay="a", timeout=2), Ok[TaskHandle[int]] | Err[TaskSendError])
    assert_type(await named_like_ours.schedule(5, 1, delay="a"), Ok[TaskHandle[int]] | Err[TaskSendError])

    handle = sending.unwrap()
    assert_type(handle, TaskHandle[int])
    match await handle.get(timeout=1):
        case Ok(value):
            assert_type(value, int)
        case Err(error):
            assert_type(error, TaskError)
    assert_type(await handle.info(), Ok[TaskInfo | None] | Err[BrokerError])
    assert_type(rt.handle("an id"), TaskHandle[Any])

    if isinstance(sending, Err):
        await function.retry_send(sending.error)


def sent_from_a_thread(rt: BlockingRuntime) -> None:
    assert_type(add.handle(rt).send(1).unwrap().get().unwrap(), int)
    assert_type(named_like_ours.handle(rt).schedule(5, self=1, delay="a").unwrap().get().unwrap(), int)
    bound: BlockingTaskFunction[[int], bytes] = of_number.handle(rt)
    del bound


@task("of_number")
def of_number(n: int, /) -> bytes:
    return bytes(n)


async def known_by_name(app: Horsies, rt: Runtime, blocking: BlockingRuntime, ctx: TaskContext) -> None:
    """A task that is got by its name has no types, and can be sent all the same."""
    assert_type(app.tasks["add"], Task[Any, Any])
    assert_type(await app.tasks["add"].handle(rt).send(1, b="two"), Ok[TaskHandle[Any]] | Err[TaskSendError])
    app.tasks["add"].handle(blocking).send(1)
    assert_type(ctx.runtime, Runtime)
    bound: TaskFunction[[int], bytes] = of_number.handle(ctx.runtime)
    del bound


async def refused(rt: Runtime) -> None:
    add.handle(3)  # type: ignore[call-overload]
    await add.handle(rt).send("one")  # type: ignore[arg-type]
    await add.handle(rt).send(1, 2, 3)  # type: ignore[call-arg]
    await add.handle(rt).schedule("soon", 1)  # type: ignore[arg-type]
    await with_context.handle(rt).send()  # type: ignore[call-arg]
    await named_like_ours.handle(rt).schedule(5, self="1", delay="a")  # type: ignore[arg-type]
    task("nowhere", run_in="fibre")  # type: ignore[call-overload]
