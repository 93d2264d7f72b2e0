"""Tasks that run in processes. They tell the test through files where they are, and wait for files."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TextIO

import msgspec

from horsies import Err, RetryPolicy, Task, TaskError, TaskResult, task
from horsies._worker.execution.process_main import MAGIC, framed

from .hostile import FAILURES, RESULTS

_held: list[TextIO] = []


@dataclass(frozen=True)
class Order:
    number: int
    price: Decimal
    label: bytes


class RateLimited(TaskError):
    """Has a signature of its own, with which pickle alone cannot make it anew."""

    def __init__(self, seconds: int, *, unit: str) -> None:
        super().__init__("RATE_LIMITED", f"for {seconds} {unit}", data={"seconds": seconds})


def local_class() -> Any:
    @dataclass
    class Local:
        n: int = 0

    return Local


Local = local_class()


def is_gone(pid: int) -> bool:
    """Whether there is no such process, and no zombie of it either."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def report(file: str) -> None:
    """Write the pid, in one step, into a file that is locked for as long as this process lives."""
    text = open(file + ".new", "w")  # noqa: SIM115  # left open on purpose
    fcntl.flock(text, fcntl.LOCK_EX)
    text.write(str(os.getpid()))
    text.flush()
    os.rename(file + ".new", file)
    _held.append(text)


def is_over(file: str) -> bool:
    """Whether the process that has reported to `file` has ended, be it reaped or not."""
    with open(file) as text:
        try:
            fcntl.flock(text, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def busy_until(file: str) -> None:
    """Keep the CPU and the GIL busy until `file` is there, but not for ever."""
    until = time.monotonic() + 50
    while not os.path.exists(file) and time.monotonic() < until:
        sum(range(10_000))


@task(run_in="process")
def double(order: Order, times: Decimal) -> Order:
    return Order(order.number * 2, order.price * times, order.label + b"\0")


@task(run_in="process")
def pid() -> int:
    return os.getpid()


@task(run_in="process")
def burn(file: str, until: str) -> int:
    report(file)
    busy_until(until)
    return os.getpid()


@task
async def breathe(until: str) -> str:
    import anyio

    while not os.access(until, os.F_OK):
        await anyio.sleep(0.005)
    return "done"


@task(run_in="process")
def fails(what: str) -> int:
    if what == "raises":
        raise ValueError("deep inside")
    if what == "is interrupted":
        raise KeyboardInterrupt
    if what == "exits":
        sys.exit(3)
    if what == "raises a TaskError":
        raise RateLimited(3, unit="s")
    return 1


@task(run_in="process")
def returns_err() -> TaskResult[int]:
    return Err(TaskError("TOO_SMALL", "n", data={"least": [1, 2]}))


def dies(file: str, how: str) -> str:
    """Dies at the first call, and tells at the second."""
    if os.path.exists(file):
        return "alive"
    report(file)
    if how == "exits":
        os._exit(7)
    if how == "leaves a child that holds the pipe":
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(50,)).start()
        os._exit(7)
    os.kill(os.getpid(), signal.SIGSEGV if how == "segfaults" else 40)
    return "not dead"


dies_once: Task[[str, str], str] = task("dies_once", run_in="process")(dies)


@task(run_in="process", retry=RetryPolicy.fixed([0.01]), retry_for=("WORKER_CRASHED",))
def dies_and_is_tried_again(file: str) -> str:
    if os.path.exists(file):
        return "alive"
    report(file)
    os.kill(os.getpid(), signal.SIGKILL)
    return "not dead"


@task(run_in="process")
def unpicklable(what: str) -> Any:
    if what == "error":
        return Err(TaskError("ODD", data=threading.Lock()))
    return Local() if what == "class" else threading.Lock()


MISBEHAVING = [*FAILURES, *(what for what in RESULTS if "SystemExit" not in what)]


@task(run_in="process")
def misbehaves(what: str) -> Any:
    if what in FAILURES:
        raise FAILURES[what]()
    return RESULTS[what]()


class Evil:
    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (self.file, "w")


def forged(number: int, *fields: Any) -> bytes:
    return framed(msgspec.msgpack.encode((number, *fields)))


FORGED: dict[str, Callable[[str], bytes]] = {
    "a few bytes": lambda file: b"hello",
    "a pickle": lambda file: framed(pickle.dumps(Evil(file))),
    "a length without end": lambda file: MAGIC + b"\xff" * 8,
    "an answer to another request": lambda file: forged(7, True, 1),
    "an answer of another shape": lambda file: forged(2, True),
    "an error that is none": lambda file: forged(2, False, ["NOT_ONE", True, "", None, None]),
    "nesting without end": lambda file: framed(b"\x91" * 100_000),
}


@task(run_in="process")
def forges(what: str, file: str) -> int:
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            if int(name) > 2 and stat.S_ISFIFO(os.fstat(int(name)).st_mode):
                os.write(int(name), FORGED[what](file))
    return 1


@task(run_in="process")
def holds_the_gil(file: str) -> bool:
    report(file)
    return re.match(r"(a+)+$", "a" * 40 + "b") is not None


@task(run_in="process")
def takes_local(x: Local) -> None: ...


@task(run_in="process")
def wrong_type() -> int:
    return "seven"


def say_and_sleep(pipe: Any) -> None:
    pipe.send("here")
    time.sleep(50)


@task(run_in="process")
def is_signalled() -> list[int | None]:
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    # What it starts is not deaf to them.
    child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(50)"], stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()
    child.terminate()
    ended = child.wait(20)
    child.stdout.close()
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    forked = fork.Process(target=say_and_sleep, args=(there,))
    forked.start()
    here.recv()
    forked.terminate()
    forked.join(20)
    return [ended, forked.exitcode]


@task(run_in="process")
def is_loud() -> str:
    print("loud")  # noqa: T201  # where it goes is under test
    subprocess.run([sys.executable, "-c", "import os; os.write(1, b'louder\\n' * 9)"], check=True)
    return sys.stdin.read() + subprocess.run(["cat"], check=True, stdout=subprocess.PIPE, text=True).stdout


@task(run_in="process")
def starts_another(file: str) -> None:
    code = f"from flow.process_tasks import report; report({file!r}); import time; time.sleep(50)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


@task(run_in="thread")
def in_a_thread() -> int:
    return os.getpid()


def not_at_its_name(n: int) -> int:
    return n


hidden: Task[[int], int] = task("hidden", run_in="process")(not_at_its_name)
not_at_its_name: Callable[[int], int] = abs
