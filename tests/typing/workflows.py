"""What a type checker knows of a workflow. Nothing here runs: mypy and pyright read it in `make check`.

An ignore comment claims an error; both checkers complain when there is none.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, assert_type

from horsies import (
    BlockingRuntime,
    Err,
    Horsies,
    NodeRef,
    Ok,
    RetryPolicy,
    Runtime,
    SuccessCase,
    TaskContext,
    TaskError,
    TaskNode,
    TaskResult,
    TaskSendError,
    Workflow,
    WorkflowBuilder,
    WorkflowHandle,
    WorkflowSpec,
    task,
)


class Order: ...


class Parcel(Order): ...


@task
async def fetch(order_id: int) -> Order:
    return Order()


@task
async def wrap(order: Order, with_ribbon: bool = False) -> TaskResult[Parcel]:
    return Ok(Parcel())


@task
def price(ctx: TaskContext, order: Order, currency: str, *, factor: float = 1.0) -> int:
    return 1


@task
def note(text: str | None, prices: Sequence[int] = ()) -> None: ...


@task
def apologise(what: TaskResult[int], order: Any) -> str:
    return ""


@task
def no_arguments() -> list[int]:
    return []


@task
def eight(a: int, b: str, c: int, d: str, e: int, f: str, g: int, h: str) -> bool:
    return True


def built(wf: WorkflowBuilder, text: NodeRef[str], number: NodeRef[int]) -> None:
    node = fetch.node(1)
    assert_type(node, TaskNode[Order])
    order = wf.task(node)
    assert_type(order, NodeRef[Order])
    parcel = wf.task(wrap.node(order))
    assert_type(parcel, NodeRef[Parcel])
    assert_type(wrap.node(parcel, True), TaskNode[Parcel])
    assert_type(wrap.node(order, with_ribbon=True), TaskNode[Parcel])
    assert_type(wrap.node(order=order), TaskNode[Parcel])
    assert_type(price.node(order, "EUR"), TaskNode[int])
    assert_type(price.node(parcel, text, factor=2.0), TaskNode[int])
    assert_type(price.node(order=order, currency=text), TaskNode[int])
    assert_type(price.node(order).arg_from("currency", text), TaskNode[int])
    prices = wf.task(no_arguments.node())
    assert_type(note.node(None), TaskNode[None])
    assert_type(note.node(text, prices), TaskNode[None])
    assert_type(note.node("text", [1]), TaskNode[None])
    assert_type(eight.node(1, "", number, text, 1, "", number, text), TaskNode[bool])

    assert_type(number.as_result(), NodeRef[Ok[int] | Err[TaskError]])
    assert_type(apologise.node(number.as_result(), order), TaskNode[str])
    assert_type(apologise.node(Ok(1), 5), TaskNode[str])
    assert_type(apologise.node().set_input(1, order=2), TaskNode[str])

    wider: NodeRef[Order | None] = parcel
    chained = (
        node.waits_for(wider, number)
        .good_until(datetime.now(UTC))
        .queue("images")
        .priority(1)
        .retry(RetryPolicy.fixed([1]))
        .timeout(1.5)
        .node_id("fetch")
        .allow_failed_deps()
        .join_all()
        .join_any(cancel_losers=True)
        .join_quorum(2)
    )
    assert_type(chained, TaskNode[Order])
    wf.succeeds_when(SuccessCase(order, parcel), SuccessCase(number), optional=[text])
    assert_type(wf.build(), WorkflowSpec)
    assert_type(wf.build(output=parcel), WorkflowSpec)


def declared(app: Horsies) -> None:
    @app.workflow("shipping", version=2, on_error="pause")
    def shipping(wf: WorkflowBuilder, order_id: int) -> NodeRef[Parcel]:
        return wf.task(wrap.node(wf.task(fetch.node(order_id))))

    @app.workflow("no output")
    def without_output(wf: WorkflowBuilder) -> None:
        wf.task(no_arguments.node())

    @app.workflow
    def bare(wf: WorkflowBuilder, order_id: int) -> NodeRef[Parcel]:
        return wf.subworkflow(shipping.node(order_id))

    @app.workflow
    def bare_without_output(wf: WorkflowBuilder) -> None:
        wf.subworkflow(bare.node(5))

    @app.workflow(version=2)
    def named_by_its_function(wf: WorkflowBuilder) -> NodeRef[Parcel]:
        return wf.subworkflow(bare.node(5))

    bare_as_parcel: Workflow[[int], Parcel] = bare
    bare_as_none: Workflow[[], None] = bare_without_output
    named: Workflow[[], Parcel] = named_by_its_function
    del bare_as_parcel, bare_as_none, named
    assert_type(shipping.name, str)
    as_parcel: Workflow[[int], Parcel] = shipping
    as_none: Workflow[[], None] = without_output
    del as_parcel, as_none
    assert_type(app.workflows["shipping"], Workflow[Any, Any])

    @app.workflow("whole")
    def whole(wf: WorkflowBuilder, number: NodeRef[int], orders: NodeRef[list[Order]]) -> NodeRef[list[Parcel]]:
        parcel = wf.subworkflow(shipping.node(number).waits_for(orders).node_id("inside"))
        assert_type(parcel, NodeRef[Parcel])
        assert_type(wf.subworkflow(shipping.node(5)), NodeRef[Parcel])
        assert_type(wf.subworkflow(without_output.node()), NodeRef[None])
        wf.task(price.node(parcel, "EUR").ctx_from(parcel, number))
        shipping.node("five")  # type: ignore[call-overload]
        shipping.node(parcel)  # type: ignore[arg-type]
        wf.subworkflow(shipping)  # type: ignore[arg-type]
        wf.map(wrap.node(with_ribbon=True), over=number)  # type: ignore[arg-type]
        wf.map(wrap.node(), orders)  # type: ignore[call-arg]
        return wf.map(wrap.node(with_ribbon=True), over=orders)

    del whole

    @app.workflow("an int")  # type: ignore[arg-type]
    def builds_nothing(wf: WorkflowBuilder) -> int:
        return 1

    app.workflow("bad", on_error="explode")  # type: ignore[call-overload]
    del builds_nothing


def refused(wf: WorkflowBuilder, text: NodeRef[str], number: NodeRef[int], order: NodeRef[Order]) -> None:
    wrap.node(number)  # type: ignore[arg-type]
    wrap.node(order, number)  # type: ignore[arg-type]
    wrap.node("no order")  # type: ignore[call-overload]
    wrap.node(order, True, 3)  # type: ignore[call-overload]
    wrap.node(fetch.node(1))  # type: ignore[call-overload]
    price.node(order, "EUR", 2.0)  # type: ignore[call-overload]
    price.node(text, number)  # type: ignore[arg-type]
    note.node(number)  # type: ignore[arg-type]
    note.node(text, text)  # type: ignore[arg-type]
    fetch.node(number.as_result())  # type: ignore[arg-type]
    apologise.node(number, 1)  # type: ignore[arg-type]
    apologise.node(text.as_result(), 1)  # type: ignore[arg-type]
    no_arguments.node(1)  # type: ignore[call-arg]
    eight.node(1, "", number, text, 1, "", number, number)  # type: ignore[arg-type]
    wf.task(fetch)  # type: ignore[arg-type]
    wf.task(fetch.node(1).waits_for(fetch.node(1)))  # type: ignore[arg-type]
    SuccessCase(fetch.node(1))  # type: ignore[arg-type]
    number.as_result().as_result().waits_for()  # type: ignore[attr-defined]


async def started(
    app: Horsies, rt: Runtime, blocking: BlockingRuntime, typed: Workflow[[int], Parcel], outside: object
) -> None:
    assert_type(await typed.handle(rt).start(5), Ok[WorkflowHandle[Parcel]] | Err[TaskSendError])
    assert_type(typed.handle(blocking).start(5).unwrap().get(), TaskResult[Parcel])
    await typed.handle(rt).start("five")  # type: ignore[arg-type]
    await app.workflows["shipping"].handle(rt).start("anything")
    app.workflows["shipping"].handle(blocking).start("anything")
    typed.handle(outside)  # type: ignore[call-overload]
