"""Whole applications in simulated time: the harness itself, what it has found, and worlds full of chance.

HORSIES_DEEP=1 lives through a thousand hours, and through more worlds.
"""

from __future__ import annotations

import logging
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest
from simulated_world import HOUR, World

import horsies
from horsies import AppConfig, Err, Horsies, Ok, RetryPolicy, Runtime, TaskContext, TaskStatus, WorkerConfig
from horsies.testing.simulation import Simulation

DEEP = os.environ.get("HORSIES_DEEP") == "1"
WORLDS = [(seed, 72.0) for seed in range(1, 9)] + [(9, 1000.0)] if DEEP else [(1, 24.0), (2, 24.0)]
MANNERS = pytest.mark.parametrize("rough", [False, True], ids=["gentle", "rough"])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A world's failures are warnings by the thousand."""
    logger = logging.getLogger("horsies")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


class Bench:
    """An application, whose tasks note what they do."""

    def __init__(self) -> None:
        self.app = Horsies(AppConfig.for_database_url("postgresql://localhost/elsewhere"))
        self.notes: list[Any] = []

        @self.app.lifespan
        @asynccontextmanager
        async def resources(rt: Runtime) -> AsyncIterator[str]:
            yield "the state"

        @self.app.task("note")
        async def note(what: str) -> float:
            self.notes.append(what)
            return anyio.current_time()

        @self.app.task("in_thread")
        def in_thread(ctx: TaskContext) -> tuple[bool, Any]:
            return threading.current_thread() is threading.main_thread(), ctx.state

        @self.app.task("sleep")
        async def sleep(hours: float) -> str:
            await anyio.sleep(hours * HOUR)
            return "awake"

        self.note, self.in_thread, self.sleep = note, in_thread, sleep


Body = Callable[[Runtime], Coroutine[Any, Any, Any]]


def simulated(simulation: Simulation, body: Body, bench: Bench, **limits: Any) -> Any:
    """What `body` returns when it is run with an open runtime."""
    app = simulation.app(bench.app)

    async def run() -> Any:
        async with Runtime(app, environment=simulation.environment) as rt:
            return await body(rt)

    return simulation.run(run, **limits)


class TestHarness:
    def test_hours_pass_at_once_and_begin_at_a_fixed_instant(self) -> None:
        simulation = Simulation(1)
        bench = Bench()

        async def body(rt: Runtime) -> Any:
            rt.start_worker()
            handle = (await bench.note.handle(rt).schedule(timedelta(days=6), "late")).unwrap()
            return (await handle.get()).unwrap(), (await handle.info()).unwrap()

        began, info = simulated(simulation, body, bench)
        assert began == pytest.approx(6 * 24 * HOUR)
        assert info.sent_at == datetime(2040, 1, 1, tzinfo=UTC)
        assert info.due_at == info.started_at == datetime(2040, 1, 7, tzinfo=UTC)
        assert simulation.now() == datetime(2040, 1, 7, tzinfo=UTC)

    def test_sync_tasks_run_inline_and_the_lifespan_is_entered(self) -> None:
        bench = Bench()

        async def body(rt: Runtime) -> Any:
            rt.start_worker()
            return await (await bench.in_thread.handle(rt).send()).unwrap().get()

        assert simulated(Simulation(1), body, bench) == Ok((True, "the state"))

    def test_the_original_application_is_left_alone(self) -> None:
        bench = Bench()
        before = dict(vars(bench.app))
        simulated_app = Simulation(1).app(bench.app)
        assert vars(bench.app) == before
        assert simulated_app.tasks == bench.app.tasks

    def test_trio_and_the_module_random_are_left_as_they_were(self) -> None:
        scheduler: Any = import_module("trio._core._run")
        scheduler._r.seed(7)
        random.seed(7)
        before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()

        async def body() -> float:
            assert scheduler._ALLOW_DETERMINISTIC_SCHEDULING
            return random.random()

        assert Simulation(1).run(body) == Simulation(1).run(body) != Simulation(2).run(body)
        assert (scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()) == before

    def test_it_runs_once_and_alone(self) -> None:
        simulation = Simulation(1)

        async def body() -> None:
            with pytest.raises(RuntimeError, match="another simulation is running"):
                Simulation(2).run(anyio.sleep, 1)

        simulation.run(body)
        with pytest.raises(RuntimeError, match="this simulation has run"):
            simulation.run(body)
        Simulation(2).run(anyio.sleep, 1)

    def test_what_does_not_end_is_ended(self) -> None:
        simulation = Simulation(1)
        with pytest.raises(TimeoutError):
            simulation.run(anyio.sleep_forever, limit=timedelta(hours=2))
        assert simulation.now() == simulation.start + timedelta(hours=2)

    def test_what_is_shielded_and_does_not_end_is_ended(self) -> None:
        async def body() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(shielded)

        async def shielded() -> None:
            with anyio.CancelScope(shield=True):
                await anyio.sleep_forever()

        simulation = Simulation(1)
        with pytest.raises(TimeoutError):
            simulation.run(body, limit=timedelta(hours=2))
        assert simulation.now() == simulation.start + timedelta(hours=3)

    def test_ids_are_uuids_that_grow_and_are_the_seeds(self) -> None:
        async def body(simulation: Simulation) -> list[str]:
            ids = []
            for pause in [0.0] * 50 + [0.001, 3600.0] * 50:
                ids.append(simulation.environment.new_id())
                await anyio.sleep(pause)
            return ids

        one, same, other = (s.run(body, s) for s in (Simulation(1), Simulation(1), Simulation(2)))
        assert one == same
        assert not set(one) & set(other)
        assert one == sorted(set(one))
        assert all(len(task_id) == 36 and task_id[14] == "7" and task_id[19] in "89ab" for task_id in one)

    def test_an_answer_is_lost_after_all_was_done(self) -> None:
        bench = Bench()

        async def body(rt: Runtime) -> None:
            rt.start_worker()
            sent = await bench.note.handle(rt).send("once")
            assert isinstance(sent, Err)
            assert sent.error.retryable
            assert (await rt.handle(str(sent.error.task_id)).get()).is_ok()

        simulated(Simulation(1, lost_answers={"enqueue": 1.0}), body, bench)
        assert bench.notes == ["once"]

    def test_a_request_is_lost_before_anything_was_done(self) -> None:
        bench = Bench()

        async def body(rt: Runtime) -> None:
            rt.start_worker()
            sent = await bench.note.handle(rt).send("never")
            assert isinstance(sent, Err)
            assert (await rt.handle(str(sent.error.task_id)).info()) == Ok(None)

        simulated(Simulation(1, lost_requests={"enqueue": 1.0}), body, bench)
        assert bench.notes == []

    def test_calls_take_time(self) -> None:
        bench = Bench()

        async def body(rt: Runtime) -> float:
            begin = anyio.current_time()
            for _ in range(100):
                (await bench.note.handle(rt).send("x")).unwrap()
            return anyio.current_time() - begin

        assert simulated(Simulation(1), body, bench) == 0
        assert 30 < simulated(Simulation(1, latency=1.0), body, bench) < 70

    def test_one_worker_is_cut_off_and_its_tasks_are_taken(self) -> None:
        bench = Bench()
        simulation = Simulation(1)

        async def body(rt: Runtime) -> TaskStatus:
            cut_off = rt.start_worker(WorkerConfig(name="one"))
            handle = (await bench.sleep.handle(rt).send(10)).unwrap()
            await anyio.sleep(1)
            rt.start_worker(WorkerConfig(name="two"))
            with simulation.outage("one"):
                await anyio.sleep(8 * HOUR)
                assert (await (await bench.note.handle(rt).send("by two")).unwrap().get()).is_ok()
            await anyio.sleep(8 * HOUR)
            assert cut_off.statistics().lost == 1
            return (await handle.info()).unwrap().status

        assert simulated(simulation, body, bench) is TaskStatus.FAILED

    def test_a_worker_that_was_taken_for_dead_cannot_end_another_attempt(self) -> None:
        bench = Bench()
        simulation = Simulation(1)

        @bench.app.task("long", retry=RetryPolicy.fixed([1.0]), retry_for=("WORKER_CRASHED",))
        async def long(ctx: TaskContext) -> int:
            await anyio.sleep(5 * HOUR)
            return ctx.attempt

        async def body(rt: Runtime) -> Any:
            cut_off = rt.start_worker(WorkerConfig(name="one"))
            handle = (await long.handle(rt).send()).unwrap()
            await anyio.sleep(1)
            rt.start_worker(WorkerConfig(name="two"))
            with simulation.outage("one"):
                await anyio.sleep(7 * HOUR)
            await anyio.sleep(HOUR)
            info = (await handle.info()).unwrap()
            assert (info.status, info.attempt) == (TaskStatus.RUNNING, 2)
            assert cut_off.statistics().lost == 1
            return await handle.get()

        assert simulated(simulation, body, bench) == Ok(2)


def test_the_program_in_the_documentation_runs() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "simulation.md"
    program = re.search(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert program is not None
    names: dict[str, Any] = {}
    exec(program[1], names)
    names["test_a_reminder_survives_three_hours_without_mail"]()
    assert names["reminded"] == ["ada"] * 3


class TestFound:
    """Faults that simulations have found."""

    def test_no_notice_is_missed_while_the_next_due_time_is_asked_for(self) -> None:
        bench = Bench()
        simulation = Simulation(1, latency=1.0)

        async def body(rt: Runtime) -> list[float]:
            rt.start_worker()
            (await bench.note.handle(rt).schedule(timedelta(days=30), "far")).unwrap()
            delays = []
            for _ in range(50):
                async with anyio.create_task_group() as group:
                    for delay in (20, 10):
                        await anyio.sleep(simulation.random.random())
                        group.start_soon(wait, rt, delay, delays)
            return delays

        async def wait(rt: Runtime, delay: float, delays: list[float]) -> None:
            due = anyio.current_time() + delay
            handle = (await bench.note.handle(rt).schedule(delay, "near")).unwrap()
            delays.append((await handle.get()).unwrap() - due)

        assert max(simulated(simulation, body, bench)) < 10

    @pytest.mark.parametrize("call", ["leave", "finish"])
    def test_a_worker_stops_although_it_cannot_sign_off(self, call: str) -> None:
        bench = Bench()
        simulation = Simulation(1, lost_requests={call: 1.0})

        async def body(rt: Runtime) -> float:
            worker = rt.start_worker()
            (await bench.note.handle(rt).send("x")).unwrap()
            await anyio.sleep(10)
            begin = anyio.current_time()
            await worker.drain()
            return anyio.current_time() - begin

        assert simulated(simulation, body, bench, limit=timedelta(hours=1)) < 10

    def test_a_worker_that_starts_in_an_outage_waits_for_its_end(self) -> None:
        bench = Bench()
        simulation = Simulation(1)

        async def body(rt: Runtime) -> Any:
            (await bench.note.handle(rt).send("early")).unwrap()
            with simulation.outage():
                rt.start_worker()
                await anyio.sleep(600)
            await anyio.sleep(70)
            return list(bench.notes)

        assert simulated(simulation, body, bench) == ["early"]

    def test_a_worker_that_starts_in_an_outage_can_be_stopped(self) -> None:
        bench = Bench()
        simulation = Simulation(1)

        async def body(rt: Runtime) -> float:
            with simulation.outage():
                worker = rt.start_worker()
                await anyio.sleep(600)
                begin = anyio.current_time()
                await worker.drain()
                return anyio.current_time() - begin

        assert simulated(simulation, body, bench, limit=timedelta(hours=1)) < 80

    def test_a_worker_can_run_two_attempts_of_one_task(self) -> None:
        """The first one began before it was taken for dead, and nobody else was there for the second."""
        bench = Bench()
        simulation = Simulation(1)

        @bench.app.task("long", retry=RetryPolicy.fixed([1.0]), retry_for=("WORKER_CRASHED",))
        async def long(ctx: TaskContext) -> int:
            await anyio.sleep(20 * HOUR)
            return ctx.attempt

        async def body(rt: Runtime) -> Any:
            rt.start_worker(WorkerConfig(name="one"))
            handle = (await long.handle(rt).send()).unwrap()
            await anyio.sleep(1)
            reaper = rt.start_worker(WorkerConfig(name="two", concurrency=1))
            (await bench.sleep.handle(rt).send(100)).unwrap()
            with simulation.outage("one"):
                await anyio.sleep(7 * HOUR)
            assert reaper.statistics().running == 1
            return await handle.get()

        assert simulated(simulation, body, bench) == Ok(2)

    @pytest.mark.parametrize("fail", ["lost_requests", "lost_answers"])
    def test_what_a_stopping_worker_may_have_started_is_run_by_the_next(self, fail: str) -> None:
        bench = Bench()
        lost = {"start": 1.0, "give_back": 1.0}
        simulation = Simulation(1, **{fail: lost})

        async def body(rt: Runtime) -> Any:
            worker = rt.start_worker()
            handle = (await bench.note.handle(rt).send("once")).unwrap()
            await anyio.sleep(10)
            await worker.drain()
            lost.clear()
            rt.start_worker()
            return await handle.get(timeout=60)

        assert simulated(simulation, body, bench).is_ok()
        assert bench.notes == ["once"]

    def test_what_a_cancelled_worker_may_have_started_is_run_by_the_next(self) -> None:
        bench = Bench()
        simulation = Simulation(1, latency=1.0)

        async def body(rt: Runtime) -> list[Any]:
            handles = []
            for number in range(100):
                handles.append((await bench.note.handle(rt).send(str(number))).unwrap())
                with anyio.move_on_after(simulation.random.uniform(0, 5)):
                    await rt.run_worker()
            rt.start_worker()
            return [await handle.get(timeout=60) for handle in handles]

        assert [answer for answer in simulated(simulation, body, bench) if answer.is_err()] == []
        assert sorted(bench.notes, key=int) == [str(number) for number in range(100)]

    def test_what_a_claim_took_is_not_lost_with_its_answer(self) -> None:
        bench = Bench()

        async def body(rt: Runtime) -> list[bool]:
            rt.start_worker()
            handles = [(await bench.note.handle(rt).send(f"{number}")).unwrap() for number in range(20)]
            return [(await handle.get(timeout=timedelta(hours=10))).is_ok() for handle in handles]

        assert all(simulated(Simulation(1, latency=0.1, lost_answers={"claim": 0.3}), body, bench))


class TestWorld:
    @MANNERS
    @pytest.mark.parametrize(("seed", "hours"), WORLDS)
    @pytest.mark.timeout(300)
    def test_everything_that_must_be_true_is(self, seed: int, hours: float, rough: bool) -> None:
        world = World(seed, hours, rough=rough)
        assert world.live() == []
        statuses = {event.details[1] for event in world.simulation.trace if event.name == "final"}
        assert statuses == {"COMPLETED", "FAILED", "EXPIRED", "CANCELLED"}
        lost = {event.name for event in world.simulation.trace if "answer lost" in event.details}
        assert lost >= ({"enqueue", "claim", "finish", "promote", "receive"} if rough else set())

    @MANNERS
    def test_equal_seeds_are_equal_runs(self, rough: bool) -> None:
        one, same, other = (World(seed, 6.0, rough=rough) for seed in (3, 3, 4))
        for world in (one, same, other):
            world.live()
        assert one.simulation.trace == same.simulation.trace
        assert one.simulation.fingerprint() == same.simulation.fingerprint()
        assert one.simulation.fingerprint() != other.simulation.fingerprint()

    @MANNERS
    def test_equal_seeds_are_equal_runs_in_any_process(self, rough: bool) -> None:
        here = World(5, 6.0, rough=rough)
        wrong = here.live()
        program = [sys.executable, Path(__file__).with_name("simulated_world.py"), "5", "6"]
        for hash_seed in ("1", "2"):
            done = subprocess.run(
                [*program, "rough" if rough else "gentle"],
                env={
                    **os.environ,
                    "PYTHONHASHSEED": hash_seed,
                    "PYTHONPATH": str(Path(horsies.__file__).parent.parent),
                },
                check=True,
                capture_output=True,
                text=True,
                timeout=50,
            )
            assert done.stdout == f"{here.simulation.fingerprint()} {wrong}\n"
