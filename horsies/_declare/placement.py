"""Where a task runs: in the worker's nursery, in a thread, or in a process, which finds its function by name."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .._payload.callables import place_of
from .._payload.signature import Signature
from .._send.options import RunIn


class Place(StrEnum):
    """Where the user code of a task runs."""

    NURSERY = "nursery"
    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Address:
    """The names under which another process finds a function; `module` may be `__main__`."""

    module: str
    qualname: str

    def find(self) -> Any:
        """What is there. Raises whatever the import raises, and AttributeError."""
        found: Any = importlib.import_module(self.module)
        for part in self.qualname.split("."):
            found = getattr(found, part)
        return found


def address_of(fn: Callable[..., Any]) -> Address | None:
    """The address of a function of a module or a class; None when it has none."""
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or "<" in qualname:
        return None
    if module == "__main__":
        main = sys.modules["__main__"]
        if getattr(main, "__spec__", None) is None and not os.path.isfile(getattr(main, "__file__", None) or ""):
            return None
    return Address(module, qualname)


def place_for(run_in: RunIn | None, signature: Signature) -> Place:
    """The place that a checked `run_in` chooses."""
    if signature.is_async:
        return Place.NURSERY
    return Place.PROCESS if run_in == "process" else Place.THREAD


def misplaced(run_in: object, fn: Callable[..., Any], signature: Signature) -> tuple[str, str] | None:
    """What is wrong with `run_in` for `fn`, and its remedy; None when nothing is."""
    if run_in is None:
        return None
    if run_in not in ("thread", "process"):
        return f"run_in {run_in!r} is no place", 'give "thread", "process" or nothing'
    where = place_of(fn)
    if signature.is_async:
        return f"{where} is async and runs in the worker's nursery", "leave out run_in, or make it a plain function"
    if run_in == "thread":
        return None
    if signature.takes_context:
        return f"{where} takes a TaskContext, which stays in the worker's process", "take what it needs as arguments"
    if address_of(fn) is None:
        return (
            f"{where} cannot be imported by the process that is to run it",
            "define it at the top of a module (not inside a function, not as a lambda, not in an interactive session)",
        )
    return None
