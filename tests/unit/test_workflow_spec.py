"""Declaring workflows: what a builder makes, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from workflow_samples import (
    APP,
    AT,
    SECRET,
    add,
    are,
    fetch,
    new_app,
    order,
    price,
    problems_of,
    refused,
    say,
    spec_for,
    spec_of,
    stranger,
)

from horsies import (
    Err,
    NodeRef,
    Ok,
    RetryPolicy,
    Runtime,
    SuccessCase,
    TaskError,
    TaskNode,
    WorkflowBuilder,
    task,
)
from horsies._workflow.definition.spec import NodeSpec, Reference, Spec, encode
from horsies._workflow.definition.validate import resolve

# What a builder makes.


def test_a_workflow_that_is_declared() -> None:
    found = spec_for(order, APP, 42)
    assert (found.name, found.version, found.node_ids) == ("order", 3, ("fetch-0", "pay", "say-2"))
    assert resolve(found, APP) == Spec(
        name="order",
        version=3,
        nodes=(
            NodeSpec(
                node_id="fetch-0",
                task_name="fetch",
                queue="default",
                priority=50,
                arguments={"order_id": 42},
                injected={},
                needs=(),
                join=0,
                allow_failed_deps=False,
                cancel_losers=False,
                good_until=None,
                timeout=None,
                retry=None,
            ),
            NodeSpec(
                node_id="pay",
                task_name="price",
                queue="images",
                priority=7,
                arguments={"currency": "EUR", "factor": 1.0},
                injected={"order": Reference(0, False)},
                needs=(0,),
                join=0,
                allow_failed_deps=False,
                cancel_losers=False,
                good_until=1_772_366_400_000_000,
                timeout=2_500_000,
                retry="mine",
            ),
            NodeSpec(
                node_id="say-2",
                task_name="say",
                queue="default",
                priority=50,
                arguments={"text": "sorry"},
                injected={"what": Reference(1, True)},
                needs=(1,),
                join=0,
                allow_failed_deps=True,
                cancel_losers=False,
                good_until=None,
                timeout=None,
                retry=None,
            ),
        ),
        output=1,
        on_error="pause",
        success=(),
        optional=(),
    )


def test_options_of_a_node_stand_before_those_of_its_task() -> None:
    wf = WorkflowBuilder("w")
    policy = RetryPolicy.fixed([1, 0.5], jitter=False)
    wf.task(price.node({}).queue("default").priority(1).timeout(timedelta(seconds=1)).retry(policy))
    [one] = spec_of(wf).nodes
    assert (one.queue, one.priority, one.timeout, one.retry) == ("default", 1, 10**6, ((10**6, 500_000), False))


def test_what_a_node_waits_for_is_in_order_and_there_once() -> None:
    wf = WorkflowBuilder("w")
    a, b, c = (wf.task(fetch.node(n)) for n in range(3))
    wf.task(price.node(c).waits_for(b, c).waits_for(a))
    wf.task(add.node(1).waits_for(c, b, a).join_quorum(2, cancel_losers=True))
    wf.task(add.node(1).waits_for(b).join_any())
    wf.task(add.node(1).waits_for(b).join_quorum(1).join_all())
    nodes = spec_of(wf).nodes[3:]
    assert [one.needs for one in nodes] == [(0, 1, 2), (0, 1, 2), (1,), (1,)]
    assert [(one.join, one.cancel_losers) for one in nodes] == [(0, False), (2, True), (1, False), (0, False)]


def test_arguments_by_place_by_name_and_injected() -> None:
    wf = WorkflowBuilder("w")
    one = wf.task(add.node(1))
    wf.task(add.node(one, c=2))
    wf.task(add.node(3, one, c=one))
    wf.task(add.node(4, 5, c=6).set_input(1, c=one))
    wf.task(say.node("x").arg_from("what", one))
    spec = spec_of(wf)
    reference = Reference(0, False)
    assert [(node.arguments, node.injected) for node in spec.nodes[1:]] == [
        ({"b": 0, "c": 2}, {"a": reference}),
        ({"a": 3}, {"b": reference, "c": reference}),
        ({"a": 1, "b": 0}, {"c": reference}),
        ({"text": "x"}, {"what": Reference(0, True)}),
    ]


def test_a_default_that_is_a_result() -> None:
    wf = WorkflowBuilder("w")
    wf.task(say.node("x"))
    wf.task(say.node("x", Err(TaskError("MINE", data=[1]))))
    assert [one.arguments["what"] for one in spec_of(wf).nodes] == [
        {"ok": 0},
        {"err": ["MINE", False, "", [1], None]},
    ]


def test_success_cases() -> None:
    wf = WorkflowBuilder("w")
    a, b, c = (wf.task(fetch.node(n)) for n in range(3))
    wf.succeeds_when(SuccessCase(b, a, b), SuccessCase(c))
    spec = spec_of(wf, b)
    assert (spec.success, spec.optional, spec.output) == (((0, 1), (2,)), (), 1)
    other = WorkflowBuilder("w")
    a, b, c = (other.task(fetch.node(n)) for n in range(3))
    other.succeeds_when(optional=[c])
    other.succeeds_when(optional=iter([b, c]))
    assert (spec_of(other).success, spec_of(other).optional) == ((), (1, 2))


def test_default_ids_are_free_ones() -> None:
    long = task("é" * 127)(lambda: None)
    wf = WorkflowBuilder("w")
    for one in (
        fetch.node(1).node_id("fetch-1"),
        fetch.node(1),
        fetch.node(1).node_id("fetch-1-2"),
        fetch.node(1),
        long.node(),
    ):
        wf.task(one)
    ids = wf.build().node_ids
    assert ids[:4] == ("fetch-1", "fetch-1-3", "fetch-1-2", "fetch-3")
    assert ids[4] == "é" * 115 + "-4"


def test_a_node_is_immutable_and_each_method_gives_another() -> None:
    wf = WorkflowBuilder("w")
    ref = wf.task(add.node(1))
    plain = add.node(1)
    before = plain._parts
    chain: list[Callable[[TaskNode[int]], TaskNode[int]]] = [
        lambda one: one.set_input(2),
        lambda one: one.waits_for(ref),
        lambda one: one.arg_from("c", ref),
        lambda one: one.good_until(AT),
        lambda one: one.queue("images"),
        lambda one: one.priority(1),
        lambda one: one.retry("mine"),
        lambda one: one.timeout(1),
        lambda one: one.node_id("n"),
        lambda one: one.allow_failed_deps(),
        lambda one: one.join_any(),
        lambda one: one.join_quorum(2),
    ]
    for method in chain:
        changed = method(plain)
        assert isinstance(changed, TaskNode)
        assert changed._parts != before
        assert method(changed)._parts.task is add
    assert plain.join_all()._parts == before == plain._parts
    for name in ("_parts", "anything"):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(plain, name, before)
    for value in (ref, SuccessCase(ref), wf.build()):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            value._index = 5


def test_no_method_of_a_node_raises_for_a_bad_value() -> None:
    bad: Any = object()
    one = add.node(bad, *[bad] * 20, zzz=bad).set_input(bad, nothing=bad).waits_for(bad, bad).arg_from(bad, bad)
    one = one.good_until(bad).queue(bad).priority(bad).retry(bad).timeout(bad).node_id(bad)
    one = one.join_quorum(bad, cancel_losers=bad).join_any(cancel_losers=bad).allow_failed_deps()
    assert "object" not in repr(one)
    codes = {problem[:9] for problem in problems_of(lambda wf: wf.task(one))}
    assert codes == {f"[HRS-0{code}]" for code in ("03", "06", "13", "14", "15", "19", "22", "23")}


def test_a_spec_does_not_change_with_its_builder_or_with_what_it_was_given() -> None:
    wf = WorkflowBuilder("w")
    given = {"a": 1}
    ref = wf.task(price.node(given))
    built = wf.build(ref)
    before = encode(resolve(built, APP))
    given["b"] = 2
    wf.task(price.node(given))
    wf.succeeds_when(optional=[ref])
    assert encode(resolve(built, APP)) == before
    assert (built.node_ids, wf.build().node_ids) == (("price-0",), ("price-0", "price-1"))


def test_reprs_show_no_arguments() -> None:
    wf = WorkflowBuilder("w")
    one = say.node(SECRET, Ok(5))
    built = wf.build(wf.task(one))
    for value in (one, wf, built, resolve(built, APP), resolve(built, APP).nodes, wf.task(one), order):
        assert SECRET not in repr(value)
    assert repr(built) == "<WorkflowSpec 'w', version 1, 1 nodes>"


def test_a_workflow_is_a_function_still() -> None:
    wf = WorkflowBuilder("w")
    priced = order(wf, 1)
    wf.task(say.node("x", priced.as_result()))
    assert wf.build().node_ids == ("fetch-0", "pay", "say-2", "say-3")
    assert getattr(order, "__name__", None) == "order"
    assert APP.workflows["order"] is order


# Declaring with an application.


def test_what_no_workflow_can_be() -> None:
    app = new_app()
    declaration: Any = app.workflow

    def fine(wf: WorkflowBuilder) -> None:
        wf.task(add.node(1))

    async def asynchronous(wf: WorkflowBuilder) -> None: ...

    def generator(wf: WorkflowBuilder) -> Any:
        yield

    assert app.workflow("fine")(fine) is app.workflows["fine"]
    for make, expected in (
        (lambda: declaration("")(fine), "[HRS-001] workflow *this is no name"),
        (lambda: declaration("x", version="1")(fine), "[HRS-023] workflow 'x': version is not"),
        (lambda: declaration(partial(fine)), "[HRS-001] workflow '': this is no name"),
        (lambda: declaration(generator), "[HRS-023] workflow 'generator' is no function"),
        (
            lambda: declaration("x", on_error="explode")(fine),
            "[HRS-023] workflow 'x': on_error is neither 'fail' nor 'pause'",
        ),
        (lambda: declaration("fine")(lambda wf: None), "[HRS-301] two workflows are named 'fine'"),
        (lambda: declaration("x")(app.workflows["fine"]), "[HRS-104] workflow 'fine' is declared already"),
        (lambda: declaration("x")(lambda: None), "[HRS-023] workflow 'x' is no function that takes a WorkflowBuilder"),
        (lambda: declaration("x")(lambda *, wf: None), "[HRS-023] workflow 'x' is no function"),
        (lambda: declaration("x")(asynchronous), "[HRS-023] workflow 'x' is no function"),
        (lambda: declaration("x")(generator), "[HRS-023] workflow 'x' is no function"),
        (lambda: declaration("x")(5), "[HRS-023] workflow 'x' is no function"),
    ):
        are(refused(make), expected)
    are(
        refused(lambda: declaration(5, version=0, on_error="")(generator)),
        "[HRS-001] workflow 5: this is no name",
        "[HRS-023] workflow 5: version is not",
        "[HRS-023] workflow 5: on_error is neither",
        "[HRS-023] workflow 5 is no function",
    )
    assert app.workflows.keys() == {"fine"}


def test_without_a_name_it_has_that_of_its_function() -> None:
    app = new_app()

    @app.workflow
    def bare(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        return wf.task(add.node(n))

    @app.workflow(version=2)
    def called(wf: WorkflowBuilder) -> None:
        wf.task(add.node(1))

    assert app.workflows == {"bare": bare, "called": called}
    assert (bare.version, called.version) == (1, 2)


def test_a_call_that_does_not_fit_the_function() -> None:
    call: Any = spec_for
    for args, kwargs, expected in (
        ((), {}, "missing a required argument: 'order_id'"),
        ((1, "EUR", SECRET), {}, "too many positional"),
        ((1,), {"zzz": SECRET}, "unexpected keyword argument 'zzz'"),
    ):
        problems = refused(lambda args=args, kwargs=kwargs: call(order, APP, *args, **kwargs))
        are(problems, f"[HRS-020] workflow 'order': the call does not fit*{expected}")
        assert "it takes order_id, currency" in problems[0]


def test_check_builds_what_can_be_called_without_arguments() -> None:
    app = new_app()
    app.include(add)
    calls = []

    @app.workflow("fine")
    def fine(wf: WorkflowBuilder, /, n: int = 5, *, m: int = 1) -> NodeRef[int]:
        calls.append(n)
        return wf.task(add.node(n))

    @app.workflow("later")
    def later(wf: WorkflowBuilder, n: int) -> None:
        raise NotImplementedError

    Runtime(app).check()
    assert calls == [5]

    @app.workflow("empty")
    def empty(wf: WorkflowBuilder) -> None: ...

    @app.workflow("wrong")
    def wrong(wf: WorkflowBuilder) -> NodeRef[int]:
        wf.task(add.node(1).retry("theirs"))
        return wf.task(stranger.node().priority(0))

    @app.workflow("raising")
    def raising(wf: WorkflowBuilder) -> None:
        raise ValueError(SECRET)

    are(
        refused(Runtime(app).check),
        "[HRS-002] workflow 'empty': it has no nodes",
        "[HRS-015] workflow 'wrong', node 'stranger-1': priority 0",
        "[HRS-023] workflow 'wrong', node 'add-0': retry policy 'theirs' is not registered",
        "[HRS-302] workflow 'wrong', node 'stranger-1'",
        "[HRS-023] workflow 'raising' cannot be built: its function raises ValueError",
    )
