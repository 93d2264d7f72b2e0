"""The bytes that are stored of a workflow: the same everywhere, and nothing else is read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from workflow_samples import (
    APP,
    AT,
    add,
    fetch,
    new_app,
    order,
    price,
    say,
    sha,
    spec_for,
    spec_of,
)

import horsies
from horsies import (
    Err,
    HorsiesError,
    NodeRef,
    Ok,
    RetryPolicy,
    SuccessCase,
    TaskError,
    TaskNode,
    TaskResult,
    WorkflowBuilder,
    task,
)
from horsies._workflow.definition.draft import WorkflowSpec
from horsies._workflow.definition.spec import Spec, decode, encode
from horsies._workflow.definition.validate import resolve


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
from test_workflow_bytes import DATA
from workflow_samples import APP, order, spec_for
from horsies._workflow.definition.spec import encode
from horsies._workflow.definition.validate import resolve
print(DATA.hex(), encode(resolve(spec_for(order, APP, order_id=42), APP)).hex())
"""


def test_every_process_writes_the_same() -> None:
    here = f"{DATA.hex()} {encode(resolve(spec_for(order, APP, 42, 'EUR'), APP)).hex()}\n"
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(horsies.__file__).parent.parent)},
            cwd=Path(__file__).parent,
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
