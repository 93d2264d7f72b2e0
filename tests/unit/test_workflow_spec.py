"""Declaring workflows: what a builder makes, what is refused and what is said of it, and the bytes that are stored."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

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
from horsies._workflow.draft import WorkflowSpec
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
        problems = refused(lambda args=args, kwargs=kwargs: call(order, APP, *args, **kwargs))  # type: ignore[misc]
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


LENGTH = 300
SHA = "6bc7ad58f7a73a97454b58f81f84faf099557510d86490e07230a31b87bb1731"


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
