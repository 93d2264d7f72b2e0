"""What is refused of a workflow: each code, and several problems at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from workflow_samples import APP, SECRET, add, are, fetch, nowhere, price, problems_of, refused, say, stranger

from horsies import (
    Horsies,
    NodeRef,
    Ok,
    RetryPolicy,
    SuccessCase,
    TaskNode,
    WorkflowBuilder,
    task,
)
from horsies._workflow.definition.draft import Draft
from horsies._workflow.definition.validate import checked, resolve

NOTHING: Any = None


def test_no_name_and_no_nodes() -> None:
    for name in ("", "a\0", "x" * 256, "\ud800", 5, None):
        wf = WorkflowBuilder(name)
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
            wf.task(add.node(1).node_id(node_id))

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
    return Draft(builder, "w", 1, "fail", tuple(made), children=(None,) * len(made))


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
        wf.task(price.node(fetch.node(1)))
        wf.task(price.node({"a": one}))

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
            wf.task(add.node(1).waits_for(one, one).join_quorum(quorum))
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
    (add.node(1).queue(["default"]), "014*queue is not the name"),
    (add.node(1).good_until(datetime(2026, 1, 1)), "023*good_until is not a datetime with a time zone"),
    (add.node(1).good_until(date(2026, 1, 1)), "023*good_until"),
    (
        add.node(1).good_until(datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
        "023*good_until is beyond the calendar",
    ),
    (add.node(1).timeout(0), "023*timeout is not a positive"),
    (add.node(1).timeout(float("nan")), "023*timeout is not a positive"),
    (add.node(1).timeout(timedelta.max), "023*timeout is too long"),
    (add.node(1).retry(3), "023*retry is neither"),
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
        wf.task(add.node(1, 2, 3))
        wf.task(add.node(1, b=SECRET, d=SECRET))
        wf.task(price.node({}, order={}).node_id("pay"))
        wf.task(price.node())
        wf.task(add.node().arg_from("zzz", one))
        wf.task(say.node("x", Ok(1)).arg_from("what", one))
        wf.task(say.node("x").arg_from("what", one).arg_from("what", one))
        wf.task(price.node({"a": SECRET}, 5, factor=SECRET))
        wf.task(say.node(object(), SECRET))
        wf.task(fetch)
        wf.task("add")

    are(
        problems_of(several),
        "[HRS-019] workflow 'w', node 'add-1': it has 3 positional arguments, and there is room for 2*takes a, b, c",
        "[HRS-019] workflow 'w', node 'add-2': there is no parameter 'b' to give by name",
        "[HRS-019] workflow 'w', node 'add-2': there is no parameter 'd' to give by name",
        "[HRS-019] workflow 'w', node 'add-5': there is no parameter 'zzz' for arg_from",
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
        wf.task(price.node(one))
        wf.task(price.node(fetched, one, factor=one).node_id("pay"))
        wf.task(say.node("x", fetched.as_result()))
        wf.task(say.node("x", one))
        wf.task(add.node(one.as_result()))
        wf.task(add.node(1).arg_from("c", one))

    are(
        problems_of(several),
        "[HRS-024] workflow 'w', node 'add-6': argument 'a' takes int, and gets the result of a node that gives int",
        "[HRS-024] workflow 'w', node 'add-7': argument 'c' takes int, *annotate the parameter TaskResult[int]",
        "[HRS-024] workflow 'w', node 'pay': argument 'currency' takes str, and gets int (of node 'add-0')",
        "[HRS-024] workflow 'w', node 'price-2': argument 'order' takes dict[str, int], and gets int (of node 'add-0')",
        "[HRS-024] workflow 'w', node 'say-4': argument 'what' takes TaskResult[int], *result of a node that gives",
        "[HRS-024] workflow 'w', node 'say-5': argument 'what' takes TaskResult[int], and gets int *pass the result",
    )


def wrong_in_many_ways() -> Draft:
    wf = WorkflowBuilder("", version=0)
    foreign = WorkflowBuilder("other").task(fetch.node(1))
    one = wf.task(add.node(1).node_id(""))
    wf.task(price.node(foreign, one, factor=SECRET).node_id("n").priority(0).queue("videos"))
    wf.task(price.node(one, zzz=1).node_id("n").join_quorum(3))
    wf.task(price.node().timeout(-1).waits_for(one))
    wf.task(say.node("x", Ok(1)).arg_from("what", one))
    wf.task(stranger.node())
    wf.succeeds_when(SuccessCase())
    return wf._draft(one.as_result())


def wrong_in_other_ways() -> Draft:
    """What those of `wrong_in_many_ways` leave no room for."""
    theirs = Horsies(APP.config)

    @theirs.workflow
    def part(wf: WorkflowBuilder) -> None:
        wf.task(add.node(1))

    wf = WorkflowBuilder("w")
    wf.subworkflow(part.node())
    one = wf.task(add.node(1).ctx_from(WorkflowBuilder("other").task(fetch.node(1))))
    return wf._draft(one, returns=str)


TOGETHER: list[tuple[Callable[[], Draft], str]] = [
    (wrong_in_many_ways, "001 003 004 006 008 011 012 013 014 015 019 020 021 022 023 023 024 302"),
    (wrong_in_other_ways, "009 010 018 025"),
    (lambda: draft_of(("a", [1]), ("b", [0]), ("a", [0])), "004 005 007"),
    (lambda: WorkflowBuilder("")._draft(None), "001 002"),
]


@pytest.mark.parametrize(("draft", "expected"), TOGETHER)
def test_everything_at_once(draft: Callable[[], Draft], expected: str) -> None:
    problems = refused(lambda: checked(draft(), APP))
    assert " ".join(sorted(problem[5:8] for problem in problems)) == expected
    assert all(problem[10:].startswith("workflow ") for problem in problems)


def test_each_code_has_been_seen_together_with_others() -> None:
    page = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
    documented = re.findall(r"^\| HRS-(0\d\d) \|", page, re.MULTILINE)
    assert documented == sorted({code for _, codes in TOGETHER for code in codes.split()} - {"302"})


def test_more_nodes_than_can_be_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horsies._workflow.definition.validate.MOST_NODES", 3)

    def four(wf: WorkflowBuilder) -> None:
        for _ in range(4):
            wf.task(add.node(1).priority(0).node_id("same"))

    problems = problems_of(four)
    assert len(problems) == 6
    are(problems[-1:], "[HRS-023] workflow 'w': it has 4 nodes, and 3 are the most*subworkflow")
