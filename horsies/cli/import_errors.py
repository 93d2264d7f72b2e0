"""Why a module cannot be imported, in one message: what happened, in which file and line, and what to do."""

from __future__ import annotations

import os
import pkgutil
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from types import FrameType, ModuleType

import horsies
from horsies import HorsiesError

_NOT_IN_MODULE = re.compile(r"cannot import name '([^']+)' from '([^']+)'")
LONGEST = 2_000
"""Characters of an exception's own text."""


def import_error(module_name: str, error: BaseException) -> HorsiesError:
    """The HRS-210 for `error`, which importing `module_name` raised."""
    ends = "it ends the program with " if isinstance(error, SystemExit) else ""
    text = f"cannot import {module_name!r}: {ends}{_text_of(error)}"
    if isinstance(error, ModuleNotFoundError) and _is_part_of(module_name, error.name):
        return HorsiesError("HRS-210", text, list(_where_to_look(module_name, str(error.name))))
    notes = []
    if (place := place_of(module_name, error)) is not None:
        notes.append(f"at {place}")
    if isinstance(error, (ImportError, AttributeError)) and "partially initialized module" in str(error):
        chain = " -> ".join(dict.fromkeys(f"{file}, line {line}" for file, line in _users(module_name, error)))
        notes.append(f"it is a circular import: {chain}")
    else:
        notes += _nearest_to_missing(error)
    if isinstance(error, SystemExit):
        notes.append('an imported module must not end the program: put that under `if __name__ == "__main__":`')
    notes.append(f'for the traceback: python -c "import {module_name}"')
    return HorsiesError("HRS-210", text, notes)


def place_of(module_name: str, error: BaseException) -> str | None:
    """The file and the line of the user's code at which an import failed; None if it never came so far."""
    if isinstance(error, SyntaxError) and error.lineno and os.path.exists(error.filename or ""):
        return f"{error.filename}, line {error.lineno}"
    places = list(_users(module_name, error))
    return f"{places[-1][0]}, line {places[-1][1]}" if places else None


def described(module: ModuleType) -> str:
    """A module with the file that it was imported from."""
    file = getattr(module, "__file__", None)
    if file is None:
        folders = list(getattr(module, "__path__", ()))
        file = f"the folder {folders[0]}, which has no __init__.py" if folders else "built in"
    return f"module {module.__name__!r} ({file})"


def hints(module: ModuleType, applications: Sequence[str]) -> list[str]:
    """What may have been meant where `module` does not have the application."""
    names = ", ".join(f"{module.__name__}:{name}" for name in applications)
    return [*([f"its applications: {names}"] if names else []), *_other_file(module)]


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """A hint at the one of `names` that is spelt most like `name`."""
    return [f"the nearest name there is {close!r}" for close in get_close_matches(name, names, 1)]


def _other_file(module: ModuleType) -> Iterator[str]:
    """What to say if the working directory has a module of this name that is not the imported one."""
    stem = os.path.join(os.getcwd(), *module.__name__.split("."))
    for expected in (f"{stem}.py", os.path.join(stem, "__init__.py")):
        if os.path.exists(expected):
            file = getattr(module, "__file__", None)
            if file is None or not os.path.exists(file) or not os.path.samefile(expected, file):
                yield f"{expected} was not imported: another module of that name comes first; rename one of them"
            return


def _text_of(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else ""
    if not text:
        try:
            text = str(error)
        except Exception:  # of a class of the user's
            text = ""
    kind = type(error).__name__
    return f"{kind}: {text[:LONGEST]}" if text else kind


def _is_part_of(module_name: str, missing: str | None) -> bool:
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")


def _where_to_look(module_name: str, missing: str) -> Iterator[str]:
    if module_name.endswith(".py"):
        yield "give the name of a module, such as pkg.mod, and not the path of a file"
        return
    package = sys.modules.get(missing.rpartition(".")[0])
    if package is not None:
        yield f"looked in {described(package)}"
    else:
        yield f"looked in {os.getcwd()} and on sys.path; run horsies in the folder that holds it, or set PYTHONPATH"
    yield from _nearest_module(missing)


def _nearest_to_missing(error: BaseException) -> list[str]:
    """A hint at what the user's code may have meant by the module or the name that is not there."""
    if isinstance(error, ModuleNotFoundError):
        return _nearest_module(error.name or "")
    if isinstance(error, ImportError) and (named := _NOT_IN_MODULE.match(str(error))) is not None:
        return nearest(named[1], dir(sys.modules.get(named[2])))
    if isinstance(error, AttributeError) and error.name is not None:
        return nearest(error.name, dir(error.obj))
    return []


def _nearest_module(missing: str) -> list[str]:
    package_name, _, name = missing.rpartition(".")
    package = sys.modules.get(package_name)
    folders = [os.getcwd()] if package is None else list(getattr(package, "__path__", ()))
    return nearest(name, [found.name for found in pkgutil.iter_modules(folders)])


def _users(module_name: str, error: BaseException) -> Iterator[tuple[str, int]]:
    """The files and lines of the user's code that an import went through, the innermost last."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _is_users(frame, module_name.partition(".")[0]):
            yield frame.f_code.co_filename, line


def _is_users(frame: FrameType, package: str) -> bool:
    file = os.path.abspath(frame.f_code.co_filename)
    if frame.f_code.co_filename.startswith("<") or file.startswith(_HORSIES):
        return False
    # An application that was installed lies among the libraries.
    name = str(frame.f_globals.get("__name__", ""))
    return name.partition(".")[0] == package or not file.startswith(_LIBRARIES)


def _folder(path: str) -> str:
    return os.path.join(os.path.abspath(path), "")


_HORSIES = _folder(os.path.dirname(horsies.__file__))
_LIBRARIES = (
    *(_folder(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    _folder(site.getusersitepackages()),
)
