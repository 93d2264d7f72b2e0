"""Whatever is sent to a subject of the benchmarks is run, and its end is stored, on each loop the subject names."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import anyio
import pytest

from benchmarks import subjects

SUBJECTS = sorted(module.name for module in pkgutil.iter_modules(subjects.__path__))
BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
SENDERS = 20
AT_ONCE = 10


async def until_stored(queue: subjects.Queue, count: int) -> None:
    with anyio.fail_after(20):
        while await queue.stored() < count:
            await anyio.sleep(0.01)


async def use(subject: ModuleType, url: str) -> None:
    sent = 0
    async with subject.open(url) as queue:
        assert await queue.stored() == 0
        async with anyio.create_task_group() as group:
            for _ in range(SENDERS):
                group.start_soon(queue.send, subjects.NOTHING)
        sent += SENDERS
        for kind in sorted(subject.KINDS):
            await queue.send_many(kind, 3 * AT_ONCE + 1)
            sent += 3 * AT_ONCE + 1
        assert await queue.stored() == 0
        await queue.drain(AT_ONCE)
        assert await queue.stored() == sent

        async with queue.worker(AT_ONCE):
            await queue.send(subjects.NOTHING)
            sent += 1
            if hasattr(queue, "round_trip"):
                await queue.round_trip(subjects.NOTHING)
                sent += 1
            await until_stored(queue, sent)

    async with subject.open_again(url) as queue:
        assert await queue.stored() == sent
    async with subject.open(url) as queue:
        assert await queue.stored() == 0


@pytest.mark.parametrize("loop", BACKENDS)
@pytest.mark.parametrize("name", SUBJECTS)
def test_what_is_sent_is_run_and_stored(name: str, loop: str, postgres_url: str) -> None:
    try:
        subject = importlib.import_module(f"{subjects.__name__}.{name}")
    except ModuleNotFoundError as missing:
        if str(missing.name).startswith(subjects.__name__):
            raise
        pytest.skip(f"{missing.name} is not installed")
    if loop not in subject.LOOPS:
        pytest.skip(f"{name} does not run on {loop}")
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    backend, options = BACKENDS[loop]
    subjects.MARKS.clear()
    anyio.run(use, subject, postgres_url, backend=backend, backend_options=options)
    if subjects.MARK in subject.KINDS:
        assert len(subjects.MARKS) == 3 * AT_ONCE + 1
