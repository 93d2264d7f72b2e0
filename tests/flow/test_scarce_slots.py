"""A worker has slots by place. What it has no slot for goes to other workers, and the rest is not held up by it."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from horsies import AppConfig, Horsies, Ok, Runtime, TaskSendOptions, WorkerConfig
from horsies._declare.placement import Place
from horsies._declare.task import Task
from horsies._runtime.engine import Engine
from horsies._worker.intake.claimer import Room
from horsies._worker.intake.decide import Timings
from horsies._worker.intake.scarce_slots import NARROW, ScarceSlots
from horsies.cli.health import health_of

from . import process_tasks
from .conftest import until

pytestmark = pytest.mark.anyio

ONE_THREAD = WorkerConfig(concurrency=50, threads=1)


@pytest.fixture
def go_on() -> threading.Event:
    return threading.Event()


@pytest.fixture
def app(config: AppConfig, go_on: threading.Event) -> Horsies:
    app = Horsies(config)

    @app.task("hold", priority=1)
    def hold(n: int) -> int:
        go_on.wait(20)
        return n

    @app.task("quick")
    async def quick(n: int) -> int:
        return n

    app.include(process_tasks.burn)
    return app


async def test_tasks_without_a_slot_go_to_an_idle_worker(
    app: Horsies, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "timings", Timings(patience=0.05))
    async with Runtime(app) as rt:
        worker = rt.start_worker(ONE_THREAD)
        handles = [one.unwrap() for one in await app.tasks["hold"].handle(rt).send_many([(n,) for n in range(50)])]
        await until(lambda: worker.statistics().running == 1)
        await until(lambda: worker.statistics().ready == 0)
        other = rt.start_worker(ONE_THREAD)
        await until(lambda: other.statistics().running == 1)
        await until(lambda: other.statistics().ready == 0)
        go_on.set()
        assert [await handle.get(timeout=20) for handle in handles] == [Ok(n) for n in range(50)]
        assert min(worker.statistics().completed, other.statistics().completed) >= 1


async def test_async_tasks_do_not_wait_behind_sync_ones(
    app: Horsies, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "timings", Timings(patience=0.05))
    async with Runtime(app) as rt:
        blocked = [one.unwrap() for one in await app.tasks["hold"].handle(rt).send_many([(n,) for n in range(200)])]
        handles = [one.unwrap() for one in await app.tasks["quick"].handle(rt).send_many([(n,) for n in range(200)])]
        worker = rt.start_worker(ONE_THREAD)
        assert [await handle.get(timeout=20) for handle in handles] == [Ok(n) for n in range(200)]
        assert worker.statistics().running == 1
        go_on.set()
        assert [await handle.get(timeout=20) for handle in blocked] == [Ok(n) for n in range(200)]


async def test_a_full_place_is_not_claimed_for(
    app: Horsies, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many notices come: what is given back once does not come again before a slot is free."""
    monkeypatch.setattr(Engine, "timings", Timings(patience=0.05))
    async with Runtime(app) as rt:
        worker = rt.start_worker(ONE_THREAD)
        for answer in await app.tasks["hold"].handle(rt).send_many([(n,) for n in range(50)]):
            answer.unwrap()
        await until(lambda: worker.statistics().running == 1 and worker.statistics().given_back > 0)
        await until(lambda: worker.statistics().ready == 0)
        before = worker.statistics()
        for n in range(20):
            assert await (await app.tasks["quick"].handle(rt).send(n)).unwrap().get(timeout=20) == Ok(n)
        after = worker.statistics()
        assert (after.claimed, after.given_back) == (before.claimed + 20, before.given_back)
        go_on.set()
        await until(lambda: worker.statistics().completed == 70)


@pytest.mark.parametrize("database_url", ["sqlite-memory"], indirect=True)
async def test_processes_are_a_place_too(app: Horsies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "timings", Timings(patience=0.05))
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    async with Runtime(app) as rt:
        worker = rt.start_worker()
        calls = [(str(tmp_path / f"{n}"), str(tmp_path / "until")) for n in range(6)]
        handles = [one.unwrap() for one in await process_tasks.burn.handle(rt).send_many(calls)]
        await until(lambda: (worker.statistics().running, worker.statistics().ready) == (1, 0))
        (tmp_path / "until").touch()
        for handle in handles:
            assert (await handle.get(timeout=50)).is_ok()


@pytest.mark.parametrize("threads", [1, 2])
async def test_a_place_that_is_held_after_a_timeout_is_told_and_given_up(
    app: Horsies, go_on: threading.Event, caplog: pytest.LogCaptureFixture, threads: int
) -> None:
    caplog.set_level(logging.WARNING)
    async with Runtime(app) as rt:
        worker = rt.start_worker(WorkerConfig(concurrency=2, threads=threads))
        hold = app.tasks["hold"].handle(rt)
        short = hold.with_options(TaskSendOptions(timeout=0.05))
        late = [one.unwrap() for one in await short.send_many([(n,) for n in range(threads)])]
        for handle in late:
            assert (await handle.get(timeout=20)).unwrap_err().code == "TASK_TIMEOUT"
        waiting = (await hold.send(7)).unwrap()
        assert worker.held == {"thread": ["hold"] * threads}
        health = health_of(worker, stopped=False)
        assert (health.live, health.ready, health.body["held"]) == (True, False, worker.held)
        await until(lambda: worker.statistics().ready == 0)
        said = [
            record.message for record in caplog.records if f"hold all {threads} slots of its threads" in record.message
        ]
        assert len(said) == 1
        other = rt.start_worker(WorkerConfig(concurrency=2))
        await until(lambda: other.statistics().running == 1)
        go_on.set()
        assert await waiting.get(timeout=20) == Ok(7)
        await until(lambda: worker.held == {})
        assert health_of(worker, stopped=False).ready
        assert "a slot of its threads is free again" in caplog.text


class TestPlaces:
    def places(self) -> ScarceSlots:
        app = Horsies(AppConfig.for_database_url("sqlite://:memory:"))

        @app.task("sync")
        def sync() -> None: ...

        @app.task("not sync")
        async def not_sync() -> None: ...

        tasks: list[Task[..., object]] = [*app.tasks.values()]
        return ScarceSlots(
            {Place.NURSERY: 10, Place.THREAD: 2, Place.PROCESS: 2}, 10, tasks, ahead=10, patience=0.5, now=0.0
        )

    def bounded(
        self,
        found: ScarceSlots,
        free: int,
        waiting: int,
        *,
        was_full: bool = True,
        now: float = 0.0,
        rests: float = 0.0,
    ) -> object:
        claims: Any = SimpleNamespace(full=was_full, rests_until=now + rests)
        room = found.bounded(Room(7), {Place.THREAD: free}, {Place.THREAD: waiting}, claims, now)
        return room.tasks, room.without, room.more

    def test_names_of_a_full_place_are_left_out_once_it_had_too_much(self) -> None:
        found = self.places()
        assert self.bounded(found, 2, 2) == (7, frozenset(), False)
        for now in (-100.0, -50.0):
            found.excess({Place.THREAD: 0}, {Place.THREAD: 1}, now)
        assert self.bounded(found, 2, 0) == (7, frozenset(), False)
        assert self.bounded(found, 2, 2) == (7, {"sync"}, False)
        assert found.missed == {Place.THREAD}
        assert self.bounded(found, 0, 0) == (7, {"sync"}, False)
        assert self.bounded(found, 0, 0, rests=1.0) == (0, (), False)
        assert self.bounded(found, 2, 0, rests=1.0) == (7, frozenset(), False)

    def test_claims_are_narrow_and_wide_in_turn_after_there_was_too_much(self) -> None:
        found = self.places()
        waiting = {Place.THREAD: 5}
        assert found.excess({Place.THREAD: 1}, waiting, 1.0) == {}
        assert found.next_excess() == 1.0 + 0.5
        assert found.excess({Place.THREAD: 1}, waiting, 1.5) == {Place.THREAD: 4}
        assert self.bounded(found, 1, 0, now=2.0) == (1, frozenset(), True)
        assert self.bounded(found, 1, 0, now=2.0) == (7, {"sync"}, True)
        assert self.bounded(found, 2, 0, now=2.0) == (2, frozenset(), True)
        assert self.bounded(found, 1, 0, now=2.0, rests=1.0) == (1, frozenset(), True)
        assert self.bounded(found, 2, 0, now=2.0, was_full=False) == (7, frozenset(), False)
        assert found.excess({Place.THREAD: 1}, waiting, 2.0) == {Place.THREAD: 4}
        assert self.bounded(found, 1, 0, now=2.0 + NARROW) == (7, frozenset(), False)

    def test_a_worker_with_as_many_slots_everywhere_has_none(self) -> None:
        assert not ScarceSlots(dict.fromkeys(Place, 10), 10, [], ahead=10, patience=0.5, now=0.0)
