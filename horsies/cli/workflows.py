"""`horsies workflow list|show|pause|resume|cancel|graph`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import typer

from horsies import (
    Horsies,
    HorsiesError,
    NodeInfo,
    Result,
    Runtime,
    WorkflowGraph,
    WorkflowHandle,
    WorkflowInfo,
    WorkflowStatus,
)

from .locate import Locator, load_app
from .tables import print_table

app = typer.Typer(help="Look at workflows, draw them, and pause, resume and cancel them.", no_args_is_help=True)

T = TypeVar("T")

WorkflowId = Annotated[str, typer.Argument(metavar="ID", help="of a workflow, or of one that is a part of another")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table")]


class Form(StrEnum):
    mermaid = "mermaid"
    svg = "svg"


@app.command("list")
def list_workflows(
    locator: Locator,
    status: Annotated[list[WorkflowStatus] | None, typer.Option(help="only these; may be given several times")] = None,
    name: Annotated[str | None, typer.Option(help="only those of this name")] = None,
    limit: Annotated[int, typer.Option(min=1, help="so many, the newest first")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the newest workflows that are no part of another."""
    infos = anyio.run(_list, load_app(locator), limit, name, status)
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in infos], default=datetime.isoformat))
        return
    print_table(
        ("workflow", "name", "status", "sent (UTC)", "ended (UTC)", ""),
        [
            (info.workflow_id, info.name, info.status, _shown(info.sent_at), _shown(info.finished_at), _notes(info))
            for info in infos
        ],
        whole=("workflow",),
    )


@app.command()
def show(locator: Locator, workflow_id: WorkflowId, as_json: AsJson = False) -> None:
    """Show how a workflow and its nodes stand."""
    info, nodes = anyio.run(_show, load_app(locator), workflow_id)
    if as_json:
        typer.echo(json.dumps({**asdict(info), "nodes": [asdict(node) for node in nodes]}, default=datetime.isoformat))
        return
    typer.echo(f"workflow {info.name!r}, version {info.version}: {info.status}")
    deadline = [] if info.good_until is None else [f"good until {_shown(info.good_until)}"]
    ended = [] if info.finished_at is None else [f"ended {_shown(info.finished_at)}"]
    typer.echo(", ".join([f"sent {_shown(info.sent_at)}", *deadline, *ended]) + " UTC")
    if _notes(info):
        typer.echo(_notes(info))
    print_table(
        ("node", "kind", "of", "status", "task or workflow", "code"),
        [
            (node.node_id, node.kind, node.task_name, node.status, node.task_id or node.workflow_id, node.error_code)
            for node in nodes
        ],
        whole=("task or workflow",),
    )


@app.command()
def pause(locator: Locator, workflow_id: WorkflowId) -> None:
    """Start no more nodes of a workflow. What runs goes on."""
    changed, status = anyio.run(_change, load_app(locator), workflow_id, WorkflowHandle.pause)
    _say(workflow_id, "is paused" if changed else _unchanged(status))


@app.command()
def resume(
    locator: Locator,
    workflow_id: WorkflowId,
    rerun_failed: Annotated[bool, typer.Option("--rerun-failed", help="run again what has failed")] = False,
) -> None:
    """Go on with a workflow that is paused."""
    ask = partial(WorkflowHandle.resume, rerun_failed=rerun_failed)
    changed, status = anyio.run(_change, load_app(locator), workflow_id, ask)
    _say(workflow_id, "goes on" if changed else _unchanged(status))


@app.command()
def cancel(locator: Locator, workflow_id: WorkflowId) -> None:
    """End a workflow. What has not begun never does, and what runs is cancelled."""
    changed, status = anyio.run(_change, load_app(locator), workflow_id, WorkflowHandle.cancel)
    _say(workflow_id, "is cancelled" if changed else _unchanged(status))


@app.command()
def graph(
    locator: Locator,
    workflow_id: WorkflowId,
    form: Annotated[Form, typer.Option("--format", help="what to write")] = Form.mermaid,
    output: Annotated[Path | None, typer.Option(help="a file; default: standard output")] = None,
) -> None:
    """Draw a workflow, coloured by how its nodes stand."""
    found = anyio.run(_graph, load_app(locator), workflow_id)
    text = found.svg if form is Form.svg else found.mermaid
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HorsiesError("HRS-206", f"--output: {output} cannot be written: {error.strerror}") from None


async def _list(
    app: Horsies, limit: int, name: str | None, statuses: list[WorkflowStatus] | None
) -> list[WorkflowInfo]:
    async with Runtime(app) as rt:
        return (await rt.list_workflows(limit, name=name, statuses=statuses or None)).unwrap()


async def _show(app: Horsies, workflow_id: str) -> tuple[WorkflowInfo, list[NodeInfo]]:
    async with Runtime(app) as rt:
        run = rt.workflow(workflow_id)
        info = _present(workflow_id, (await run.info()).unwrap())
        return info, (await run.tasks()).unwrap()


async def _change(
    app: Horsies, workflow_id: str, change: Callable[[WorkflowHandle[Any]], Awaitable[Result[bool, Any]]]
) -> tuple[bool, WorkflowStatus]:
    """Whether it changed something, and how the workflow stood before."""
    async with Runtime(app) as rt:
        run = rt.workflow(workflow_id)
        status = _present(workflow_id, (await run.status()).unwrap())
        changed = (await change(run)).unwrap()
        await rt.settle_workflows()
        return changed, status


async def _graph(app: Horsies, workflow_id: str) -> WorkflowGraph:
    async with Runtime(app) as rt:
        return _present(workflow_id, (await rt.workflow(workflow_id).graph()).unwrap())


def _present(workflow_id: str, found: T | None) -> T:
    if found is None:
        what = f"there is no workflow {workflow_id}: it was never started, or removed by retention"
        raise HorsiesError("HRS-206", what, ["`horsies workflow list` shows those that are there"])
    return found


def _say(workflow_id: str, what: str) -> None:
    typer.echo(f"workflow {workflow_id} {what}")


def _unchanged(status: WorkflowStatus) -> str:
    return f"is {status} as before"


def _notes(info: WorkflowInfo) -> str:
    notes = [f"failed by {info.error_code}"] if info.error_code else []
    return "; ".join([*notes, f"cannot go on: {info.problem}"] if info.problem else notes)


def _shown(instant: datetime | None) -> str:
    return "" if instant is None else instant.replace(tzinfo=None).isoformat(" ", "seconds")
