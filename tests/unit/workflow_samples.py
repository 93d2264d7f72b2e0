"""Tasks and a workflow to declare others with, and what is said of those that are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from horsies import (
    AppConfig,
    Horsies,
    HorsiesError,
    NodeRef,
    Ok,
    QueueConfig,
    TaskContext,
    TaskResult,
    Workflow,
    WorkflowBuilder,
    task,
)
from horsies._payload.envelope import sha_of
from horsies._workflow.definition.builder import built
from horsies._workflow.definition.draft import WorkflowSpec
from horsies._workflow.definition.spec import NodeSpec, Spec, encode
from horsies._workflow.definition.validate import checked, resolve

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
def say(ctx: TaskContext, text: str, what: TaskResult[int] = Ok(0)) -> None: ...  # noqa: B008  # frozen, and so can be shared


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
