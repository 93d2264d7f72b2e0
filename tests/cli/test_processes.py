"""Programs whose tasks run in processes: as a worker, as a script, and what is left when they end in any way."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

APP = """
import fcntl, os, time
from horsies import AppConfig, Horsies

app = Horsies(AppConfig.for_database_url("sqlite:///horsies.db"))

def report(file: str) -> None:
    text = open(file + ".new", "w")
    fcntl.flock(text, fcntl.LOCK_EX)
    text.write(str(os.getpid()))
    text.flush()
    os.rename(file + ".new", file)
    held.append(text)

held = []

@app.task(run_in="process")
def quick(file: str) -> None:
    report(file)

@app.task(run_in="process")
def burn(file: str, until: str) -> str:
    report(file)
    end = time.monotonic() + 50
    while not os.path.exists(until) and time.monotonic() < end:
        sum(range(10_000))
    return "done"
"""

SEND = """
import sys, horsies, shop
with horsies.blocking(shop.app) as rt:
    print(shop.app.tasks[sys.argv[1]].handle(rt).send(*sys.argv[2:]).unwrap().task_id)
"""

GET = """
import sys, horsies, shop
with horsies.blocking(shop.app) as rt:
    print(rt.handle(sys.argv[1]).get(timeout=10))
"""

SCRIPT = """
import sys
from dataclasses import dataclass

import anyio
from horsies import AppConfig, Horsies, Runtime, WorkerConfig

app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

@dataclass
class Point:
    x: int
    y: int

@app.task(run_in="process")
def turned(point: Point) -> Point:
    return Point(-point.y, point.x)

async def main() -> None:
    async with Runtime(app) as rt:
        handle = (await turned.handle(rt).send(Point(1, 2))).unwrap()
        await rt.run_worker(WorkerConfig(until_idle=True))
        print(await handle.get(timeout=20))
"""

GUARDED = SCRIPT + '\nif __name__ == "__main__":\n    anyio.run(main, backend=sys.argv[1])\n'
UNGUARDED = SCRIPT + "\nanyio.run(main, backend=sys.argv[1])\n"

both = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class Shop:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "shop.py").write_text(APP)

    def python(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", *args],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def send(self, *args: str) -> str:
        done = self.python("-c", SEND, *args)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()

    def result(self, task_id: str) -> str:
        return self.python("-c", GET, task_id).stdout.strip()

    def worker(self, backend: str, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "horsies", "worker", "shop:app", "--backend", backend, *args],
            cwd=self.folder,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_told(self, file: str) -> int:
        until = time.monotonic() + 30
        while not (self.folder / file).exists():
            assert time.monotonic() < until, "no task has told where it runs"
            time.sleep(0.01)
        return int((self.folder / file).read_text())

    def wait_over(self, file: str) -> None:
        """Wait for the end of the process that holds a lock on `file` while it lives."""
        until = time.monotonic() + 20
        while not self.is_over(file):
            assert time.monotonic() < until, "it goes on"
            time.sleep(0.01)

    def is_over(self, file: str) -> bool:
        with (self.folder / file).open() as text:
            try:
                fcntl.flock(text, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@both
def test_sigterm_to_everybody_lets_the_task_end_and_leaves_no_process(shop: Shop, backend: str) -> None:
    task_id = shop.send("burn", "begun", "until")
    with shop.worker(backend) as worker:
        pid = shop.wait_told("begun")
        os.kill(pid, signal.SIGTERM)  # as a service manager does with every process of a service
        os.kill(pid, signal.SIGINT)
        worker.send_signal(signal.SIGTERM)
        (shop.folder / "until").touch()
        assert worker.wait(20) == 0
        assert shop.is_over("begun")
        assert worker.stderr is not None
        assert worker.stderr.read() == ""
    assert shop.result(task_id) == "Ok(value='done')"


@both
def test_a_task_that_outlasts_the_drain_is_killed_and_nobody_is_abandoned(shop: Shop, backend: str) -> None:
    task_id = shop.send("burn", "begun", "never")
    with shop.worker(backend, "--drain-timeout", "0.1") as worker:
        shop.wait_told("begun")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert shop.is_over("begun")
    assert "WORKER_CRASHED" in shop.result(task_id)


@both
@pytest.mark.parametrize("state", ["free", "busy"])
def test_the_process_of_a_killed_worker_ends(shop: Shop, backend: str, state: str) -> None:
    with shop.worker(backend) as worker:
        if state == "free":
            assert shop.result(shop.send("quick", "begun")) == "Ok(value=None)"
        else:
            shop.send("burn", "begun", "never")
        shop.wait_told("begun")
        assert not shop.is_over("begun")
        worker.kill()
        worker.wait(20)
        shop.wait_over("begun")


@both
def test_a_task_of_a_script(shop: Shop, backend: str) -> None:
    (shop.folder / "script.py").write_text(GUARDED)
    done = shop.python("script.py", backend)
    assert (done.stdout, done.stderr, done.returncode) == ("Ok(value=Point(x=-2, y=1))\n", "", 0)


@pytest.mark.parametrize("name", ["pack.script", "pack"])
def test_a_task_of_a_module_that_is_run(shop: Shop, name: str) -> None:
    (shop.folder / "pack").mkdir()
    (shop.folder / "pack" / "__init__.py").touch()
    for module in ("script.py", "__main__.py"):
        (shop.folder / "pack" / module).write_text(GUARDED)
    done = shop.python("-m", name, "trio")
    assert (done.stdout, done.stderr, done.returncode) == ("Ok(value=Point(x=-2, y=1))\n", "", 0)


@both
def test_a_script_without_a_guard_is_told_and_does_not_multiply(shop: Shop, backend: str) -> None:
    (shop.folder / "script.py").write_text(UNGUARDED)
    done = shop.python("script.py", backend)
    assert done.returncode == 0
    assert done.stdout.startswith("Err(error=TaskError(<TaskErrorCode.WORKER_RESOLUTION_ERROR")
    assert '__name__ == "__main__"' in done.stdout


def test_a_task_of_no_file_is_refused(shop: Shop) -> None:
    done = shop.python("-c", SCRIPT)
    assert done.returncode == 1
    assert "HRS-102" in done.stderr
    assert "interactive session" in done.stderr
