"""From `pkg.mod:app` to the application."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated

import typer

from horsies import Horsies, HorsiesError, Runtime
from horsies.abc import BrokerFactory

from .import_errors import described, hints, import_error, nearest, place_of

Locator = Annotated[str, typer.Argument(metavar="PKG.MOD:APP", help="where the Horsies object is")]


def load_app(locator: str) -> Horsies:
    """The `Horsies` object at `locator`, with the working directory on the path.

    Raises:
        HorsiesError: HRS-207 for a locator that names none, HRS-210 for a module that cannot be imported.
    """
    module_name, separator, attribute = locator.partition(":")
    if not separator or not module_name or not attribute or module_name.startswith(".") or os.sep in module_name:
        raise HorsiesError("HRS-207", f"{locator!r} is not of the form pkg.mod:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with _importing(module_name):
        module = importlib.import_module(module_name)
        found = _attribute(module, attribute)
    if not isinstance(found, Horsies):
        what = f"{locator} is a {type(found).__name__}, not a Horsies application"
        raise HorsiesError("HRS-207", what, [f"it is in {described(module)}", *hints(module, _applications(module))])
    return found


@contextmanager
def _importing(module_name: str) -> Iterator[None]:
    """Turn whatever importing raises into HRS-210, or say where a declaration is that was refused."""
    try:
        yield
    except HorsiesError as error:
        if (place := place_of(module_name, error)) is not None:
            error.add_note(f"at {place}")
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # importing runs the module, which may do anything, SystemExit included
        raise import_error(module_name, error) from error


def _attribute(module: ModuleType, path: str) -> object:
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            what = f"{described(module)} has no {path!r}"
            raise HorsiesError(
                "HRS-207", what, hints(module, _applications(module)) or nearest(name, dir(found))
            ) from None
    return found


def _applications(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Horsies)]


def factory_for(app: Horsies) -> BrokerFactory:
    """The broker plugin that the application's URL chooses. Raises: HorsiesError: HRS-217."""
    return Runtime(app).broker_factory()
