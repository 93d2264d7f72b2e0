"""An application for workflows with many nodes or large arguments, and what starts them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import anyio

from horsies import (
    AppConfig,
    Horsies,
    NodeRef,
    RecoveryConfig,
    Runtime,
    TaskContext,
    TaskStatus,
    WorkerConfig,
    WorkflowBuilder,
    WorkflowHandle,
)

UNTIL_IDLE = WorkerConfig(until_idle=True)
MANY = 13


class Shop:
    """An application, and what has run."""

    def __init__(self, config: AppConfig) -> None:
        recovery = RecoveryConfig(heartbeat_interval=0.25, dead_after=2.0, reap_interval=0.25)
        self.app = app = Horsies(replace(config, recovery=recovery))
        self.ran: Counter[str] = Counter()

        @app.task("number")
        async def number(ctx: TaskContext, n: int) -> int:
            self.ran[ctx.task_id] += 1
            return n

        @app.task("numbers")
        async def numbers(n: int) -> list[int]:
            return list(range(n))

        @app.task("total")
        async def total(values: list[int]) -> int:
            return sum(values)

        @app.task("hold")
        async def hold(ctx: TaskContext) -> int:
            self.ran[ctx.task_id] += 1
            await anyio.sleep_forever()
            return 0

        @app.task("size")
        async def size(data: bytes) -> int:
            return len(data)

        @app.task("add")
        async def add(n: int, data: bytes) -> int:
            return n + len(data)

        @app.workflow("inner")
        def inner(wf: WorkflowBuilder) -> None:
            for n in range(MANY):
                wf.task(number.node(n))

        self.number, self.numbers, self.total, self.hold = number, numbers, total, hold
        self.size, self.add, self.inner = size, add, inner


async def begin(rt: Runtime, wf: WorkflowBuilder, output: NodeRef[Any] | None = None) -> WorkflowHandle[Any]:
    return (await rt.start(wf.build(output))).unwrap()


def lone(shop: Shop, nodes: int = MANY) -> WorkflowBuilder:
    wf = WorkflowBuilder("lone")
    for n in range(nodes):
        wf.task(shop.number.node(n))
    return wf


async def statuses(rt: Runtime, run: WorkflowHandle[Any]) -> set[TaskStatus]:
    return {status for _, status, _ in await rt._engine.workflows.tasks(run.workflow_id)}
