"""`horsies schedule list|pause|resume|trigger|backfill`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import anyio
import typer

from horsies import BackfillInfo, Horsies, HorsiesError, Runtime, ScheduleInfo, TaskHandle

from .locate import Locator, load_app
from .tables import print_table

app = typer.Typer(help="Look at schedules, pause and resume them, and send for them by hand.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="SCHEDULE", help="one of the application's schedules")]

_INSTANT = "for example 2026-01-31T03:00:00Z, or 2026-01-31T04:00:00+01:00"


@app.command("list")
def list_schedules(
    locator: Locator,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON array instead of a table")] = False,
) -> None:
    """Show where each schedule stands: which slot comes next, for which one a task was sent last, and what is amiss."""
    infos = anyio.run(_list, load_app(locator))
    if as_json:
        typer.echo(json.dumps([asdict(info) for info in infos], default=datetime.isoformat))
        return
    slots = ("next slot (UTC)", "last slot (UTC)")
    print_table(("schedule", "task", "timing", *slots, ""), map(_cells, infos), whole=slots)


@app.command()
def pause(locator: Locator, name: Name) -> None:
    """Send nothing for a schedule any more. What was sent goes on."""
    changed = anyio.run(_pause, _with_schedule(locator, name), name)
    typer.echo(f"schedule {name!r} is paused" if changed else f"schedule {name!r} was paused already")


@app.command()
def resume(locator: Locator, name: Name) -> None:
    """Send for a schedule again, from its first slot after now on."""
    changed = anyio.run(_resume, _with_schedule(locator, name), name)
    typer.echo(f"schedule {name!r} is sent for again" if changed else f"schedule {name!r} was not paused")


@app.command()
def trigger(locator: Locator, name: Name) -> None:
    """Send the task of a schedule now, beside its slots, paused or not, and print the task's id."""
    handle = anyio.run(_trigger, _with_schedule(locator, name), name)
    typer.echo(handle.task_id)
    if handle.deduplicated:
        typer.echo("nothing was sent: this task with the same unique key has not ended", err=True)


@app.command()
def backfill(
    locator: Locator,
    name: Name,
    start: Annotated[str, typer.Option(metavar="INSTANT", help=f"the first of the range; {_INSTANT}")],
    end: Annotated[str | None, typer.Option(metavar="INSTANT", help="the last of the range; default: now")] = None,
) -> None:
    """Send for each slot of a range that has come and has no task. What stopped half-way is simply run again."""
    found = _with_schedule(locator, name)
    first = _instant("--start", start)
    # By the database's clock a range ends now at the latest.
    last = datetime.max.replace(tzinfo=UTC) if end is None else _instant("--end", end)
    if end is not None and last < first:
        raise HorsiesError("HRS-206", "--end is before --start")
    info = anyio.run(_backfill, found, name, first, last)
    typer.echo(f"schedule {name!r}: sent {info.sent}, and {info.present} had their task already")


def _with_schedule(locator: str, name: str) -> Horsies:
    found = load_app(locator)
    if name not in found.schedules:
        known = ", ".join(found.schedules) or "none"
        raise HorsiesError("HRS-206", f"{locator} has no schedule {name!r}", [f"its schedules: {known}"])
    return found


def _instant(option: str, text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise HorsiesError("HRS-206", f"{option}: {text!r} is not an instant in ISO form", [_INSTANT]) from None
    if instant.utcoffset() is None:
        raise HorsiesError("HRS-206", f"{option}: {text!r} has no time zone", [_INSTANT])
    return instant


async def _list(app: Horsies) -> list[ScheduleInfo]:
    async with Runtime(app) as rt:
        return (await rt.schedules()).unwrap()


async def _pause(app: Horsies, name: str) -> bool:
    async with Runtime(app) as rt:
        return (await rt.pause_schedule(name)).unwrap()


async def _resume(app: Horsies, name: str) -> bool:
    async with Runtime(app) as rt:
        return (await rt.resume_schedule(name)).unwrap()


async def _trigger(app: Horsies, name: str) -> TaskHandle[Any]:
    async with Runtime(app) as rt:
        return (await rt.trigger_schedule(name)).unwrap()


async def _backfill(app: Horsies, name: str, start: datetime, end: datetime) -> BackfillInfo:
    async with Runtime(app) as rt:
        return (await rt.backfill_schedule(name, start, end)).unwrap()


def _cells(info: ScheduleInfo) -> list[str]:
    # One that is paused goes on with a slot after its resumption: the one where it stands will not be sent for.
    next_slot = info.next_slot if info.paused_at is None else None
    return [info.name, info.task_name or "", info.timing, _shown(next_slot), _shown(info.last_slot), _state(info)]


def _shown(slot: datetime | None) -> str:
    if slot is None:
        return ""
    return slot.replace(tzinfo=None).isoformat(" ", "milliseconds" if slot.microsecond else "seconds")


def _state(info: ScheduleInfo) -> str:
    states = []
    if info.task_name is None:
        states.append("not of this application")
    if info.enabled is False:
        states.append("disabled")
    if info.paused_at is not None:
        states.append(f"paused since {info.paused_at:%Y-%m-%d %H:%M} UTC")
    if info.problem is not None:
        states.append(info.problem)
    return "; ".join(states)
