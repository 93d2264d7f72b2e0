"""SIGKILL between every two statements of what follows the ends of nodes: another worker brings the workflow home."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from horsies import Ok, Runtime, TaskStatus, WorkflowHandle, WorkflowStatus
from horsies._workflow.advance import engine
from horsies.testing.postgres import EmbeddedServer, embedded_server

from .flow_victim import PORTION, RESULT, WIDE, make_app

ROOT = Path(__file__).parents[2]
AT_ONCE = 4
LOOPS = ("asyncio", "trio")
MOST = 80


class Murders:
    """One victim after the other, each killed one statement later, until one is not killed any more.

    Their event loops take turns.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._next = 1
        self.survivor: int | None = None
        self.faults: list[str] = []

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(self._series)

    async def _series(self) -> None:
        while self.survivor is None and self._next <= MOST:
            number = self._next
            self._next += 1
            await self._one(number)

    async def _die(self, number: int, schema: str, *given: str) -> str:
        """Run a victim to its end; what it said."""
        victim = [sys.executable, "-m", "tests.chaos.flow_victim", str(number), self._url, schema]
        done = await anyio.run_process([*victim, LOOPS[number % 2], *given], cwd=ROOT, check=False)
        if done.returncode == 0:
            self.survivor = min(number, self.survivor or number)
        elif done.returncode != -signal.SIGKILL:
            self.faults.append(f"{number}: the victim ended with {done.returncode}: {done.stderr.decode()[-500:]}")
        return done.stdout.decode()

    async def _one(self, number: int) -> None:
        schema, ran = f"killed_{number}", list[str]()
        app = make_app(self._url, schema, ran.append)
        async with Runtime(app) as rt:
            run = (await app.workflows["flow"].handle(rt).start()).unwrap()
            said = await self._die(number, schema)
            rt.start_worker()
            await self._judge(number, rt, run)
        times = Counter([*said.splitlines(), *ran])
        if twice := [line for line, count in times.items() if count > 1]:
            self.faults.append(f"{number}: ran twice in one attempt: {twice}")

    async def _judge(self, number: int, rt: Runtime, run: WorkflowHandle[int]) -> None:
        result = await run.get(timeout=30)
        if result != Ok(RESULT):
            self.faults.append(f"{number}: it came to {result}")
        found = [node.task_id or node.workflow_id for node in (await run.tasks()).unwrap()]
        async with rt.transaction() as connection:
            schema = rt.app.config.schema
            counts = f"""
                SELECT (SELECT count(*) FROM {schema}.tasks), (SELECT count(*) FROM {schema}.workflows),
                    (SELECT count(*) FROM {schema}.tasks WHERE advances),
                    (SELECT count(*) FROM {schema}.workflow_signals)
            """
            cursor = await connection.execute(counts)
            (row,) = await cursor.fetchall()
        # Three nodes, the one that opens the workflow inside, and that one's own.
        if row != (5, 2, 0, 0) or None in found:
            self.faults.append(f"{number}: tasks, workflows, marks and signals are {row}")


class Cancellations(Murders):
    """The victims cancel a workflow in portions."""

    async def _one(self, number: int) -> None:
        schema, ran = f"cancelled_{number}", list[str]()
        app = make_app(self._url, schema, ran.append)
        async with Runtime(app) as rt:
            await rt.pause_queue("default")
            run = (await app.workflows["wide"].handle(rt).start()).unwrap()
            await self._die(number, schema, run.workflow_id)
            status = (await run.status()).unwrap()
            if status is WorkflowStatus.RUNNING and await self._statuses(rt, run) != {TaskStatus.PENDING}:
                self.faults.append(f"{number}: tasks were cancelled, and the workflow was not")
            if status is WorkflowStatus.RUNNING:
                (await run.cancel()).unwrap()
            rt.start_worker()
            with anyio.move_on_after(30):
                while await self._statuses(rt, run) != {TaskStatus.CANCELLED} or await rt._engine.workflows.unadvanced(
                    1
                ):
                    await anyio.sleep(0.05)
            found = await rt._engine.workflows.tasks(run.workflow_id)
            if len(found) != WIDE or await self._statuses(rt, run) != {TaskStatus.CANCELLED} or ran:
                self.faults.append(f"{number}: it was {status}, its tasks are {found}, and there ran {ran}")
            nodes = {node.status for node in (await run.tasks()).unwrap()}
            if nodes != {"FAILED"} or await rt._engine.workflows.unadvanced(1):
                self.faults.append(f"{number}: its nodes are {nodes}, or there are marks left")

    async def _statuses(self, rt: Runtime, run: WorkflowHandle[int]) -> set[TaskStatus]:
        return {status for _, status, _ in await rt._engine.workflows.tasks(run.workflow_id)}


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with embedded_server() as server:
        yield server


@pytest.mark.timeout(300)
def test_wherever_a_worker_dies_another_one_goes_on(server: EmbeddedServer) -> None:
    murders = Murders(server.url)
    anyio.run(murders.run)
    assert murders.faults == []
    # Four finishes, one advance of the inner workflow's whole, and some statements in each.
    assert murders.survivor is not None
    assert murders.survivor > 20


@pytest.mark.timeout(300)
def test_wherever_a_canceller_dies_all_portions_come(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "PORTION", PORTION)
    cancellations = Cancellations(server.url)
    anyio.run(cancellations.run)
    assert cancellations.faults == []
    # The mark with the first portion, two more, and what follows from the ends: some statements in each.
    assert cancellations.survivor is not None
    assert cancellations.survivor > 15
