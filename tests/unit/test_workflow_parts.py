"""Declaring workflows inside of workflows, maps, and contexts: what is made of them, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from workflow_samples import APP, SECRET, add, are, new_app, node, nowhere, problems_of, say, spec_of, stranger

from horsies import Horsies, HorsiesError, NodeRef, Runtime, TaskContext, WorkflowBuilder
from horsies._workflow.definition.builder import built
from horsies._workflow.definition.spec import Reference, decode, encode
from horsies._workflow.definition.validate import resolve


@APP.task
async def numbers(n: int) -> list[int]:
    return list(range(n))


@APP.task
async def gather(ctx: TaskContext, values: list[int], by: int = 1) -> int:
    return sum(values)


@APP.workflow("sums", version=4)
def sums(wf: WorkflowBuilder, a: int, b: int = 2) -> NodeRef[int]:
    return wf.task(add.node(a, b))


@APP.workflow("outer")
def outer(wf: WorkflowBuilder, a: int = 1) -> NodeRef[int]:
    return wf.subworkflow(sums.node(a).node_id("inner"))


# What a builder makes.


def test_a_part_whose_arguments_are_known_is_stored_with_the_whole() -> None:
    wf = WorkflowBuilder("w")
    part = wf.subworkflow(outer.node(5))
    spec = spec_of(wf, part)
    (found,) = spec.nodes
    assert (found.kind, found.task_name, found.arguments, found.injected) == ("workflow", "outer", {}, {})
    child = found.child
    assert child is not None
    assert (child.name, child.version, child.within) == ("outer", 1, ("w",))
    inner = child.nodes[0].child
    assert inner is not None
    assert (inner.name, inner.version, inner.within) == ("sums", 4, ("w", "outer"))
    assert inner.nodes[0].arguments == {"a": 5, "b": 2, "c": 0}
    assert decode(encode(spec)) == spec


def test_a_part_that_waits_for_arguments_is_built_later() -> None:
    wf = WorkflowBuilder("w")
    one = wf.task(add.node(1))
    spec = spec_of(wf, wf.subworkflow(sums.node(one).queue("images").node_id("part")))
    found = node(spec, "part")
    assert (found.kind, found.child, found.queue) == ("workflow", None, "images")
    assert (found.arguments, found.injected) == ({"b": 2}, {"a": Reference(0, False)})
    assert decode(encode(spec)) == spec


def test_a_map() -> None:
    wf = WorkflowBuilder("w")
    some = wf.task(numbers.node(3))
    more = wf.task(add.node(1))
    mapped = wf.map(add.node(c=more).timeout(2), over=some)
    spec = spec_of(wf, wf.task(gather.node(mapped)))
    found = node(spec, "add-2")
    assert (found.kind, found.item, found.timeout, found.queue) == ("map", "a", 2_000_000, "default")
    assert found.injected == {"a": Reference(0, False), "c": Reference(1, False)}
    assert found.arguments == {"b": 0}
    assert decode(encode(spec)) == spec


def test_the_item_takes_the_first_parameter_that_is_free() -> None:
    wf = WorkflowBuilder("w")
    some = wf.task(numbers.node(3))
    wf.map(add.node(5), over=some)
    assert node(spec_of(wf), "add-1").item == "b"


def test_what_a_context_is_made_of_is_waited_for() -> None:
    wf = WorkflowBuilder("w")
    one, two, three = (wf.task(add.node(n)) for n in range(3))
    wf.task(say.node("x").ctx_from(three, one).waits_for(two).node_id("end"))
    spec = spec_of(wf)
    assert (node(spec, "end").context, node(spec, "end").needs) == ((0, 2), (0, 1, 2))
    assert decode(encode(spec)) == spec


# What is refused.


def test_what_is_no_workflow() -> None:
    app = new_app()

    @app.workflow("theirs")
    def theirs(wf: WorkflowBuilder) -> None:
        wf.task(stranger.node())
        wf.task(nowhere.node().node_id("far"))

    def several(wf: WorkflowBuilder) -> None:
        wf.subworkflow(add.node(1))
        wf.subworkflow("sums")
        wf.task(sums.node(1))
        wf.map(sums.node(), over=wf.task(numbers.node(1)))
        wf.subworkflow(theirs.node())

    are(
        problems_of(several),
        "[HRS-014] workflow 'theirs', node 'far': the application has no queue 'videos'",
        "[HRS-018] workflow 'w', node 'node-0': what was added is no node of a declared workflow",
        "[HRS-018] workflow 'w', node 'theirs-5': workflow 'theirs' is not registered",
        "[HRS-023] workflow 'w', node 'node-1': what was added is no node of a declared task",
        "[HRS-023] workflow 'w', node 'node-2': what was added is a workflow",
        "[HRS-023] workflow 'w', node 'node-4': what was added is a workflow",
        "[HRS-302] workflow 'theirs', node 'far'",
        "[HRS-302] workflow 'theirs', node 'stranger-0'",
    )


def test_arguments_of_parts() -> None:
    def several(wf: WorkflowBuilder) -> None:
        some, one = wf.task(numbers.node(1)), wf.task(add.node(1))
        wf.subworkflow(sums.node())
        wf.subworkflow(sums.node(SECRET))
        wf.subworkflow(sums.node(1, 2, 3))
        wf.subworkflow(sums.node(some))
        wf.subworkflow(sums.node(1).timeout(5).retry("mine").priority(3))
        wf.map(add.node(1, 2, c=3), over=some)
        wf.map(add.node(), over=one)
        wf.map(say.node(), over=some)
        wf.map(add.node(), over=some.as_result())
        wf.map(add.node(), over=None)

    are(
        problems_of(several),
        "[HRS-006] workflow 'w', node 'add-11': argument 'a': what is named is no reference to a node",
        "[HRS-019] workflow 'w', node 'sums-4': it has 3 positional arguments, and there is room for 2",
        "[HRS-020] workflow 'w', node 'sums-2': argument 'a' missing",
        "[HRS-021] workflow 'w', node 'add-7': all parameters have arguments",
        "[HRS-022] workflow 'w', node 'sums-3': argument 'a'",
        "[HRS-023] workflow 'w', node 'sums-6': a subworkflow has no timeout, retry or priority of its own",
        "[HRS-024] workflow 'w', node 'add-10'",
        "[HRS-024] workflow 'w', node 'add-8': argument 'a' takes list[int], and gets int",
        "[HRS-024] workflow 'w', node 'say-9': argument 'text' takes list[str], and gets list[int]",
        "[HRS-024] workflow 'w', node 'sums-5': argument 'a' takes int, and gets list[int]",
    )


def test_types_that_parts_and_maps_give() -> None:
    def several(wf: WorkflowBuilder) -> None:
        mapped = wf.map(add.node(), over=wf.task(numbers.node(3)))
        wf.task(add.node(mapped))
        part = wf.subworkflow(sums.node(1))
        wf.task(gather.node(part))
        wf.task(gather.node(mapped, part))

    are(
        problems_of(several),
        "[HRS-024] workflow 'w', node 'add-2': argument 'a' takes int, and gets list[int]",
        "[HRS-024] workflow 'w', node 'gather-4': argument 'values' takes list[int], and gets int",
    )


def test_a_workflow_that_is_a_part_of_itself() -> None:
    app = new_app()
    app.include(add)

    @app.workflow("a")
    def a(wf: WorkflowBuilder, n: int = 1) -> NodeRef[int]:
        return wf.subworkflow(b.node(n).node_id("to b"))

    @app.workflow("b")
    def b(wf: WorkflowBuilder, n: int = 1) -> NodeRef[int]:
        wf.task(add.node().node_id("lacks"))
        # Neither what is known now nor what is known later may lead back.
        wf.subworkflow(a.node(wf.task(add.node(n))).node_id("late"))
        return wf.subworkflow(a.node(n).node_id("to a"))

    with pytest.raises(HorsiesError) as caught:
        Runtime(app).check()
    are(
        sorted({str(problem) for problem in caught.value.problems}),
        "[HRS-007] workflow 'a', node 'to b': the workflow would be a part of itself: b -> a -> b",
        "[HRS-007] workflow 'b', node 'late': the workflow would be a part of itself: a -> b -> a",
        "[HRS-007] workflow 'b', node 'to a': the workflow would be a part of itself: a -> b -> a",
        "[HRS-020] workflow 'b', node 'lacks': argument 'a' missing",
    )


def test_where_it_is_built_later_it_cannot_be_a_part_of_itself_either() -> None:
    with pytest.raises(HorsiesError, match="a part of itself: sums -> w -> sums") as caught:
        built(within_sums(), APP, (1,), {}, within=("outermost", "sums"))
    assert caught.value.code == "HRS-007"


def within_sums() -> Any:
    app = Horsies(APP.config)

    @app.workflow("w")
    def w(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        return wf.subworkflow(sums.node(n))

    return w


def test_contexts() -> None:
    other = WorkflowBuilder("w")
    foreign = other.task(add.node(1))

    def several(wf: WorkflowBuilder) -> None:
        one, some = wf.task(add.node(1)), wf.task(numbers.node(1))
        wf.task(say.node("x").ctx_from(foreign, one, one, one.as_result()))
        wf.task(say.node("x").ctx_from(add.node(1)))
        wf.task(add.node(1).ctx_from(one))
        wf.subworkflow(sums.node(1).ctx_from(one))
        wf.map(gather.node(by=1).ctx_from(one), over=wf.task(stranger.node()))
        del some

    are(
        problems_of(several),
        "[HRS-009] workflow 'w', node 'say-2': ctx_from names node 'add-0' twice",
        "[HRS-009] workflow 'w', node 'say-2': ctx_from names node 'add-0' twice",
        "[HRS-009] workflow 'w', node 'say-2': ctx_from: the node belongs to another workflow",
        "[HRS-009] workflow 'w', node 'say-3': ctx_from: what is named is no reference to a node",
        "[HRS-010] workflow 'w', node 'add-4': ctx_from needs a task that takes a context, and task 'add' takes none",
        "[HRS-010] workflow 'w', node 'gather-7': ctx_from needs a task that takes a context",
        "[HRS-010] workflow 'w', node 'sums-5': ctx_from needs a task that takes a context, and workflow 'sums'",
        "[HRS-024] workflow 'w', node 'gather-7'",
        "[HRS-302] workflow 'w', node 'stranger-6'",
    )


def test_what_the_function_says_that_it_returns() -> None:
    app = new_app()
    app.include(add)
    app.include(numbers)

    @app.workflow("says str")
    def says_str(wf: WorkflowBuilder) -> NodeRef[str]:
        return wf.task(add.node(1).node_id("sum"))

    @app.workflow("says int")
    def says_int(wf: WorkflowBuilder) -> NodeRef[int]:
        wf.task(add.node(1))
        return None

    @app.workflow("says none")
    def says_none(wf: WorkflowBuilder) -> None:
        return wf.task(add.node(1).node_id("sum"))

    @app.workflow("says nothing")
    def says_nothing(wf: WorkflowBuilder):
        return wf.task(add.node(1))

    @app.workflow("says list")
    def says_list(wf: WorkflowBuilder) -> NodeRef[list[int]]:
        return wf.map(add.node(), over=wf.task(numbers.node(1)))

    with pytest.raises(HorsiesError) as caught:
        Runtime(app).check()
    are(
        [str(problem) for problem in caught.value.problems],
        "[HRS-025] workflow 'says str', node 'sum': its function is annotated NodeRef[str], and its output gives int",
        "[HRS-025] workflow 'says int': its function is annotated NodeRef[int] and returns none",
        "[HRS-025] workflow 'says none', node 'sum': its function is annotated None, and its output gives int",
    )


def test_what_no_spec_can_be() -> None:
    wf = WorkflowBuilder("w")
    some = wf.task(numbers.node(3))
    wf.map(add.node(), over=some)
    wf.subworkflow(sums.node(1))
    spec = resolve(wf.build(), APP)
    change = msgspec.structs.replace

    def changed(index: int, **fields: Any) -> Any:
        nodes = list(spec.nodes)
        nodes[index] = change(nodes[index], **fields)
        return change(spec, nodes=tuple(nodes))

    for wrong, what in (
        (changed(1, item=None), "map what is no value"),
        (changed(1, item="zzz"), "map what is no value"),
        (changed(1, injected={"a": Reference(0, True)}, allow_failed_deps=True), "map what is no value"),
        (changed(0, item="n"), "map what is no value"),
        (changed(0, child=spec.nodes[2].child), "have a workflow inside"),
        (changed(2, arguments={"a": 1}), "have a workflow inside"),
        (changed(2, child=change(spec.nodes[2].child, nodes=())), "nodes are none"),
        (changed(0, context=(1,)), "context is made of"),
        (change(spec, within=("",)), "list of names"),
        (change(spec, collects=True), "output is the values of all its nodes"),
    ):
        with pytest.raises(ValueError, match=what):
            encode(wrong)
    assert encode(change(spec, nodes=(), collects=True)) != encode(spec)
