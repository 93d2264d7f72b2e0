"""A command line that a fork reads: what the process that started it is left with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .shell import Shell, both_loops, once

HOLDING = """
import sys
from shop import app

@app.task
async def parser() -> bool:
    return "pydantic" in sys.modules
"""


@once
@both_loops
def test_a_worker_does_not_hold_what_its_command_line_was_read_with(shell: Shell, backend: str) -> None:
    (shell.folder / "holding.py").write_text(HOLDING)
    task_id = shell.python("import holding; anyio.run(shop.send, 'parser')")
    done = shell.run("worker", "holding:app", "--backend", backend, "--until-idle")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert shell.python(f"anyio.run(shop.get, '{task_id}')") == "Ok(value=False)"


@once
def test_a_program_that_calls_the_command_has_it_in_its_own_process(shell: Shell) -> None:
    task_id = shell.python("anyio.run(shop.send, 'add', 2, 3)")
    in_the_same = "import os, horsies.cli.main as cli; os.fork = None; cli.app(['worker', 'shop:app', '--until-idle'])"
    assert shell.python(in_the_same) == ""
    assert shell.python(f"anyio.run(shop.get, '{task_id}')") == "Ok(value=5)"


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background job ignores interrupts, and hands that down."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@once
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("command", ["worker", "scheduler"])
def test_an_interrupt_while_the_application_is_loaded_ends_it_without_a_traceback(shell: Shell, command: str) -> None:
    (shell.folder / "slow.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(40)\n")
    with shell.start(command, "slow:app") as starting:
        assert starting.stdout is not None
        assert starting.stderr is not None
        assert starting.stdout.readline() == "loading\n"
        starting.send_signal(signal.SIGINT)
        assert starting.wait(20) == 130
        assert starting.stderr.read() == ""


@once
@pytest.mark.parametrize("command", ["worker", "scheduler"])
def test_help_is_shown_once(shell: Shell, command: str) -> None:
    done = shell.run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage:") == 1


def reading(read: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a process that leaves `read`, a function of its module, to a fork."""
    code = f"""
import atexit, os, signal, sys
from functools import partial
from horsies.cli.fork_parser import carry_out, read_apart

def tell(reader): print("read by", reader, "and done by", os.getpid())
def hand_over(): carry_out(partial(tell, os.getpid()))
def be_killed(): os.kill(os.getpid(), signal.SIGKILL)
def fail(): raise LookupError("no such shelf")
def refuse(): print("refused by it"); raise SystemExit(3)
def leave(): raise SystemExit
def hand_over_and_fail(): hand_over(); fail()

atexit.register(print, "at the end")
print("begun by", os.getpid())
read_apart({read})()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_what_is_handed_over_is_done_by_the_process_that_was_started() -> None:
    code, out, errors = reading("hand_over")
    begun, done, end = out.splitlines()
    assert (code, errors, end) == (0, "", "at the end")
    started = begun.removeprefix("begun by ")
    reader, doer = done.removeprefix("read by ").split(" and done by ")
    assert doer == started != reader


@pytest.mark.parametrize(
    ("read", "code", "shown", "error"),
    [
        ("refuse", 3, ["refused"], ""),
        ("leave", 0, [], ""),
        ("be_killed", 137, [], ""),
        ("fail", 1, [], "LookupError: no such shelf"),
        ("hand_over_and_fail", 1, [], "LookupError: no such shelf"),
    ],
)
def test_a_reader_that_hands_nothing_over_ends_the_process_as_it_ended(
    read: str, code: int, shown: list[str], error: str
) -> None:
    ended, out, errors = reading(read)
    assert ended == code
    assert [line.partition(" by")[0] for line in out.splitlines()] == ["begun", *shown, "at the end"]
    assert errors.count("Traceback") == (1 if error else 0)
    assert error in errors
