"""A whole application in simulated time: hours pass in milliseconds, and equal seeds give equal runs.

    def test_a_week() -> None:
        simulation = Simulation(seed=7)
        app = simulation.app(my_app)

        async def week() -> None:
            async with Runtime(app, environment=simulation.environment) as rt:
                rt.start_worker()
                handle = (await remind.handle(rt).schedule(timedelta(days=6))).unwrap()
                assert (await handle.get()).is_ok()

        simulation.run(week)

Time is Trio's mock clock, which jumps to the next deadline whenever every task waits. So whatever waits for something
else than time (a thread, a socket, a process) is overtaken by the clock, and has no place in a simulation: sync tasks
run on the loop's own thread, and the database is SQLite in memory.

The order in which Trio resumes tasks is shuffled by the seed; another seed is another schedule.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import random
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, cast
from uuid import UUID

import anyio
import trio
import trio.abc
import trio.testing

from horsies import AppConfig, BrokerError, Environment, Horsies, Runtime, hookimpl
from horsies.abc import Broker, BrokerFactory, Clock

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")

MEMORY = "sqlite://:memory:"
CHORES = 3600.0
"""Seconds between the regular chores of a `calm` application."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        at: seconds since the simulation began.
        name: a method of the broker, or what `Simulation.record` was given.
        details: for a method: who called (a worker's id, or nothing), with what, and the answer. Plain values.
    """

    at: float
    name: str
    details: tuple[Any, ...]


def calm(config: AppConfig, *, url: str = MEMORY) -> AppConfig:
    """`config` for long simulations: on another database, and with an hour between its regular chores.

    Heartbeats, polling and looking for overdue tasks are what an idle hour costs. Without them due times, retries and
    notices work as ever; a lost notice shows, because no poll makes good for it soon.
    """
    return replace(
        config,
        url=url,
        listen_url=None,
        recovery=replace(config.recovery, heartbeat_interval=CHORES, dead_after=4 * CHORES, reap_interval=CHORES),
        resilience=replace(config.resilience, poll_interval=CHORES),
    )


class Simulation:
    """One run in simulated time, all of it decided by `seed`.

    Args:
        seed: of everything that is left to chance.
        start: the instant at which it begins, aware.
        latency: seconds that a call of the broker takes at most; chance says how long.
        failures: by the name of a broker's method (`enqueue`, `claim`, `finish`, ...) the share of its calls that fail
            with a retryable `BrokerError`: half of them before anything was done, half after all of it was done.

    Attributes:
        environment: for `Runtime(app, environment=...)`: the clock, ids and chance of this simulation.
        random: chance for the body of the simulation. The module `random` is seeded as well while it runs.
        trace: what has happened so far. Only applications made by `app` write what their broker does.
        steps: how often Trio has resumed a task.
    """

    def __init__(
        self,
        seed: int,
        *,
        start: datetime = datetime(2040, 1, 1, tzinfo=UTC),
        latency: float = 0.0,
        failures: Mapping[str, float] | None = None,
    ) -> None:
        self.seed = seed
        self.start = start
        self.random = Random(f"{seed} world")
        self.trace: list[Event] = []
        self.environment = Environment(
            clock=self.now,
            new_id=self._new_id,
            random=Random(f"{seed} environment"),
            inline=True,
            host="simulation",
            pid=seed,
        )
        self._clock = trio.testing.MockClock(autojump_threshold=0)
        self._ids = Random(f"{seed} ids")
        self._last_id = 0
        self._chance = Random(f"{seed} broker")
        self._latency = latency
        self._failures = dict(failures or {})
        self._outages = 0
        self._hash = hashlib.sha256()
        self._watch = _Steps(self._clock, self._hash)
        self._has_run = False

    @property
    def steps(self) -> int:
        return self._watch.steps

    def now(self) -> datetime:
        """The simulated instant."""
        return self.start + timedelta(seconds=self._clock.current_time())

    def record(self, name: str, *details: object) -> None:
        """Add to the trace. `details` are values whose repr is the same in every run (no sets, no addresses)."""
        event = Event(self._clock.current_time(), name, details)
        self.trace.append(event)
        self._hash.update(repr(event).encode())

    def fingerprint(self) -> str:
        """A hash over the trace and over each step of each task, with its instant: equal ones, equal runs."""
        return self._hash.hexdigest()

    def app(self, app: Horsies, *, config: AppConfig | None = None) -> Horsies:
        """`app`, to be run in this simulation: the same tasks, lifespan and plugins; its broker writes the trace.

        Args:
            app: yours, wherever its own database is.
            config: what it is configured with here; None: `calm(app.config)`. Its URL names a broker that waits for
                nothing but time.
        """
        config = calm(app.config) if config is None else config
        simulated = copy.copy(app)
        simulated.config = replace(config, url=f"simulation://{self.seed}")
        simulated.queues = {queue.name: queue for queue in config.queues}
        inner = Horsies(config, plugins=app.plugins, block_plugins=app.block_plugins)
        simulated.plugins = (*app.plugins, _SimulationPlugin(self, inner))
        return simulated

    @contextmanager
    def outage(self) -> Iterator[None]:
        """While entered, the database cannot be reached: every call of the broker fails, and nothing is done."""
        self._outages += 1
        try:
            yield
        finally:
            self._outages -= 1

    def run(self, body: Callable[[*Ts], Awaitable[T]], *args: *Ts, limit: timedelta = timedelta(days=365)) -> T:
        """Run `body` to its end under the mock clock; once for each `Simulation`, and one at a time in a process.

        Args:
            limit: simulated time after which the body is cancelled.

        Raises:
            TimeoutError: `limit` has passed.
            RuntimeError: this simulation has run before, or another is running.
        """
        if self._has_run:
            raise RuntimeError("this simulation has run: make a new one, with the same seed for the same run")
        if not _one_at_a_time.acquire(blocking=False):
            raise RuntimeError("another simulation is running in this process")
        self._has_run = True

        async def limited() -> T:
            with anyio.fail_after(limit.total_seconds()):
                return await body(*args)

        try:
            with _seeded(self.seed):
                return trio.run(limited, clock=self._clock, instruments=[self._watch])
        finally:
            _one_at_a_time.release()

    def _new_id(self) -> str:
        """As a UUID version 7: milliseconds, then 74 random bits; greater than the one before."""
        milliseconds = (self.now() - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        fresh = (milliseconds << 74) | self._ids.getrandbits(73)
        self._last_id = max(fresh, self._last_id + 1 + self._ids.getrandbits(32))
        time, middle, tail = self._last_id >> 74, (self._last_id >> 62) & 0xFFF, self._last_id & (2**62 - 1)
        return str(UUID(int=(time << 80) | (7 << 76) | (middle << 64) | (2 << 62) | tail))

    async def _call(
        self, who: str, name: str, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a method of the broker as over a network, and record it at the instant at which it was done."""
        share = self._failures.get(name, 0.0)
        is_lost = share > 0 and self._chance.random() < share
        await self._travel()
        if self._outages or (is_lost and self._chance.random() < 0.5):
            self.record(name, who, _plain(args), "not done")
            raise _lost(name)
        answer = await method(*args, **kwargs)
        self.record(name, who, _plain(args), _plain(answer), *(["answer lost"] if is_lost else []))
        await self._travel()
        if is_lost:
            raise _lost(name)
        return answer

    async def _travel(self) -> None:
        if self._latency:
            await anyio.sleep(self._chance.uniform(0.0, self._latency / 2))


class _SimulationPlugin:
    """The plugin behind the URL scheme `simulation`: the broker of `inner`, watched."""

    def __init__(self, simulation: Simulation, inner: Horsies) -> None:
        self._simulation = simulation
        self._inner = inner

    @hookimpl
    def horsies_brokers(self) -> Mapping[str, BrokerFactory]:
        return {"simulation": self}

    @asynccontextmanager
    async def open(self, config: AppConfig, *, clock: Clock) -> AsyncIterator[Broker]:
        factory = Runtime(self._inner).broker_factory()
        async with factory.open(self._inner.config, clock=clock) as broker:
            yield cast("Broker", _Watched(self._simulation, broker))

    def schema_sql(self, config: AppConfig) -> str:
        return Runtime(self._inner).broker_factory().schema_sql(self._inner.config)


class _Watched:
    """Stands before a broker, or before one of its roles, and hands its calls to the simulation."""

    def __init__(self, simulation: Simulation, target: object, who: str = "") -> None:
        self._simulation = simulation
        self._target = target
        self._who = who

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if inspect.iscoroutinefunction(value):
            return partial(self._simulation._call, self._who, name, value)
        if callable(value):
            return partial(self._scope, value)
        return _Watched(self._simulation, value)

    @asynccontextmanager
    async def _scope(
        self, opening: Callable[..., AbstractAsyncContextManager[object]], *args: object, **kwargs: object
    ) -> AsyncIterator[_Watched]:
        # Only workers and listeners are opened with an argument, which says whose they are.
        async with opening(*args, **kwargs) as role:
            yield _Watched(self._simulation, role, str(args[0]) if args else "")


class _Steps(trio.abc.Instrument):
    """Counts and hashes the steps of all tasks; a task goes by the order in which it was spawned."""

    def __init__(self, clock: trio.testing.MockClock, into: Any) -> None:
        self.steps = 0
        self._clock = clock
        self._hash = into
        self._spawned = 0
        self._numbers: dict[trio.lowlevel.Task, int] = {}

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        self._spawned += 1
        self._numbers[task] = self._spawned

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        self._hash.update(struct.pack("<Qd", self._numbers[task], self._clock.current_time()))

    def task_exited(self, task: trio.lowlevel.Task) -> None:
        del self._numbers[task]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Trio's scheduler and the module `random`, seeded, and afterwards as they were.

    Trio has no public way to be deterministic; this is the one that Hypothesis and pytest-trio use.
    """
    scheduler: Any = importlib.import_module("trio._core._run")
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), random.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(f"{seed} schedule")
    random.seed(f"{seed} module")
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])
        random.setstate(before[2])


def _plain(value: object) -> object:
    """`value` in plain tuples, without encoded bytes."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if is_dataclass(value):
        contents = (getattr(value, field.name) for field in fields(value))
        return tuple(_plain(content) for content in contents if not isinstance(content, bytes))
    return value


def _lost(name: str) -> BrokerError:
    return BrokerError(f"{name}: the connection was lost (simulated)", retryable=True)
