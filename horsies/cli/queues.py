"""`horsies queue list|pause|resume`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import anyio
import typer

from horsies import Horsies, HorsiesError, QueueInfo, Runtime

from .locate import Locator, load_app
from .tables import print_table

app = typer.Typer(help="Look at queues, pause and resume them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="QUEUE", help="one of the application's queues")]


@app.command("list")
def list_queues(
    locator: Locator,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON array instead of a table")] = False,
) -> None:
    """Show what stands in each queue, and for how long the first of what is ready has waited."""
    infos = anyio.run(_list, load_app(locator))
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in infos], default=datetime.isoformat))
        return
    headings = ("queue", "priority", "cap", "ready", "delayed", "claimed", "running", "waits", "")
    print_table(headings, [_cells(info, datetime.now(UTC)) for info in infos])


@app.command()
def pause(locator: Locator, name: Name) -> None:
    """Let no worker claim from a queue any more. What runs goes on."""
    changed = anyio.run(_pause, _with_queue(locator, name), name)
    typer.echo(f"queue {name!r} is paused" if changed else f"queue {name!r} was paused already")


@app.command()
def resume(locator: Locator, name: Name) -> None:
    """Let workers claim from a queue again."""
    changed = anyio.run(_resume, _with_queue(locator, name), name)
    typer.echo(f"queue {name!r} is claimed from again" if changed else f"queue {name!r} was not paused")


def _with_queue(locator: str, name: str) -> Horsies:
    found = load_app(locator)
    if name not in found.queues:
        raise HorsiesError("HRS-206", f"{locator} has no queue {name!r}", [f"its queues: {', '.join(found.queues)}"])
    return found


async def _list(app: Horsies) -> list[QueueInfo]:
    async with Runtime(app) as rt:
        return (await rt.queues()).unwrap()


async def _pause(app: Horsies, name: str) -> bool:
    async with Runtime(app) as rt:
        return (await rt.pause_queue(name)).unwrap()


async def _resume(app: Horsies, name: str) -> bool:
    async with Runtime(app) as rt:
        return (await rt.resume_queue(name)).unwrap()


def _cells(info: QueueInfo, now: datetime) -> list[str]:
    waits = "" if info.oldest_due_at is None else f"{max((now - info.oldest_due_at).total_seconds(), 0.0):.1f} s"
    state = "" if info.paused_at is None else f"paused since {info.paused_at:%Y-%m-%d %H:%M} UTC"
    numbers = (info.priority, info.max_concurrency, info.ready, info.delayed, info.claimed, info.running)
    return [info.name, *("" if number is None else str(number) for number in numbers), waits, state]
