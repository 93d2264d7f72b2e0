"""A shell in a folder with an application: what the tests of the command line run it in."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

APP = """
import os
import anyio
from horsies import AppConfig, Horsies, Runtime, QueueConfig

app = Horsies(AppConfig.from_env(queues=(QueueConfig("default"), QueueConfig("images"))))
other = 7

@app.task
async def add(a: int, b: int) -> int:
    return a + b

@app.task
def stuck() -> None:
    import threading
    print("stuck", flush=True)
    threading.Event().wait()

@app.task
async def patient() -> str:
    print("running", flush=True)
    await anyio.sleep(0.5)
    return "done"

async def send(name: str, *args: object) -> None:
    async with Runtime(app) as rt:
        handle = (await app.tasks[name].handle(rt).send(*args)).unwrap()
        print(handle.task_id)

async def get(task_id: str) -> None:
    async with Runtime(app) as rt:
        print(await rt.handle(task_id).get(timeout=10))
"""


class Shell:
    def __init__(self, folder: Path, url: str, schema: str) -> None:
        self.folder = folder
        self.env = {**os.environ, "HORSIES_DATABASE_URL": url, "HORSIES_SCHEMA": schema, "PYTHONWARNINGS": "error"}
        (folder / "shop.py").write_text(APP)

    def run(self, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "horsies", *args],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def python(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", f"import anyio, shop; {code}"],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=50,
            check=True,
        )
        return done.stdout.strip()

    def start(self, *args: str, stderr: Path | None = None) -> subprocess.Popen[str]:
        """A running `horsies`; what it logs comes through a pipe, or goes to the file `stderr`."""
        with ExitStack() as stack:
            log = subprocess.PIPE if stderr is None else stack.enter_context(stderr.open("w"))
            return subprocess.Popen(
                [sys.executable, "-m", "horsies", *args],
                cwd=self.folder,
                env=self.env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )


stored = pytest.mark.parametrize("database_url", ["postgresql", "sqlite-file"], indirect=True)
once = pytest.mark.parametrize("database_url", ["sqlite-file"], indirect=True)
both_loops = pytest.mark.parametrize("backend", ["asyncio", "trio"])
