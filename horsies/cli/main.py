"""The command line: `horsies worker|scheduler|queue|schedule|workflow|check|migrate|demo`.

Exit codes: 0 done or stopped in order, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated

import anyio
import typer

from horsies import BrokerError, HorsiesError, Runtime, TaskSendError, WorkerConfig

from .fork_parser import carry_out, read_apart
from .locate import Locator, load_app
from .logs import LogFormat, LogLevel
from .migrate import bring_up_to_date, print_sql, print_state
from .queues import app as queue_commands
from .scheduler import run_scheduler
from .schedules import app as schedule_commands
from .supervisor import LAST_PORT, supervise
from .worker import Surroundings, run_worker
from .workflows import app as workflow_commands

app = typer.Typer(
    name="horsies",
    help="A task queue on Postgres, native on Trio and asyncio.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

USAGE = frozenset(("HRS-206", "HRS-207", "HRS-215"))
"""Codes of errors that only another command line mends."""

INTERRUPTED = 128 + signal.SIGINT
"""The exit code of one that is interrupted before it has a handler for that, as a shell gives it."""
STAYING = ["worker"], ["scheduler"]
"""How the command lines begin whose processes stay."""

_TOLD = (HorsiesError, BrokerError, TaskSendError)

app.add_typer(queue_commands, name="queue")
app.add_typer(schedule_commands, name="schedule")
app.add_typer(workflow_commands, name="workflow")


class Backend(StrEnum):
    asyncio = "asyncio"
    trio = "trio"


@app.command()
def worker(
    context: typer.Context,
    locator: Locator,
    backend: Annotated[Backend, typer.Option(help="the event loop")] = Backend.asyncio,
    processes: Annotated[
        int | None, typer.Option(min=1, help="so many worker processes under a supervisor; default: this one, without")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="tasks at once, async and sync together")] = 100,
    threads: Annotated[int | None, typer.Option(help="sync tasks at once; default: as many as tasks")] = None,
    queues: Annotated[str | None, typer.Option(help="comma-separated; default: all")] = None,
    drain_timeout: Annotated[float, typer.Option(help="seconds for running tasks at SIGTERM")] = 30.0,
    name: Annotated[str | None, typer.Option(help="shown in logs and TaskInfo.worker_id")] = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="stop when nothing is due")] = False,
    max_tasks: Annotated[int | None, typer.Option(help="end after so many tasks; a supervisor replaces it")] = None,
    max_memory: Annotated[int | None, typer.Option(help="end above so many MiB; a supervisor replaces it")] = None,
    health_port: Annotated[
        int | None, typer.Option(min=1, max=LAST_PORT, help="answer GET /livez and /readyz; process i of N at port + i")
    ] = None,
    health_host: Annotated[str, typer.Option(help="the address for them; :: for IPv6")] = "0.0.0.0",
    log_format: Annotated[LogFormat, typer.Option(help="how logs are written")] = LogFormat.text,
    log_level: Annotated[LogLevel | None, typer.Option(help="the least that is logged; default: warning")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="short for --log-level info")] = False,
    lifeline: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run a worker until SIGTERM, SIGINT or SIGHUP; a second signal cuts the drain short."""
    config = WorkerConfig(
        queues=None if queues is None else tuple(part.strip() for part in queues.split(",") if part.strip()),
        concurrency=concurrency,
        threads=threads,
        drain_timeout=drain_timeout,
        name=name,
        until_idle=until_idle,
        max_tasks=max_tasks,
        max_memory=max_memory,
    )
    log = log_format, log_level or (LogLevel.info if verbose else LogLevel.warning)
    if processes is not None:
        carry_out(partial(supervise, processes, config, context.params, backend.value, log))
    else:
        surroundings = Surroundings(health_host, health_port, lifeline)
        carry_out(partial(run_worker, locator, config, surroundings, backend.value, log))


@app.command()
def scheduler(
    locator: Locator,
    backend: Annotated[Backend, typer.Option(help="the event loop")] = Backend.asyncio,
    log_format: Annotated[LogFormat, typer.Option(help="how logs are written")] = LogFormat.text,
    log_level: Annotated[LogLevel | None, typer.Option(help="the least that is logged; default: warning")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="short for --log-level info")] = False,
) -> None:
    """Send for the schedules until SIGTERM, SIGINT or SIGHUP, without running tasks; workers do it as well."""
    log = log_format, log_level or (LogLevel.info if verbose else LogLevel.warning)
    carry_out(partial(run_scheduler, locator, backend.value, log))


@app.command()
def check(
    locator: Locator,
    live: Annotated[bool, typer.Option("--live", help="also reach the database")] = False,
    backend: Annotated[Backend, typer.Option(help="the event loop for --live")] = Backend.asyncio,
) -> None:
    """Validate an application: everything it names is there, and with --live the database answers."""
    os.environ["HORSIES_SUPPRESS_SENDS"] = "1"
    found = load_app(locator)
    runtime = Runtime(found)
    runtime.check()
    parts = {"tasks": found.tasks, "queues": found.queues, "schedules": found.schedules, "workflows": found.workflows}
    counts = ", ".join(f"{len(ones)} {kind}" for kind, ones in parts.items())
    typer.echo(f"{locator}: {counts}, {found.config.masked_url}: fine")
    if live:
        typer.echo(anyio.run(_check_live, runtime, backend=backend.value))


async def _check_live(runtime: Runtime) -> str:
    async with runtime:
        return await runtime.check_live()


@app.command()
def migrate(
    locator: Locator,
    sql: Annotated[bool, typer.Option("--sql", help="print the statements that are missing instead")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="print where the schema stands; exit code 1 if it is out of date")
    ] = False,
    backend: Annotated[Backend, typer.Option(help="the event loop")] = Backend.asyncio,
) -> None:
    """Bring the database's schema up to date, for as long as that takes. A runtime does it within `pool.timeout`."""
    found = load_app(locator)
    if sql or status:
        (print_sql if sql else print_state)(found, backend.value)
        return
    bring_up_to_date(found, backend.value)
    typer.echo(f"the schema is up to date: {anyio.run(_check_live, Runtime(found), backend=backend.value)}")


@app.command()
def demo(
    db: Annotated[str, typer.Option(help="empty: an embedded Postgres; sqlite; or a database URL")] = "",
    backend: Annotated[Backend, typer.Option(help="the event loop")] = Backend.asyncio,
    tasks: Annotated[int, typer.Option(help="how many tasks", min=20)] = 4_000,
) -> None:
    """Send and run some thousand tasks of every kind, and show how they ended and how fast."""
    # Here, like rich in `queue list`: a worker, which has no use for either, is smaller by 2 MB.
    from .demo.run import run_demo

    run_demo(db, backend.value, tasks)


def main() -> None:
    """Run the command line; an error of horsies becomes one message and exit code 1 (2 for wrong usage)."""
    _run(_stay if sys.argv[1:2] in STAYING and hasattr(os, "fork") else app)


def _stay() -> None:
    read_apart(partial(_run, app))()


def _run(command: Callable[[], object]) -> None:
    try:
        command()
    except _TOLD as error:
        raise SystemExit(_told(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BaseExceptionGroup as group:
        matched, rest = group.split(_TOLD)
        if matched is None or rest is not None:
            raise
        raise SystemExit(_told(_first(matched))) from None


def _told(error: BaseException) -> int:
    """Say what is wrong; the exit code for it."""
    typer.echo("\n  ".join([f"horsies: {error}", *getattr(error, "__notes__", ())]), err=True)
    return 2 if isinstance(error, HorsiesError) and error.code in USAGE else 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


__all__ = ["app", "main"]
