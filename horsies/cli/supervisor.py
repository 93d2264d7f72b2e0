"""`horsies worker --processes N`: a process that keeps N worker processes running.

A child is a fresh interpreter in a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone. All
children hold the read end of one pipe, the lifeline, whose write end the supervisor alone holds (Python opens
descriptors that no child inherits unless it is told to): when the supervisor dies, however it dies, they read the end
of the lifeline and drain.

What follows the end of a child is decided by `after_end`; a slot per child carries it out. At a signal the children
get a SIGTERM each, and no slot starts another; those that have not ended by a bound are killed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import anyio
import anyio.abc

from horsies import HorsiesError, WorkerConfig

from .logs import Log, configure
from .signals import stopping_signals

logger = logging.getLogger("horsies.supervisor")

LAST_PORT = 65_535
OK, FAILED, USAGE = 0, 1, 2
IN_ORDER = 80
"""The exit code of a child whose worker has stopped in order. 0 proves nothing: a module of the application that calls
`sys.exit(0)` or `os._exit(0)` ends a child with it, and such children would follow each other without a pause."""
GRACE = 10.0
"""Seconds beyond `drain_timeout` that a child gets to write results, sign off and end."""
STEADY = 60.0
"""A child that lived for so many seconds had started well: what ended it does not count with what came before."""
AT_ONCE = 0.5
"""A child that lived for less than so many seconds did nothing, whatever its exit code says."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class Replace:
    """Start another child `after` seconds; `failures` is how many in a row have failed by now."""

    after: float
    failures: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing follows; the supervisor ends once this holds for all."""

    failed: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No child can start like this: stop the others, and say so with the exit code."""


def after_end(
    code: int, *, lived: float, failures: int, stopping: bool, until_idle: bool, random: Random
) -> Replace | Leave | GiveUp:
    """What follows the end of a child.

    Args:
        code: its exit code; of a child that a signal ended, the negative number of the signal.
        lived: seconds since it was started.
        failures: how many children of this slot have failed in a row before.
    """
    if stopping:
        # One that was told to stop before it had a handler for it was ended by the signal, and nothing was lost.
        return Leave(failed=code not in (OK, -signal.SIGTERM))
    if code == USAGE and lived < STEADY:
        return GiveUp()
    if until_idle:
        return Leave(failed=code != OK)
    if code == OK and lived >= AT_ONCE:
        return Replace(0.0, 0)
    failures = 0 if lived >= STEADY else failures
    return Replace(pause(failures, random), failures + 1)


def pause(failures: int, random: Random) -> float:
    """Seconds before a child follows one that failed, when `failures` had failed before that: doubling, +-25 %."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 16)) * random.uniform(0.75, 1.25)


def outcome(code: int, *, stopping: bool) -> int:
    """What `after_end` is told for the exit code of a child."""
    if code == IN_ORDER:
        return OK
    return FAILED if code == OK and not stopping else code


def described(code: int) -> str:
    """An exit code in words."""
    if code == IN_ORDER:
        return "has stopped in order"
    if code == OK:
        return (
            "ended with exit code 0, but its worker had not stopped: application code called sys.exit() or os._exit()"
        )
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def supervise(processes: int, config: WorkerConfig, options: Mapping[str, Any], backend: str, log: Log) -> None:
    """Be the supervisor of so many worker processes until it is told to stop; `options` as in `child_arguments`.

    Raises:
        HorsiesError: HRS-206: the last of them would have a port beyond the last.
        SystemExit: always, with its exit code.
    """
    configure(*log)
    last_port = (options["health_port"] or 0) + processes - 1
    if last_port > LAST_PORT:
        raise HorsiesError(
            "HRS-206",
            f"the last of {processes} processes would have --health-port {last_port}",
            [f"process i of N listens at the port + i, and ports end at {LAST_PORT}"],
        )
    supervisor = Supervisor(
        partial(child_arguments, options),
        processes,
        drain_timeout=config.drain_timeout,
        until_idle=config.until_idle,
    )
    raise SystemExit(anyio.run(supervisor.run, backend=backend))


def child_arguments(options: Mapping[str, Any], number: int, lifeline: int) -> list[str]:
    """The command line of child `number` after `horsies`, from the `options` of the supervisor by parameter name."""
    port = options["health_port"]
    given = {
        **options,
        "processes": None,
        "health_port": None if port is None else port + number,
        "lifeline": lifeline,
    }
    locator = given.pop("locator")
    flags = [
        f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    return ["worker", *flags, "--", locator]


class Supervisor:
    """Keeps `processes` children running until it is told to stop.

    Args:
        arguments: what follows `horsies` on the command line of a child, from its number (0 is the first) and the
            descriptor of its lifeline.
        drain_timeout: seconds that a child gives its running tasks.
        until_idle: the children end by themselves, and then the supervisor does.
    """

    def __init__(
        self,
        arguments: Callable[[int, int], Sequence[str]],
        processes: int,
        *,
        drain_timeout: float,
        until_idle: bool = False,
        random: Random | None = None,
    ) -> None:
        self._arguments = arguments
        self._processes = processes
        self._drain_timeout = drain_timeout
        self._until_idle = until_idle
        self._random = random or Random()
        self._children: dict[int, tuple[anyio.abc.Process, anyio.CancelScope]] = {}
        self._stopping = anyio.Event()
        self._kill_at = math.inf
        self._status = OK

    async def run(self) -> int:
        """Run until stopped; the exit code."""
        lifeline, held = os.pipe()
        try:
            async with anyio.create_task_group() as group:
                await group.start(self._heed_signals)
                async with anyio.create_task_group() as slots:
                    for number in range(self._processes):
                        slots.start_soon(self._keep, number, lifeline)
                group.cancel_scope.cancel()
        finally:
            os.close(lifeline)
            os.close(held)
        return self._status

    async def _heed_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with stopping_signals() as signals:
            task_status.started()
            async for _ in signals:
                self._stop()

    def _stop(self) -> None:
        """Tell every child to stop; when they have been told before, that cuts their drain short."""
        patience = 0.0 if self._stopping.is_set() else self._drain_timeout
        self._kill_at = min(self._kill_at, anyio.current_time() + patience + GRACE)
        self._stopping.set()
        logger.info("stopping; worker processes that have not ended in %.0f s are killed", patience + GRACE)
        for process, bound in self._children.values():
            bound.deadline = self._kill_at
            _tell(process, signal.SIGTERM)

    async def _keep(self, number: int, lifeline: int) -> None:
        """One slot: a child, and another after it, for as long as `after_end` says so."""
        failures = 0
        while not self._stopping.is_set():
            began = anyio.current_time()
            code = await self._run_child(number, lifeline)
            follows = after_end(
                outcome(code, stopping=self._stopping.is_set()),
                lived=anyio.current_time() - began,
                failures=failures,
                stopping=self._stopping.is_set(),
                until_idle=self._until_idle,
                random=self._random,
            )
            match follows:
                case Replace(after, failures):
                    level = logging.WARNING if failures else logging.INFO
                    when = f"in {after:.1f} s" if after else "at once"
                    logger.log(level, "worker process %d %s; another starts %s", number, described(code), when)
                    with anyio.move_on_after(after):
                        await self._stopping.wait()
                case Leave(failed):
                    if failed:
                        logger.error("worker process %d %s", number, described(code))
                        self._status = self._status or FAILED
                    return
                case GiveUp():
                    logger.error("worker process %d %s: wrong usage, which no restart mends", number, described(code))
                    self._status = USAGE
                    self._stop()

    async def _run_child(self, number: int, lifeline: int) -> int:
        """Start a child and wait for its end; its exit code."""
        command = [sys.executable, "-m", "horsies", *self._arguments(number, lifeline)]
        try:
            process = await anyio.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=None,
                stderr=None,
                pass_fds=(lifeline,),
                start_new_session=True,
            )
        except OSError as error:
            logger.error("worker process %d cannot be started: %s", number, error.strerror or error)
            return FAILED
        logger.info("worker process %d has pid %d", number, process.pid)
        async with process:
            with anyio.CancelScope(deadline=self._kill_at) as bound:
                self._children[number] = process, bound
                if self._stopping.is_set():
                    _tell(process, signal.SIGTERM)
                try:
                    return await process.wait()
                finally:
                    del self._children[number]
            logger.error("worker process %d (pid %d) did not end in time and is killed", number, process.pid)
            _tell(process, signal.SIGKILL)
            return await process.wait()


def _tell(process: anyio.abc.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
