"""A command line that another process reads, for the commands that stay.

To read one, typer loads modules that nobody needs afterwards and that cannot be unloaded: 8 MB with pydantic, which it
uses since 0.29, of a worker that has 60. So a fork reads it, says what is wrong with it or shows its help, and hands
over what is to be done; whoever started the command sees one process, as before. Where a process cannot be forked, and
where `app` is called and not `main`, it is read and done in the same one.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import NoReturn

_told_to: ContextVar[int] = ContextVar("_told_to")
"""In a fork that only reads: the descriptor to which it hands over."""


def carry_out(job: Callable[[], None]) -> None:
    """Do what the command line asks for; in a fork that only reads, hand it over to whom it reads for."""
    if (descriptor := _told_to.get(None)) is None:
        job()
        return
    with open(descriptor, "wb", closefd=False) as told:
        pickle.dump(job, told)


def read_apart(read: Callable[[], object]) -> Callable[[], None]:
    """What `read` gives to `carry_out`, when a fork calls it.

    Raises:
        SystemExit: nothing: the fork has shown what it had to show, and this is its exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _told_to.set(writing)
        _end_with(read)
    os.close(writing)
    with open(reading, "rb") as told:
        job = told.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0 or not job:
        raise SystemExit(code if code >= 0 else 128 - code)
    found: Callable[[], None] = pickle.loads(job)
    return found


def _end_with(read: Callable[[], object]) -> NoReturn:
    """End this fork once it has read, without what its parent has asked to be done at the interpreter's exit."""
    code: object = 1
    try:
        read()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # nothing may unwind into the program that was forked
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
