"""A worker that kills itself between two statements of what follows a node's end, or a process that cancels.

It counts the statements of its transactions that write ends or advance workflows, BEGIN and COMMIT among them, and
dies just before the Nth; or, when there are none so many, ends in order once there is nothing left to do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from horsies import (
    AppConfig,
    Horsies,
    NodeRef,
    RecoveryConfig,
    RetryPolicy,
    Runtime,
    TaskContext,
    WorkerConfig,
    WorkflowBuilder,
)
from horsies._workflow.advance import engine
from horsies.plugins.postgres.driver.prepared import Statements
from horsies.plugins.postgres.driver.session import Fetch, Session

RECOVERY = RecoveryConfig(heartbeat_interval=0.25, dead_after=2.0, reap_interval=0.5)
RESULT = 3
WIDE = 5
PORTION = 2
"""Nodes of the wide workflow that one transaction cancels."""


def make_app(url: str, schema: str, note: Callable[[str], object]) -> Horsies:
    """Two nodes, one that waits for both, and a workflow inside that waits for that. `note` hears of each run."""
    app = Horsies(AppConfig.for_database_url(url, schema=schema, recovery=RECOVERY))

    @app.task(retry=RetryPolicy.fixed([0.2] * 20), retry_for=("WORKER_CRASHED",))
    async def add(context: TaskContext, a: int, b: int) -> int:
        note(f"ran {context.task_id} {context.attempt}")
        return a + b

    @app.workflow("inner")
    def inner(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        return wf.task(add.node(n, 0))

    @app.workflow("flow")
    def flow(wf: WorkflowBuilder) -> NodeRef[int]:
        one, two = wf.task(add.node(1, 0)), wf.task(add.node(2, 0))
        return wf.subworkflow(inner.node(wf.task(add.node(one, two))))

    @app.workflow("wide")
    def wide(wf: WorkflowBuilder) -> None:
        for n in range(WIDE):
            wf.task(add.node(n, 0))

    return app


class Countdown:
    """To the statement before which this process ends."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._counts = False

    def take(self) -> None:
        if self._counts:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        fetch, command, transaction = Statements.fetch, Statements.command, Session.transaction

        async def counted_fetch(statements: Statements, *args: Any, **given: Any) -> Any:
            self.take()
            return await fetch(statements, *args, **given)

        async def counted_command(statements: Statements, text: bytes) -> None:
            self.take()
            await command(statements, text)

        @asynccontextmanager
        async def counted_transaction(session: Session, action: str, **given: Any) -> AsyncIterator[Fetch]:
            self._counts = True
            async with transaction(session, action, **given) as run:
                yield run
            self.take()  # once it is committed
            self._counts = False

        Statements.fetch = counted_fetch
        Statements.command = counted_command
        Session.transaction = counted_transaction


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(url: str, schema: str) -> None:
    async with Runtime(make_app(url, schema, say)) as rt:
        await rt.run_worker(WorkerConfig(until_idle=True))


async def cancel(url: str, schema: str, workflow_id: str) -> None:
    """Cancel a workflow, and all of its tasks, in portions."""
    engine.PORTION = PORTION
    async with Runtime(make_app(url, schema, say)) as rt:
        (await rt.workflow(workflow_id).cancel()).unwrap()
        await rt.settle_workflows()


if __name__ == "__main__":
    Countdown(int(sys.argv[1])).install()
    loop, *given = sys.argv[4:]
    anyio.run(cancel if given else main, *sys.argv[2:4], *given, backend=loop)
