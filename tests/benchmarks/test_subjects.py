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
OF_A_KIND = 3 * AT_ONCE + 1


async def send_and_drain(queue: subjects.Queue, kinds: list[str]) -> int:
    async with anyio.create_task_group() as group:
        for _ in range(SENDERS):
            group.start_soon(queue.send, subjects.NOTHING)
    for kind in kinds:
        await queue.send_many(kind, OF_A_KIND)
    await queue.drain(AT_ONCE)
    return SENDERS + len(kinds) * OF_A_KIND


async def send_to_a_worker(queue: subjects.Queue, stored: int) -> int:
    async with queue.worker(AT_ONCE):
        await queue.send(subjects.NOTHING)
        sent = 1
        if hasattr(queue, "round_trip"):
            await queue.round_trip(subjects.NOTHING)
            sent += 1
        with anyio.fail_after(20):
            while await queue.stored() < stored + sent:
                await anyio.sleep(0.01)
    return sent


async def use(subject: ModuleType, url: str) -> None:
    """The floor runs no worker, and begins with a task of its own that has ended; a file of SQLite is not shared."""
    async with subject.open(url) as queue:
        empty = stored = await queue.stored()
        stored += await send_and_drain(queue, sorted(subject.KINDS))
        assert await queue.stored() == stored
        if hasattr(queue, "worker"):
            stored += await send_to_a_worker(queue, stored)
    if hasattr(subject, "open_again"):
        async with subject.open_again(url) as queue:
            assert await queue.stored() == stored
    async with subject.open(url) as queue:
        assert await queue.stored() == empty


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
        assert len(subjects.MARKS) == OF_A_KIND
