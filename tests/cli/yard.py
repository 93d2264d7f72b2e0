"""Worker processes under way: an application whose tasks can be held, and a process whose log is a file."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .shell import Shell

YARD = """
import os
import signal
import sys
import time
from pathlib import Path

import anyio
from horsies import Runtime, TaskContext, TaskError

from shop import app

@app.task
async def held(n: int) -> int:
    print("held by", os.getpid(), flush=True)
    while not Path("release").exists():
        await anyio.sleep(0.02)
    return n

@app.task
async def mark(n: int) -> int:
    with open("marks", "a") as file:
        file.write(f"{n} {os.getpid()}\\n")
    return n

@app.task
async def deaf() -> None:
    print("held by", os.getpid(), flush=True)
    while not Path("release").exists():
        time.sleep(0.02)

@app.task
async def telling(ctx: TaskContext, secret: str) -> None:
    ctx.logger.warning("half way")
    try:
        raise LookupError("no such shelf")
    except LookupError:
        ctx.logger.exception("all the way")
    raise TaskError("SOLD_OUT", secret)

@app.task
async def stubborn() -> None:
    print("held by", os.getpid(), flush=True)
    while True:
        try:
            await anyio.sleep(0.02)
        except BaseException:
            pass

@app.task
async def leaves_one_behind() -> None:
    import asyncio

    async def goes_on() -> None:
        while True:
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                pass

    kept.append(asyncio.create_task(goes_on()))
    print("held by", os.getpid(), flush=True)

kept = []

@app.task
def forks() -> bool:
    fates = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP) * 5:
        child = os.fork()
        if child == 0:
            try:
                time.sleep(20)
            finally:
                os._exit(1)
        os.kill(child, number)
        fates.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return {-15, -1} < set(fates) <= {-15, -1, -2, 1}

@app.task
def hangs_up() -> int:
    os.kill(os.getpid(), signal.SIGHUP)
    return 1

async def send_all(name: str, calls: list[tuple]) -> None:
    async with Runtime(app) as rt:
        answers = await app.tasks[name].handle(rt).send_many(calls)
        print(*(answer.unwrap().task_id for answer in answers))

async def get_all(task_ids: list[str]) -> None:
    async with Runtime(app) as rt:
        print([(await rt.handle(task_id).get(timeout=20)).unwrap() for task_id in task_ids])
"""
PATIENCE = 30.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first: int = probe.getsockname()[1]
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return first


@dataclass
class Started:
    """A running `horsies`; its standard output is a pipe that ends when it and all its children have ended."""

    process: subprocess.Popen[str]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_logged(self, text: str, times: int = 1) -> None:
        eventually(lambda: self.log.count(text) >= times, f"{text!r} {times} times in: {self.log}")

    def pids(self) -> list[int]:
        """Of the children, in the order in which they were started."""
        return [int(pid) for pid in re.findall(r"has pid (\d+)", self.log)]

    def holders(self, count: int) -> set[int]:
        """The processes that run the next `count` held tasks."""
        assert self.process.stdout is not None
        return {int(self.process.stdout.readline().removeprefix("held by ")) for _ in range(count)}

    def wait_all_ended(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.read()

    def end(self) -> int:
        """Wait for its end; the exit code."""
        code = self.process.wait(PATIENCE)
        self.wait_all_ended()
        return code


class Yard:
    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        (shell.folder / "yard.py").write_text(YARD)

    def send(self, name: str, *calls: tuple[object, ...]) -> list[str]:
        return self.shell.python(f"import yard; anyio.run(yard.send_all, {name!r}, {list(calls)!r})").split()

    def results(self, task_ids: list[str]) -> str:
        return self.shell.python(f"import yard; anyio.run(yard.get_all, {task_ids!r})")

    def release(self) -> None:
        (self.shell.folder / "release").touch()

    def marks(self) -> list[tuple[int, int]]:
        """Of each run of `mark`: its argument and its process."""
        file = self.shell.folder / "marks"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(n), int(pid)) for n, pid in (line.split() for line in lines)]

    @contextmanager
    def worker(
        self,
        *args: str,
        locator: str = "yard:app",
        launcher: tuple[str, str] = ("-m", "horsies"),
        new_session: bool = False,
    ) -> Iterator[Started]:
        log_file = self.shell.folder / "log"
        with (
            log_file.open("w") as log,
            subprocess.Popen(
                [sys.executable, *launcher, "worker", locator, *args],
                cwd=self.shell.folder,
                env=self.shell.env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=new_session,
            ) as process,
        ):
            started = Started(process, log_file)
            try:
                yield started
            finally:
                self.release()
                if process.poll() is None:
                    process.kill()
                # What the supervisor leaves behind drains by itself.
                started.wait_all_ended()


def is_leader_of_its_session(pid: int) -> bool:
    return os.getsid(pid) == pid
