"""The schema of an application's database: brought up to date, printed, looked at."""

from __future__ import annotations

import anyio
import typer

from horsies import Horsies, HorsiesError
from horsies.abc import Migrating

from .locate import factory_for


def bring_up_to_date(app: Horsies, backend: str) -> None:
    """Apply what is missing, and say what that waits for. A broker without `Migrating` does it when it is opened."""
    factory = factory_for(app)
    if isinstance(factory, Migrating):
        anyio.run(factory.migrate, app.config, _tell, backend=backend)


def print_sql(app: Horsies, backend: str) -> None:
    """Print the statements that lead to the newest schema."""
    factory = factory_for(app)
    if isinstance(factory, Migrating):
        typer.echo(anyio.run(factory.upgrade_sql, app.config, _tell, backend=backend))
    else:
        typer.echo(factory.schema_sql(app.config))


def print_state(app: Horsies, backend: str) -> None:
    """Print where the schema stands.

    Raises:
        typer.Exit: with code 1, this version of horsies cannot use it as it is.
    """
    factory = factory_for(app)
    if not isinstance(factory, Migrating):
        raise HorsiesError("HRS-206", "the broker of this application does not say where its schema stands")
    state = anyio.run(factory.schema_state, app.config, backend=backend)
    known = f"version {state.version}, and this horsies knows versions up to {state.newest}"
    if state.version > state.newest:
        word = "can" if state.is_usable else "cannot"
        typer.echo(f"newer: {known}; it {word} use it, since code can from version {state.readable_from} on")
    elif state.is_usable:
        typer.echo(f"up to date: {known}; code can use it from version {state.readable_from} on")
    else:
        typer.echo(f"out of date: {known}" if state.version else f"there is no schema yet; {known}")
    for name in state.missing:
        typer.echo(f"missing: {name}")
    for problem in state.problems:
        typer.echo(f"to do: {problem}")
    if not state.is_usable:
        raise typer.Exit(1)


def _tell(sentence: str) -> None:
    typer.echo(f"horsies: {sentence}", err=True)
