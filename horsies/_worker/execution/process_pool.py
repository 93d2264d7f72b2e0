"""The processes of a worker: started when a task needs one, used again, ended with the worker.

Invariant: a `Child` that is not inside `ask` is either free for the next request or ended. Whatever leaves `ask`
without an answer (a timeout, a cancellation, the death of the process) ends it, with everything it had started:
each leads a process group of its own, which also keeps a Ctrl-C in the terminal away from it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import anyio.streams.buffered

from ..._core.codes import TaskErrorCode
from ..._core.errors import TaskError
from ..._core.result import Err, Ok
from ..._declare.placement import address_of
from ..._declare.task import Task
from .causes import cause_of
from .invoke import cancelled, timed_out
from .job import Job
from .process_main import HEAD, Answer, Call, Load, Main, answer_of, framed, length_of

BOOT = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from horsies._worker.execution.process_main import serve; serve(int(sys.argv[1]))"
)
LOAD_WITHIN = 60.0
"""Seconds that a process gets to start and to import the task's module."""
LAST_WORDS = 1.0
"""Seconds for an answer that is still in the pipe of a process that has exited, and for its exit status."""
END_WITHIN = 2.0
"""Seconds to wait for the end of a process that has been killed."""


class Child:
    """One process, which runs one task at a time.

    Args:
        lifeline: a descriptor. The process lives for as long as it is open here.
    """

    def __init__(self, process: anyio.abc.Process, lifeline: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._requests = process.stdin
        self._answers = anyio.streams.buffered.BufferedByteReceiveStream(process.stdout)
        self._lifeline = lifeline
        self._number = 0
        self._is_asked = False
        self.is_usable = True

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, request: Load | Call) -> Answer:
        """The answer to `request`; the process is killed before this ends in any other way.

        Raises:
            TaskError: WORKER_CRASHED: the process has died, or wrote something else to the pipe of its answers.
        """
        message: bytes | None = None
        self._number += 1
        self._is_asked = self._process.returncode is None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, group.cancel_scope)
                with contextlib.suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead, OSError):
                    await self._requests.send(framed(pickle.dumps((self._number, request), pickle.HIGHEST_PROTOCOL)))
                    length = length_of(await self._answers.receive_exactly(HEAD))
                    message = await self._answers.receive_exactly(length)
                group.cancel_scope.cancel()
            if message is None:
                fate = await self._fate()
                raise TaskError(TaskErrorCode.WORKER_CRASHED, f"the process that ran the task died ({fate})")
            answer = answer_of(message, self._number)
        except ValueError:
            await self.end()
            why = "user code wrote to the pipe of the process that ran the task, and the process was killed"
            raise TaskError(TaskErrorCode.WORKER_CRASHED, why) from None
        except BaseException:  # a cancellation may come together with the answer
            await self.end()
            raise
        self._is_asked = False
        return answer

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """What the loaded task makes of its arguments. Raises as `ask`."""
        try:
            arguments = pickle.dumps((args, kwargs), pickle.HIGHEST_PROTOCOL)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pickling runs the classes of the values
            why = "the arguments cannot be pickled, and so cannot reach the process that was to run the task"
            return Err(TaskError.caused_by(TaskErrorCode.WORKER_SERIALIZATION_ERROR, why, cause_of(error)))
        return await self.ask(Call(arguments))

    async def end(self) -> None:
        """Kill the process and what it has started, and see it gone."""
        self.is_usable = False
        with anyio.move_on_after(END_WITHIN, shield=True):
            # One that died while it was free may have left its number to others.
            if self._is_asked or self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            _close(self._lifeline)
            await self._process.aclose()

    async def _watch(self, asking: anyio.CancelScope) -> None:
        """End `asking` soon after the process: its pipe may stay open in processes that it has forked."""
        await self._process.wait()
        asking.deadline = anyio.current_time() + LAST_WORDS

    async def _fate(self) -> str:
        with anyio.move_on_after(LAST_WORDS):
            status = await self._process.wait()
            if status >= 0:
                return f"exit status {status}"
            with contextlib.suppress(ValueError):  # many real-time signals have no name
                return f"killed by {signal.Signals(-status).name}"
            return f"killed by signal {-status}"
        return "it closed its pipe"


class ProcessPool:
    """Free processes, for the next task that needs one. How many there are at most is for the caller to see to."""

    def __init__(self) -> None:
        self._free: list[Child] = []

    @asynccontextmanager
    async def lend(self, task: Task[Any, Any]) -> AsyncGenerator[Child]:
        """A process that has loaded `task`.

        Raises:
            TaskError: on entering: WORKER_CRASHED, WORKER_RESOLUTION_ERROR: there is none, and why.
        """
        address = address_of(task.fn)
        assert address is not None, "the declaration has seen to it"
        child = await self._loaded(Load(task.name, address, _main() if address.module == "__main__" else None))
        try:
            yield child
        finally:
            self._take_back(child)

    async def aclose(self) -> None:
        """End the free processes; those that are lent end with what they were lent for."""
        with anyio.CancelScope(shield=True):  # each end is bounded
            async with anyio.create_task_group() as group:
                while self._free:
                    group.start_soon(self._free.pop().end)

    async def _loaded(self, load: Load) -> Child:
        while self._free:
            child = self._free.pop()
            try:
                answer = await _within_reason(child, load)
            except TaskError:
                continue  # it died while nobody used it
            break
        else:
            child = await _spawn()
            answer = await _within_reason(child, load)
        if isinstance(answer, Err):
            self._take_back(child)
            raise answer.error
        return child

    def _take_back(self, child: Child) -> None:
        if child.is_usable:
            self._free.append(child)


async def run_process(job: Job, processes: ProcessPool) -> Ok[Any] | Err[TaskError]:
    """Run a sync task in a process, which is killed at its timeout. Only cancellation of the worker leaves it."""
    timeout = job.envelope.timeout
    try:
        with anyio.CancelScope() as scope:
            job.stop = scope.cancel
            async with processes.lend(job.task) as child:
                with anyio.move_on_after(None if timeout is None else timeout.total_seconds()):
                    job.is_lowered = True
                    return await child.call(job.args, job.kwargs)
                return timed_out(job)
    except TaskError as error:
        return Err(error)
    return cancelled()


async def _spawn() -> Child:
    path = [entry for entry in sys.path if isinstance(entry, str)]
    reading = None
    try:
        reading, lifeline = os.pipe()
        _lifelines.add(lifeline)
        try:
            with anyio.CancelScope(shield=True):  # a process is never left half started
                process = await anyio.open_process(
                    [sys.executable, "-u", "-c", BOOT, str(reading), *path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=None,
                    pass_fds=(reading,),
                    start_new_session=True,
                )
        except BaseException:
            _close(lifeline)
            raise
        return Child(process, lifeline)
    except OSError as error:
        why = f"no process could be started for the task: {error.strerror}"
        raise TaskError(TaskErrorCode.WORKER_CRASHED, why) from error
    finally:
        if reading is not None:
            os.close(reading)


def _close(lifeline: int) -> None:
    if lifeline in _lifelines:
        _lifelines.remove(lifeline)
        os.close(lifeline)


def _let_go() -> None:
    """In a fork of the worker: leave it to the worker to hold the lifelines."""
    while _lifelines:
        os.close(_lifelines.pop())


_lifelines = set[int]()
"""This process holds these, and no process that user code forks, which may live longer."""
os.register_at_fork(after_in_child=_let_go)


async def _within_reason(child: Child, load: Load) -> Answer:
    try:
        with anyio.fail_after(LOAD_WITHIN):
            return await child.ask(load)
    except TimeoutError:
        why = f"a process could not import {load.address.module!r} within {LOAD_WITHIN:g} s"
        raise TaskError(TaskErrorCode.WORKER_CRASHED, why) from None


def _main() -> Main:
    main = sys.modules["__main__"]
    spec, path = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return Main(None if spec is None else spec.name, None if path is None else os.path.abspath(path), tuple(sys.argv))
