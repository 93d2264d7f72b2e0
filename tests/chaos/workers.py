"""Worker processes, as an operator has them: started from the command line, stopped, killed and frozen by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread

ROOT = Path(__file__).parents[2]
BOOT = 30.0
"""Seconds for a process to import everything, connect and report ready, on a loaded machine."""


class WorkerProcess:
    """One `python -m horsies worker`, or another service.

    Attributes:
        killed_at: the monotonic instant of SIGKILL.
    """

    def __init__(
        self,
        release: str,
        backend: str,
        environ: Mapping[str, str],
        output: Path,
        options: tuple[str, ...],
        service: str = "worker",
    ):
        self.backend = backend
        self._output = output
        self.killed_at: float | None = None
        command = [sys.executable, "-m", "horsies", service, f"tests.chaos.serving:{release}", "--verbose"]
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                [*command, "--backend", backend, *options],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **environ},
                stdin=subprocess.PIPE,  # its end is how the worker learns that the test is gone
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def output(self) -> str:
        return self._output.read_text(errors="replace")

    async def wait_ready(self) -> None:
        with anyio.fail_after(BOOT):
            while "is ready" not in self.output():
                if self.exit_code is not None:
                    raise RuntimeError(f"worker {self._output.stem} ended with {self.exit_code}: {self.output()}")
                await anyio.sleep(0.02)

    async def wait_exit(self, seconds: float) -> int:
        with anyio.fail_after(seconds):
            while (code := self.exit_code) is None:
                await anyio.sleep(0.02)
        return code

    def kill(self) -> float:
        """SIGKILL; the instant of it."""
        self.killed_at = time.monotonic()
        self._process.kill()
        self._process.wait()
        return self.killed_at

    def freeze(self) -> float:
        self._process.send_signal(signal.SIGSTOP)
        return time.monotonic()

    def thaw(self) -> float:
        thawed_at = time.monotonic()
        self._process.send_signal(signal.SIGCONT)
        return thawed_at

    def terminate(self) -> None:
        self._process.terminate()

    def close(self) -> None:
        """See that it is gone, in whatever state it is."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()


class Workers:
    """All worker processes of a scenario. Event loops alternate, beginning with `backend`."""

    def __init__(self, environ: Mapping[str, str], folder: Path, backend: str) -> None:
        self._environ = environ
        self._folder = folder
        self._loops = ("asyncio", "trio") if backend == "asyncio" else ("trio", "asyncio")
        self.all: list[WorkerProcess] = []

    def start(
        self, *options: str, release: str = "new", hold: str | None = None, concurrency: int = 8
    ) -> WorkerProcess:
        number = len(self.all)
        environ = {**self._environ, **({} if hold is None else {"CHAOS_HOLD": hold})}
        worker = WorkerProcess(
            release,
            self._loops[number % 2],
            environ,
            self._folder / f"w{number}.log",
            ("--name", f"w{number}", "--concurrency", str(concurrency), *options),
        )
        self.all.append(worker)
        return worker

    def start_scheduler(self, release: str) -> WorkerProcess:
        """Start one `python -m horsies scheduler`, without waiting for anything."""
        number = len(self.all)
        output = self._folder / f"s{number}.log"
        scheduler = WorkerProcess(release, self._loops[number % 2], self._environ, output, (), "scheduler")
        self.all.append(scheduler)
        return scheduler

    async def start_many(self, count: int, *options: str, **given: object) -> list[WorkerProcess]:
        """Start `count` workers and wait until all are ready."""
        started = [self.start(*options, **given) for _ in range(count)]
        for worker in started:
            await worker.wait_ready()
        return started

    @property
    def deaths(self) -> dict[int, float]:
        return {worker.pid: worker.killed_at for worker in self.all if worker.killed_at is not None}

    def unexpected_exits(self) -> list[str]:
        """Workers that ended although nobody told them to, with the last of what they said."""
        return [
            f"worker {worker.pid} ended by itself with {worker.exit_code}: {worker.output()[-800:]}"
            for worker in self.all
            if worker.killed_at is None and worker.exit_code not in (None, 0)
        ]


@contextmanager
def open_workers(environ: Mapping[str, str], folder: Path, backend: str) -> Iterator[Workers]:
    """None of them outlives the scope."""
    workers = Workers(environ, folder, backend)
    try:
        yield workers
    finally:
        for worker in workers.all:
            worker.close()
