"""Workflows on the command line: looked at, drawn, paused, resumed and cancelled."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from .shell import Shell, once, stored

FLOWS = """
from pathlib import Path

from horsies import AppConfig, Horsies, NodeRef, QueueConfig, Runtime, TaskError, WorkflowBuilder

app = Horsies(AppConfig.from_env(queues=(QueueConfig("default"), QueueConfig("slow"))))

@app.task
async def add(a: int, b: int) -> int:
    return a + b

@app.task(queue="slow")
async def often(n: int) -> int:
    if not Path("mended").exists():
        raise TaskError("BROKEN", "no matter")
    return n

@app.workflow("inner")
def inner(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
    return wf.task(often.node(n).node_id("deep [red]"))

@app.workflow("flow", version=3, on_error="pause")
def flow(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
    one = wf.task(add.node(n, 1).node_id("first"))
    return wf.task(add.node(one, wf.subworkflow(inner.node(n).node_id("part"))).node_id("last"))

async def start(n: int) -> None:
    async with Runtime(app) as rt:
        print((await flow.handle(rt).start(n)).unwrap().workflow_id)

async def get(workflow_id: str) -> None:
    async with Runtime(app) as rt:
        print(await rt.workflow(workflow_id).get(timeout=20))
"""
NOT_THERE = "01a21514-d1a3-7153-b923-c19a554eccfe"


@pytest.fixture
def flows(shell: Shell) -> Shell:
    (shell.folder / "flows.py").write_text(FLOWS)
    return shell


def started(flows: Shell, n: int = 1) -> str:
    return flows.python(f"import flows; anyio.run(flows.start, {n})")


def run(flows: Shell, *args: str) -> str:
    done = flows.run("workflow", args[0], "flows:app", *args[1:], env={"COLUMNS": "60"})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def work(flows: Shell) -> None:
    assert flows.run("worker", "flows:app", "--until-idle").returncode == 0


def shown(flows: Shell, workflow_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(flows, "show", workflow_id, "--json"))
    return found


@stored
def test_a_workflow_is_looked_at_mended_and_resumed(flows: Shell) -> None:
    workflow_id = started(flows)
    work(flows)
    info = shown(flows, workflow_id)
    assert (info["name"], info["version"], info["status"]) == ("flow", 3, "PAUSED")
    nodes = {node["node_id"]: node for node in info["nodes"]}
    assert {node_id: node["status"] for node_id, node in nodes.items()} == {
        "first": "COMPLETED",
        "part": "FAILED",
        "last": "SKIPPED",
    }
    assert (nodes["part"]["kind"], nodes["part"]["error_code"]) == ("workflow", "SUBWORKFLOW_FAILED")
    text = run(flows, "show", workflow_id)
    assert "workflow 'flow', version 3: PAUSED" in text
    assert "SUBWORKFLOW_FAILED" in text
    part = run(flows, "show", nodes["part"]["workflow_id"])
    assert "deep [red]" in part
    assert "failed by BROKEN" in part
    assert workflow_id in run(flows, "list", "--status", "PAUSED")
    (flows.folder / "mended").touch()
    assert run(flows, "resume", workflow_id, "--rerun-failed") == f"workflow {workflow_id} goes on\n"
    work(flows)
    assert flows.python(f"import flows; anyio.run(flows.get, {workflow_id!r})") == "Ok(value=3)"
    assert run(flows, "resume", workflow_id) == f"workflow {workflow_id} is COMPLETED as before\n"
    assert run(flows, "cancel", workflow_id) == f"workflow {workflow_id} is COMPLETED as before\n"


@stored
def test_workflows_are_listed_paused_and_cancelled(flows: Shell) -> None:
    first, second = started(flows), started(flows)
    assert run(flows, "pause", first) == f"workflow {first} is paused\n"
    assert run(flows, "pause", first) == f"workflow {first} is PAUSED as before\n"
    assert run(flows, "cancel", second) == f"workflow {second} is cancelled\n"
    infos = json.loads(run(flows, "list", "--json"))
    assert [(info["workflow_id"], info["status"]) for info in infos] == [(second, "CANCELLED"), (first, "PAUSED")]
    assert [line.split()[0] for line in run(flows, "list", "--limit", "1").splitlines()[1:]] == [second]
    assert len(json.loads(run(flows, "list", "--status", "PAUSED", "--status", "CANCELLED", "--json"))) == 2
    assert json.loads(run(flows, "list", "--name", "inner", "--json")) == []
    nodes = {node["node_id"]: node for node in shown(flows, second)["nodes"]}
    part = shown(flows, nodes["part"]["workflow_id"])
    assert part["status"] == "CANCELLED", "a cancellation from the shell reaches what is inside before it ends"
    assert nodes["first"]["status"] == "FAILED"
    work(flows)
    assert {node["status"] for node in shown(flows, first)["nodes"]} == {"COMPLETED", "RUNNING", "PENDING"}


@once
def test_a_workflow_is_drawn(flows: Shell) -> None:
    workflow_id = started(flows)
    mermaid = run(flows, "graph", workflow_id)
    assert mermaid.startswith("flowchart TD\n")
    assert ":::running" in mermaid
    assert ET.fromstring(run(flows, "graph", workflow_id, "--format", "svg")).tag.endswith("svg")  # ours
    assert run(flows, "graph", workflow_id, "--format", "svg", "--output", "flow.svg") == ""
    assert (flows.folder / "flow.svg").read_text().startswith("<svg")
    done = flows.run("workflow", "graph", "flows:app", workflow_id, "--output", "no/such/folder.svg")
    assert done.returncode == 2
    assert "--output" in done.stderr


@stored
def test_what_is_not_there(flows: Shell) -> None:
    for workflow_id in (NOT_THERE, "nonsense"):
        for command in ("show", "pause", "resume", "cancel", "graph"):
            done = flows.run("workflow", command, "flows:app", workflow_id)
            assert (done.returncode, done.stdout) == (2, "")
            assert f"there is no workflow {workflow_id}" in done.stderr
            assert "Traceback" not in done.stderr
    assert flows.run("workflow", "list", "flows:app", "--status", "LOST").returncode == 2
