"""Declaring workflows: what a builder makes, what is refused and what is said of it, and the bytes that are stored."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import horsies
from horsies import (
    AppConfig,
    Err,
    Horsies,
    HorsiesError,
    NodeRef,
    Ok,
    QueueConfig,
    RetryPolicy,
    Runtime,
    SuccessCase,
    TaskContext,
    TaskError,
    TaskNode,
    TaskResult,
    Workflow,
    WorkflowBuilder,
    task,
)
from horsies._payload.envelope import sha_of
from horsies._workflow.builder import built
from horsies._workflow.draft import Draft, WorkflowSpec
from horsies._workflow.fits import fits, result_fits
from horsies._workflow.graph import cycles_in
from horsies._workflow.spec import NodeSpec, Reference, Spec, decode, encode
from horsies._workflow.validate import checked, resolve

SECRET = "s3cret"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def new_app(**fields: Any) -> Horsies:
    queues = (QueueConfig("default"), QueueConfig("images"))
    return Horsies(AppConfig.for_database_url("sqlite://:memory:", queues=queues), **fields)


APP = new_app()


@APP.task
async def fetch(order_id: int) -> dict[str, int]:
    return {"id": order_id}


@APP.task(queue="images", priority=7, timeout=2.5)
async def price(order: dict[str, int], currency: str = "EUR", *, factor: float = 1.0) -> int:
    return 1


@APP.task
def say(ctx: TaskContext, text: str, what: TaskResult[int] = Ok(0)) -> None: ...  # noqa: B008


@APP.task
async def add(a: int, b: int = 0, /, *, c: int = 0) -> int:
    return a + b + c


@task
def stranger() -> int:
    return 1


@task("nowhere", queue="videos")
def nowhere() -> int:
    return 1


@APP.workflow("order", version=3, on_error="pause")
def order(wf: WorkflowBuilder, order_id: int, currency: str = "EUR") -> NodeRef[int]:
    fetched = wf.task(fetch.node(order_id))
    priced = wf.task(price.node(fetched, currency).node_id("pay").good_until(AT).retry("mine"))
    wf.task(say.node("sorry", priced.as_result()).allow_failed_deps())
    return priced


def spec_for(workflow: Workflow[..., Any], app: Horsies, *args: Any, **kwargs: Any) -> WorkflowSpec:
    return built(workflow, app, args, kwargs)


def sha(spec: Spec) -> bytes:
    return sha_of(encode(spec))


def node(spec: Spec, node_id: str) -> NodeSpec:
    [found] = [one for one in spec.nodes if one.node_id == node_id]
    return found


def spec_of(wf: WorkflowBuilder, output: Any = None) -> Spec:
    return resolve(wf.build(output), APP)


def refused(make: Callable[[], object]) -> list[str]:
    """What is said of each problem."""
    with pytest.raises(HorsiesError) as caught:
        make()
    assert SECRET not in str(caught.value)
    assert all(problem.notes for problem in caught.value.problems), "each has a remedy"
    assert all(str(problem).splitlines()[0] in str(caught.value) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def problems_of(add_to: Callable[[WorkflowBuilder], Any], app: Horsies = APP) -> list[str]:
    """What is said of a workflow `w`, in the order of the codes."""
    wf = WorkflowBuilder("w")
    output = add_to(wf)
    return sorted(refused(lambda: checked(wf._draft(output), app, {"mine"})))


def are(problems: Sequence[str], *expected: str) -> None:
    """Each problem begins as it is said, or holds the words after `*`."""
    assert len(problems) == len(expected), problems
    for problem, what in zip(problems, expected, strict=True):
        begin, _, words = what.partition("*")
        assert problem.startswith(begin), problem
        assert words in problem, problem


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
            value._index = 5  # type: ignore[misc, union-attr]


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
    assert APP.workflows == {"order": order}


# What is refused. Each code, and several problems at once.

NOTHING: Any = None


def test_no_name_and_no_nodes() -> None:
    for name in ("", "a\0", "x" * 256, "\ud800", 5, None):
        wf = WorkflowBuilder(name)  # type: ignore[arg-type]
        are(sorted(refused(wf.build)), "[HRS-001] workflow *this is no name", "[HRS-002] workflow *it has no nodes")


def test_options_of_the_workflow() -> None:
    bad: Any
    for bad in (0, -1, True, 1.0, "1", 2**31):
        wf = WorkflowBuilder("w", version=bad, on_error=bad)
        wf.task(add.node(1))
        problems = refused(wf.build)
        are(problems, "[HRS-023] workflow 'w': version is not", "[HRS-023] workflow 'w': on_error is neither")


def test_ids() -> None:
    def several(wf: WorkflowBuilder) -> None:
        for node_id in ("", "a\0", "x" * 256, 5, "twice", "twice", "thrice", "once", "thrice", "thrice"):
            wf.task(add.node(1).node_id(node_id))  # type: ignore[arg-type]

    are(
        problems_of(several),
        *(f"[HRS-003] workflow 'w', node 'add-{index}': its node_id is no name" for index in range(4)),
        "[HRS-004] workflow 'w', node 'thrice': 3 nodes have this id",
        "[HRS-004] workflow 'w', node 'twice': 2 nodes have this id",
    )


def test_what_is_no_reference_to_a_node_of_this_builder() -> None:
    other = WorkflowBuilder("w")
    foreign = other.task(fetch.node(1))
    made_up: Any = (add.node(1), "fetch-0", None)

    def several(wf: WorkflowBuilder) -> None:
        here = wf.task(fetch.node(1))
        wf.task(price.node(foreign))
        wf.task(add.node(1).waits_for(here, foreign))
        wf.task(add.node(1).waits_for(*made_up))
        wf.task(say.node("x").arg_from("what", made_up[1]))
        wf.task(add.node(1).waits_for(NodeRef(wf, 6), NodeRef(wf, -1)))

    foreign_one = "the node belongs to another workflow"
    are(
        problems_of(several),
        "[HRS-006] workflow 'w', node 'add-2': waits_for: " + foreign_one,
        "[HRS-006] workflow 'w', node 'add-3': *of type NoneType",
        "[HRS-006] workflow 'w', node 'add-3': *of type TaskNode",
        "[HRS-006] workflow 'w', node 'add-3': *of type str",
        "[HRS-006] workflow 'w', node 'add-5': waits_for: there is no such node",
        "[HRS-006] workflow 'w', node 'add-5': waits_for: there is no such node",
        "[HRS-006] workflow 'w', node 'price-1': argument 'order': " + foreign_one,
        "[HRS-006] workflow 'w', node 'say-4': argument 'what': *of type str",
    )


def draft_of(*nodes: tuple[str, Sequence[int]]) -> Draft:
    """A workflow of nodes that wait for any others: a builder's know only those before them."""
    builder = object()
    made = [
        add.node(1).node_id(node_id).waits_for(*(NodeRef(builder, need) for need in needs)) for node_id, needs in nodes
    ]
    return Draft(builder, "w", 1, "fail", tuple(made))


def test_cycles() -> None:
    are(
        refused(lambda: checked(draft_of(("a", [2]), ("b", [0]), ("c", [1, 3]), ("d", [3]), ("e", [0])))),
        "[HRS-005] workflow 'w': it has no node to begin with",
        "[HRS-007] workflow 'w': its nodes wait for each other: a -> c -> b -> a",
        "[HRS-007] workflow 'w': its nodes wait for each other: d -> d",
    )
    are(refused(lambda: checked(draft_of(("a", []), ("b", [2]), ("c", [1])))), "[HRS-007] *b -> c -> b")
    assert checked(draft_of(("a", [1]), ("b", [2]), ("c", []))).node_ids == ("a", "b", "c")


def test_a_value_that_may_be_missing() -> None:
    def several(wf: WorkflowBuilder) -> None:
        one = wf.task(fetch.node(1))
        wf.task(price.node(one).allow_failed_deps())
        wf.task(price.node(one).join_any())
        wf.task(price.node(one).waits_for(wf.task(add.node(1))).join_quorum(2).node_id("pay"))
        wf.task(price.node(fetch.node(1)))  # type: ignore[call-overload]
        wf.task(price.node({"a": one}))  # type: ignore[dict-item]

    missing = "argument 'order' is the value of node 'fetch-0', which may have none by then"
    are(
        problems_of(several),
        f"[HRS-008] workflow 'w', node 'pay': {missing}*ref.as_result()",
        f"[HRS-008] workflow 'w', node 'price-1': {missing}",
        f"[HRS-008] workflow 'w', node 'price-2': {missing}",
        "[HRS-008] workflow 'w', node 'price-5': argument 'order' is a TaskNode*what wf.task(...) returns",
        "[HRS-008] workflow 'w', node 'price-6': argument 'order' has a reference to a node inside",
    )


def test_the_output() -> None:
    foreign = WorkflowBuilder("w").task(add.node(1))
    for output, expected in ((foreign, "belongs to another"), (add, "type Task"), (add.node(1), "type TaskNode")):

        def one(wf: WorkflowBuilder, output: Any = output) -> Any:
            wf.task(add.node(1))
            return output

        are(problems_of(one), f"[HRS-011] workflow 'w': its output*{expected}")
    are(
        problems_of(lambda wf: wf.task(add.node(1)).as_result()), "[HRS-011] workflow 'w': *return the reference itself"
    )


def test_the_success_policy() -> None:
    def several(wf: WorkflowBuilder) -> None:
        a, b = wf.task(add.node(1)), wf.task(add.node(1))
        wrong: Any = a
        wf.succeeds_when(SuccessCase(), wrong, SuccessCase(a, WorkflowBuilder("w").task(add.node(1))), SuccessCase(b))
        wf.succeeds_when(optional=[b, NOTHING])

    are(
        problems_of(several),
        "[HRS-012] workflow 'w': a success case has a node that is optional",
        "[HRS-012] workflow 'w': a success case names no nodes",
        "[HRS-012] workflow 'w': a success case names no nodes",
        "[HRS-012] workflow 'w': a success case: the node belongs to another",
        "[HRS-012] workflow 'w': optional: *of type NoneType",
    )


def test_joins() -> None:
    def several(wf: WorkflowBuilder) -> None:
        one = wf.task(add.node(1))
        wf.task(add.node(1).join_any())
        for quorum in (0, 2, -1, True, 1.0, None):
            wf.task(add.node(1).waits_for(one, one).join_quorum(quorum))  # type: ignore[arg-type]
        wf.task(add.node(1).waits_for(one).join_any(cancel_losers=NOTHING))
        wf.task(add.node(1).waits_for(one).join_any().allow_failed_deps())

    problems = problems_of(several)
    are(
        problems,
        "[HRS-013] workflow 'w', node 'add-1': it joins 1 of the 0 nodes",
        *(
            f"[HRS-013] workflow 'w', node 'add-{index}': it joins {quorum} of the 1 nodes"
            for index, quorum in enumerate(("0", "2", "-1", "True", "1.0", "None"), 2)
        ),
        "[HRS-013] workflow 'w', node 'add-8': cancel_losers is neither",
        "[HRS-013] workflow 'w', node 'add-9': allow_failed_deps() waits for all",
    )


def test_registration_queues_and_policies() -> None:
    def several(wf: WorkflowBuilder) -> None:
        wf.task(add.node(1).queue("videos"))
        wf.task(nowhere.node())
        wf.task(stranger.node())
        wf.task(add.node(1).retry("theirs"))
        wf.task(add.node(1).retry("mine").queue("images"))

    are(
        problems_of(several),
        "[HRS-014] workflow 'w', node 'add-0': the application has no queue 'videos'*its queues: default, images",
        "[HRS-014] workflow 'w', node 'nowhere-1': the application has no queue 'videos'",
        "[HRS-023] workflow 'w', node 'add-3': retry policy 'theirs' is not registered*installed: mine",
        "[HRS-302] workflow 'w', node 'nowhere-1': task 'nowhere' is not registered",
        "[HRS-302] workflow 'w', node 'stranger-2': task 'stranger' is not registered*app.include",
    )
    wf = WorkflowBuilder("w")
    several(wf)
    built = wf.build()
    assert {problem[:9] for problem in refused(lambda: resolve(built, APP))} == {"[HRS-014]", "[HRS-302]"}


def test_a_task_of_the_same_name_is_another() -> None:
    twin = task("fetch")(lambda: None)
    are(problems_of(lambda wf: wf.task(twin.node()) and None), "[HRS-302] workflow 'w', node 'fetch-0'")


OPTIONS: list[tuple[TaskNode[int], str]] = [
    (add.node(1).priority(0), "015*priority 0 is not a whole number of 1..100"),
    (add.node(1).priority(True), "015*priority True"),
    (add.node(1).queue(""), "014*queue is not the name"),
    (add.node(1).queue(["default"]), "014*queue is not the name"),  # type: ignore[arg-type]
    (add.node(1).good_until(datetime(2026, 1, 1)), "023*good_until is not a datetime with a time zone"),
    (add.node(1).good_until(date(2026, 1, 1)), "023*good_until"),  # type: ignore[arg-type]
    (
        add.node(1).good_until(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
        "023*good_until is beyond the calendar",
    ),
    (add.node(1).timeout(0), "023*timeout is not a positive"),
    (add.node(1).timeout(float("nan")), "023*timeout is not a positive"),
    (add.node(1).timeout(timedelta.max), "023*timeout is too long"),
    (add.node(1).retry(3), "023*retry is neither"),  # type: ignore[arg-type]
    (add.node(1).retry(""), "023*retry policy '' is not registered"),
    (add.node(1).retry(RetryPolicy((1e-9,))), "023*retry has a delay that cannot be stored"),
    (add.node(1).retry(RetryPolicy((1e300,))), "023*retry has a delay that cannot be stored"),
]


@pytest.mark.parametrize(("one", "expected"), OPTIONS)
def test_an_option_that_cannot_be(one: TaskNode[int], expected: str) -> None:
    code, _, words = expected.partition("*")

    def several(wf: WorkflowBuilder) -> None:
        wf.task(one.node_id("first"))
        wf.task(one.node_id("second"))

    begin = f"[HRS-{code}] workflow 'w', node "
    are(problems_of(several), f"{begin}'first': *{words}", f"{begin}'second': *{words}")


def test_arguments_that_do_not_fit() -> None:
    def several(wf: WorkflowBuilder) -> None:
        one = wf.task(add.node(1))
        wf.task(add.node(1, 2, 3))  # type: ignore[call-overload]
        wf.task(add.node(1, b=SECRET, d=SECRET))
        wf.task(price.node({}, order={}).node_id("pay"))
        wf.task(price.node())
        wf.task(add.node().arg_from("zzz", one))
        wf.task(say.node("x", Ok(1)).arg_from("what", one))
        wf.task(say.node("x").arg_from("what", one).arg_from("what", one))
        wf.task(price.node({"a": SECRET}, 5, factor=SECRET))  # type: ignore[call-overload]
        wf.task(say.node(object(), SECRET))  # type: ignore[call-overload]
        wf.task(fetch)  # type: ignore[arg-type]
        wf.task("add")  # type: ignore[arg-type]

    are(
        problems_of(several),
        "[HRS-019] workflow 'w', node 'add-1': it has 3 positional arguments, and its task takes 2*takes a, b, c",
        "[HRS-019] workflow 'w', node 'add-2': its task has no parameter 'b' to give by name",
        "[HRS-019] workflow 'w', node 'add-2': its task has no parameter 'd' to give by name",
        "[HRS-019] workflow 'w', node 'add-5': its task has no parameter 'zzz' for arg_from",
        "[HRS-019] workflow 'w', node 'pay': argument 'order' is given by place and by name",
        "[HRS-020] workflow 'w', node 'add-5': argument 'a' missing",
        "[HRS-020] workflow 'w', node 'price-4': argument 'order' missing",
        "[HRS-021] workflow 'w', node 'say-6': argument 'what' is given and injected",
        "[HRS-021] workflow 'w', node 'say-7': argument 'what' is given and injected",
        "[HRS-022] workflow 'w', node 'price-8': argument 'currency': Expected str, got int*it takes str",
        "[HRS-022] workflow 'w', node 'price-8': argument 'factor'",
        "[HRS-022] workflow 'w', node 'price-8': argument 'order'*it takes dict[str, int]",
        "[HRS-022] workflow 'w', node 'say-9': argument 'text'",
        "[HRS-022] workflow 'w', node 'say-9': argument 'what': it is neither an Ok nor an Err",
        "[HRS-023] workflow 'w', node 'node-10': what was added is no node*my_task.node(...)",
        "[HRS-023] workflow 'w', node 'node-11': what was added is no node",
    )


def test_types_that_do_not_fit() -> None:
    def several(wf: WorkflowBuilder) -> None:
        one, fetched = wf.task(add.node(1)), wf.task(fetch.node(1))
        wf.task(price.node(one))  # type: ignore[arg-type]
        wf.task(price.node(fetched, one, factor=one).node_id("pay"))  # type: ignore[arg-type]
        wf.task(say.node("x", fetched.as_result()))  # type: ignore[arg-type]
        wf.task(say.node("x", one))  # type: ignore[arg-type]
        wf.task(add.node(one.as_result()))  # type: ignore[arg-type]
        wf.task(add.node(1).arg_from("c", one))

    are(
        problems_of(several),
        "[HRS-024] workflow 'w', node 'add-6': argument 'a' takes int, and gets the result of a task that gives int",
        "[HRS-024] workflow 'w', node 'add-7': argument 'c' takes int, *annotate the parameter TaskResult[int]",
        "[HRS-024] workflow 'w', node 'pay': argument 'currency' takes str, and gets int (of node 'add-0')",
        "[HRS-024] workflow 'w', node 'price-2': argument 'order' takes dict[str, int], and gets int (of node 'add-0')",
        "[HRS-024] workflow 'w', node 'say-4': argument 'what' takes TaskResult[int], *result of a task that gives",
        "[HRS-024] workflow 'w', node 'say-5': argument 'what' takes TaskResult[int], and gets int *pass the result",
    )


def test_everything_at_once() -> None:
    """Of a workflow that is wrong in each way that can come together."""
    wf = WorkflowBuilder("", version=0)
    foreign = WorkflowBuilder("other").task(fetch.node(1))
    one = wf.task(add.node(1).node_id(""))
    wf.task(price.node(foreign, one, factor=SECRET).node_id("n").priority(0).queue("videos"))  # type: ignore[arg-type]
    wf.task(price.node(one, zzz=1).node_id("n").join_quorum(3))  # type: ignore[arg-type]
    wf.task(price.node().timeout(-1).waits_for(one))
    wf.task(say.node("x", Ok(1)).arg_from("what", one))
    wf.task(stranger.node())
    wf.succeeds_when(SuccessCase())
    codes = [problem[5:8] for problem in refused(lambda: checked(wf._draft(one.as_result()), APP))]
    expected = "001 003 004 006 008 011 012 013 014 015 019 020 021 022 023 023 024 302"
    assert " ".join(sorted(codes)) == expected


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
        (lambda: declaration(fine), "[HRS-001] workflow *this is no name"),
        (lambda: declaration("x", version="1"), "[HRS-023] workflow 'x': version is not"),
        (
            lambda: declaration("x", on_error="explode"),
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
    assert app.workflows.keys() == {"fine"}


def test_a_call_that_does_not_fit_the_function() -> None:
    call: Any = spec_for
    for args, kwargs, expected in (
        ((), {}, "missing a required argument: 'order_id'"),
        ((1, "EUR", SECRET), {}, "too many positional"),
        ((1,), {"zzz": SECRET}, "unexpected keyword argument 'zzz'"),
    ):
        problems = refused(lambda args=args, kwargs=kwargs: call(order, APP, *args, **kwargs))  # type: ignore[misc]
        are(problems, f"[HRS-020] workflow 'order': the call does not fit*{expected}")
        assert "it takes order_id, currency" in problems[0]


def test_check_builds_what_can_be_called_without_arguments() -> None:
    app = new_app()
    app.include(add)
    calls = []

    @app.workflow("fine")
    def fine(wf: WorkflowBuilder, /, n: int = 5, *more: int, **others: int) -> NodeRef[int]:
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


# Which types fit.


class Animal: ...


class Dog(Animal): ...


class Colour(StrEnum):
    RED = "red"


class Typed(TypedDict):
    a: int


@dataclass
class Point:
    x: int


T = TypeVar("T")
UserId = NewType("UserId", int)
FIT: list[tuple[Any, Any]] = [
    (int, int),
    (int, Any),
    (Any, int),
    (object, int),
    (int, object),
    (T, int),
    (int, float),
    (None, None),
    (None, int | None),
    (int, int | None),
    (int | None, None | int),
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (str, Literal["a"]),
    (Dog, Animal),
    (Dog | None, Animal | str | None),
    (Colour, str),
    (UserId, int),
    (int, UserId),
    (Annotated[int, msgspec.Meta(gt=0)], int),
    (list, list[int]),
    (list[int], list),
    (list[int], list[int]),
    (list[Dog], list[Animal]),
    (list[int], Sequence[float]),
    (list[Any], list[int]),
    (dict[str, int], dict[str, int | None]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, ...], tuple[int, int]),
    (Typed, dict[str, int]),
    (dict[str, int], Typed),
]
UNFIT: list[tuple[Any, Any]] = [
    (int, str),
    (float, int),
    (bool, int),
    (bool, float),
    (datetime, date),
    (int, None),
    (None, int),
    (int | None, int),
    (int | str, int | None),
    (Animal, Dog),
    (Point, Animal),
    (Point, dict[str, int]),
    (str, Colour),
    (Literal[1], str),
    (Literal["c"], Literal["a", "b"]),
    (Literal["1"], Literal[1]),
    (int, Literal["a"]),
    (list[int], list[str]),
    (list[int], set[int]),
    (list[int], Sequence[str]),
    (dict[str, int], dict[str, str]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int]),
    (tuple[int, ...], tuple[str, ...]),
    (UserId, str),
]


@pytest.mark.parametrize(("given", "wanted"), FIT)
def test_types_that_fit(given: Any, wanted: Any) -> None:
    assert fits(given, wanted)
    assert result_fits(given, Ok[wanted] | Err[TaskError])
    assert not result_fits(given, wanted)


@pytest.mark.parametrize(("given", "wanted"), UNFIT)
def test_types_that_do_not(given: Any, wanted: Any) -> None:
    assert not fits(given, wanted)
    assert not result_fits(given, Err[TaskError] | Ok[wanted])


def test_a_result_of_any_value_fits_what_does_not_say() -> None:
    assert result_fits(int, Ok | Err[TaskError])
    assert not result_fits(int, Ok[int] | Err[ValueError])


# Cycles.

graphs = st.integers(1, 8).flatmap(
    lambda count: st.lists(st.lists(st.integers(0, count - 1), max_size=3), min_size=count, max_size=count)
)


@given(graphs)
def test_cycles_are_cycles_and_without_them_there_is_an_order(needs: list[list[int]]) -> None:
    cycles = cycles_in(needs)
    seen = [index for cycle in cycles for index in cycle]
    assert len(seen) == len(set(seen))
    for cycle in cycles:
        assert all(need in needs[index] for index, need in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
    left = set(range(len(needs))) - set(seen)
    while left:
        free = {index for index in left if not set(needs[index]) & left}
        assert free != set()
        left -= free


def test_a_long_chain_is_no_cycle() -> None:
    chain = [[], *([index] for index in range(20_000))]
    assert cycles_in(chain) == []
    assert len(cycles_in([[20_000], *chain[1:]])[0]) == 20_001


# Bytes.


def full() -> Spec:
    wf = WorkflowBuilder("wörk", 7, "pause")
    one = wf.task(price.node({"b": 2, "a": 1}, "€", factor=2))
    two = wf.task(fetch.node(-1).waits_for(one).good_until(AT).timeout(1).retry(RetryPolicy.fixed([1, 2])))
    wf.task(say.node("x").arg_from("what", one).allow_failed_deps().retry("mine").node_id("end"))
    wf.task(add.node(1, c=5).waits_for(two, one).join_quorum(1, cancel_losers=True))
    wf.succeeds_when(SuccessCase(one), SuccessCase(two), optional=[NodeRef(wf, 2)])
    return spec_of(wf, one)


FULL = full()
DATA = encode(FULL)


def test_the_bytes_are_these() -> None:
    """A change here is a change of the format: what is stored could no longer be read."""
    assert len(DATA) == LENGTH
    assert sha(FULL).hex() == SHA


LENGTH = 258
SHA = "56793d7bc155e77223513b0ad0dc9c48b99149aa4685e4b19b4f656e9879acd2"


def test_what_is_encoded_is_decoded() -> None:
    again = decode(DATA)
    assert again == FULL
    assert encode(again) == DATA
    assert sha(again) == sha(FULL) != sha(msgspec.structs.replace(FULL, version=8))


def test_the_order_of_names_does_not_matter() -> None:
    def turned(value: Any) -> Any:
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    nodes = tuple(
        msgspec.structs.replace(one, arguments=turned(one.arguments), injected=turned(one.injected))
        for one in FULL.nodes
    )
    assert encode(msgspec.structs.replace(FULL, nodes=nodes)) == DATA


PROGRAM = """
from tests.unit.test_workflow_spec import APP, DATA, order, spec_for
from horsies._workflow.spec import encode
from horsies._workflow.validate import resolve
print(DATA.hex(), encode(resolve(spec_for(order, APP, order_id=42), APP)).hex())
"""


def test_every_process_writes_the_same() -> None:
    here = f"{DATA.hex()} {encode(resolve(spec_for(order, APP, 42, 'EUR'), APP)).hex()}\n"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(horsies.__file__).parent.parent)},
            cwd=Path(__file__).parent.parent.parent,
            check=True,
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.stdout == here


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
@example(0, 0x92 ^ 0x93)
def test_changed_bytes_are_refused_or_another_workflow(at: int, change: int) -> None:
    changed = bytes([*DATA[:at], DATA[at] ^ change, *DATA[at + 1 :]])
    try:
        spec = decode(changed)
    except ValueError:
        return
    assert encode(spec) == changed
    assert spec != FULL
    assert sha(spec) != sha(FULL)


@given(st.binary(max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="workflow"):
        decode(garbage)


def test_shorter_and_longer_bytes_are_refused() -> None:
    for changed in (*(DATA[:at] for at in range(len(DATA))), DATA + b"\0", DATA + DATA, b"\xdc\x00\x02" + DATA[1:]):
        with pytest.raises(ValueError, match="workflow"):
            decode(changed)


def edited(edit: Callable[[list[Any]], object]) -> bytes:
    """The bytes with something changed in `[name, version, nodes, output, on_error, success, optional]`."""
    fields: list[Any] = msgspec.msgpack.decode(DATA)
    edit(fields[1])
    return msgspec.msgpack.encode(fields)


def put(at: int, value: Any) -> Callable[[list[Any]], None]:
    return lambda spec: spec.__setitem__(at, value)


def put_in_node(node: int, at: int, value: Any) -> Callable[[list[Any]], None]:
    return lambda spec: spec[2][node].__setitem__(at, value)


MICROS_END = 253_402_300_799_999_999
WRONG_TIMES: list[Any] = [MICROS_END + 1, -62_135_596_800_000_001, 1.0, True]
EDITS: list[Callable[[list[Any]], object]] = [
    lambda spec: spec.append(None),
    lambda spec: spec.pop(),
    lambda spec: spec[2][0].append(None),
    lambda spec: spec[2][0].pop(),
    lambda spec: spec[2][2][5]["what"].append(1),
    *(put(0, wrong) for wrong in ("", "a\0", 5, None, b"w")),
    *(put(1, wrong) for wrong in (0, -1, 2**31, True, 1.0, None)),
    *(put(2, wrong) for wrong in ([], None, {})),
    *(put(3, wrong) for wrong in (4, -1, True, "pay")),
    *(put(4, wrong) for wrong in ("explode", None, 1)),
    *(put(5, wrong) for wrong in ([[]], [[1, 0]], [[0, 0]], [[4]], [[-1]], [0], [[2]], None)),
    *(put(6, wrong) for wrong in ([4], [1, 1], [3, 2], [-1], [0], None)),
    *(put_in_node(0, 0, wrong) for wrong in ("", "end", 5, "x" * 256)),
    *(put_in_node(0, 1, wrong) for wrong in ("", 5)),
    *(put_in_node(0, 2, wrong) for wrong in ("", None)),
    *(put_in_node(0, 3, wrong) for wrong in (0, 101, True, 1.0)),
    *(put_in_node(0, 4, wrong) for wrong in ([], {"": 1}, {"a b": 1}, {1: 2}, {"b": 1, "a": 2}, {"a": 2**63})),
    *(put_in_node(0, 4, {"a": wrong}) for wrong in (float("nan"), datetime(2026, 1, 1, tzinfo=UTC), {"b": 1, "a": 2})),
    put_in_node(0, 4, {"a": msgspec.msgpack.Ext(5, b"")}),
    put_in_node(0, 5, {"a": [0, False]}),
    *(put_in_node(2, 5, {"what": wrong}) for wrong in ([1, True], [0, False], [0, 1], [0], None, [9, True])),
    put_in_node(2, 5, {"text": [0, True]}),
    *(put_in_node(3, 6, wrong) for wrong in ([1, 0], [0, 0, 1], [0, 4], [-1, 0], [], [0, 3])),
    put_in_node(0, 6, [1]),
    *(put_in_node(3, 7, wrong) for wrong in (0, 3, -1, True)),
    put_in_node(3, 8, True),
    *(put_in_node(0, 8, wrong) for wrong in (0, None)),
    put_in_node(0, 9, True),
    *(put_in_node(0, 10, wrong) for wrong in WRONG_TIMES),
    *(put_in_node(0, 11, wrong) for wrong in (0, -1, 2**63, 1.0, True)),
    *(put_in_node(0, 12, wrong) for wrong in ("", 5, [], [[], True], [[0], True], [[1] * 21, True], [[1], 1], [[1]])),
]


@pytest.mark.parametrize("edit", EDITS)
def test_what_no_builder_makes_is_refused(edit: Callable[[list[Any]], object]) -> None:
    with pytest.raises(ValueError, match="workflow"):
        decode(edited(edit))


def test_another_format_is_refused() -> None:
    fields = msgspec.msgpack.decode(DATA)
    for version in (0, 2):
        with pytest.raises(ValueError, match=f"of format {version}, not 1"):
            decode(msgspec.msgpack.encode([version, fields[1]]))


def test_an_edit_that_makes_sense_is_read() -> None:
    assert decode(edited(put_in_node(0, 10, MICROS_END))).nodes[0].good_until == MICROS_END
    assert decode(edited(lambda spec: None)) == FULL


def test_what_is_not_resolved_is_not_encoded() -> None:
    found = spec_for(order, APP, 1)
    with pytest.raises(ValueError, match="name"):
        encode(found._spec)
    assert isinstance(found, WorkflowSpec)
    assert replace(found) == found


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_what_is_nested_too_deeply_is_found_when_it_is_built() -> None:
    @task
    def anything(value: Any) -> None: ...

    @task
    def any_result(value: TaskResult[Any]) -> None: ...

    app = new_app()
    for one in (anything, any_result):
        app.include(one)
    values: list[Callable[[int], TaskNode[None]]] = [
        lambda levels: anything.node(nested(levels)),
        lambda levels: any_result.node(Ok(nested(levels))),
        lambda levels: any_result.node(Err(TaskError("MINE", data=nested(levels)))),
    ]
    for node_of in values:
        outcomes = []
        for levels in range(195, 205):
            wf = WorkflowBuilder("w")
            wf.task(node_of(levels))
            try:
                built = wf.build()
            except HorsiesError as error:
                outcomes.append(error.code)
            else:
                outcomes.append("fits")
                assert encode(decode(encode(resolve(built, app)))) == encode(resolve(built, app))
        assert outcomes == sorted(outcomes, reverse=True)
        assert set(outcomes) == {"fits", "HRS-022"}
    one = msgspec.structs.replace(FULL.nodes[0], arguments={"a": nested(300)})
    with pytest.raises(ValueError, match="deep"):
        encode(msgspec.structs.replace(FULL, nodes=(one, *FULL.nodes[1:])))
