"""From `pkg.mod:app` to the application."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from horsies import Horsies, HorsiesError, Runtime
from horsies.abc import BrokerFactory

Locator = Annotated[str, typer.Argument(metavar="PKG.MOD:APP", help="where the Horsies object is")]


def load_app(locator: str) -> Horsies:
    """The `Horsies` object at `locator`, with the working directory on the path.

    Raises:
        HorsiesError: HRS-207 for a locator that names none, HRS-210 for a module that cannot be imported.
    """
    module_name, separator, attribute = locator.partition(":")
    if not separator or not module_name or not attribute:
        raise HorsiesError("HRS-207", f"{locator!r} is not of the form pkg.mod:app")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
    except HorsiesError:
        raise
    except Exception as error:  # importing runs the module
        raise HorsiesError("HRS-210", f"cannot import {module_name!r}: {type(error).__name__}: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise HorsiesError("HRS-207", f"module {module_name!r} has no {attribute!r}")
        found = getattr(found, part)
    if not isinstance(found, Horsies):
        raise HorsiesError("HRS-207", f"{locator} is a {type(found).__name__}, not a Horsies application")
    return found


def factory_for(app: Horsies) -> BrokerFactory:
    """The broker plugin that the application's URL chooses. Raises: HorsiesError: HRS-217."""
    return Runtime(app).broker_factory()
