"""SIGKILL between every two statements of what follows the ends of nodes: another worker brings the workflow home."""

from __future__ import annotations

import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from horsies import Ok, Runtime, WorkflowHandle
from horsies.testing.postgres import EmbeddedServer, embedded_server

from .flow_victim import RESULT, make_app

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

    async def _one(self, number: int) -> None:
        schema, ran = f"killed_{number}", list[str]()
        app = make_app(self._url, schema, ran.append)
        async with Runtime(app) as rt:
            run = (await app.workflows["flow"].handle(rt).start()).unwrap()
            command = [
                sys.executable,
                "-m",
                "tests.chaos.flow_victim",
                str(number),
                self._url,
                schema,
                LOOPS[number % 2],
            ]
            done = await anyio.run_process(command, cwd=ROOT, check=False)
            if done.returncode == 0:
                self.survivor = min(number, self.survivor or number)
            elif done.returncode != -signal.SIGKILL:
                self.faults.append(f"{number}: the victim ended with {done.returncode}: {done.stderr.decode()[-500:]}")
            rt.start_worker()
            await self._judge(number, rt, run)
        times = Counter([*done.stdout.decode().splitlines(), *ran])
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
