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
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar, TypeVarTuple
from uuid import UUID

import anyio
import trio
import trio.testing

from horsies import AppConfig, Environment, Horsies

from ._simulation.network import SCHEME, Network, SimulationPlugin
from ._simulation.scheduler import Steps, seeded, unshield_at

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MEMORY = "sqlite://:memory:"
CHORES = 3600.0
"""Seconds between the regular chores of a `calm` application."""
AWAY = 60.0
"""Seconds at most between its tries while the database is away."""
GRACE = 3600.0
"""Seconds that cleaning up may take when the limit of a simulation has passed."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        at: seconds since the simulation began.
        name: a method of the broker, or what `Simulation.record` was given.
        details: for a method: who called (the id of a worker, or nothing), with what, and the answer; plain values.
    """

    at: float
    name: str
    details: tuple[Any, ...]


def calm(config: AppConfig, *, url: str = MEMORY) -> AppConfig:
    """`config` for long simulations: on another database, an hour between chores, a minute between tries.

    Heartbeats, polling and looking for overdue tasks are what an idle hour costs. Due times, retries and notices are
    as prompt as ever; and when a notice is missed it shows, because no poll makes good for it soon.
    """
    recovery, resilience = config.recovery, config.resilience
    return replace(
        config,
        url=url,
        listen_url=None,
        recovery=replace(recovery, heartbeat_interval=CHORES, dead_after=4 * CHORES, reap_interval=CHORES),
        resilience=replace(resilience, poll_interval=CHORES, retry_max=max(AWAY, resilience.retry_max)),
    )


class Simulation:
    """One run in simulated time, all of it decided by `seed`.

    Args:
        seed: of everything that is left to chance.
        start: the instant at which it begins, aware.
        latency: seconds that a call of the broker takes at most; chance says how long.
        lost_requests: by the name of a broker's method (`enqueue`, `claim`, `finish`, ...) the share of its calls that
            fail before anything was done, with a retryable `BrokerError`. A dict may be changed as things go on.
        lost_answers: the same for calls that fail after they were carried out.

    Attributes:
        environment: for `Runtime(app, environment=...)`: the clock, ids and chance of this simulation.
        random: chance for the body of the simulation. The module `random` is seeded as well while it runs.
        trace: what has happened so far. Only applications made by `app` write what their broker does.
    """

    def __init__(
        self,
        seed: int,
        *,
        start: datetime = datetime(2040, 1, 1, tzinfo=UTC),
        latency: float = 0.0,
        lost_requests: Mapping[str, float] | None = None,
        lost_answers: Mapping[str, float] | None = None,
    ) -> None:
        self.seed = seed
        self.start = start
        self.random = Random(f"{seed} body")
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
        self._steps = Steps(self._clock)
        self._network = Network(
            self.record,
            Random(f"{seed} network"),
            latency=latency,
            lost_requests={} if lost_requests is None else lost_requests,
            lost_answers={} if lost_answers is None else lost_answers,
        )
        self._id_random = Random(f"{seed} ids")
        self._last_id = 0
        self._has_run = False

    def now(self) -> datetime:
        """The simulated instant."""
        return self.start + timedelta(seconds=self._clock.current_time())

    def record(self, name: str, *details: object) -> None:
        """Add to the trace. `details` are values whose repr is the same in every run: no sets, no addresses."""
        event = Event(self._clock.current_time(), name, details)
        self.trace.append(event)
        self._steps.hash.update(repr(event).encode())

    @property
    def steps(self) -> int:
        """How often Trio has resumed a task."""
        return self._steps.count

    def fingerprint(self) -> str:
        """A hash over the trace, and over each step of each task with its instant: equal ones mean equal runs."""
        return self._steps.hash.hexdigest()

    def app(self, app: Horsies, *, config: AppConfig | None = None) -> Horsies:
        """`app`, to be run in this simulation: the same tasks, lifespan and plugins; its broker's calls are traced.

        Args:
            app: yours, wherever its own database is.
            config: what it is configured with here; None: `calm(app.config)`. Its URL chooses a broker that waits for
                nothing but time.
        """
        config = calm(app.config) if config is None else config
        inner = Horsies(config, plugins=app.plugins, block_plugins=app.block_plugins)
        simulated = copy.copy(app)
        simulated.config = replace(config, url=f"{SCHEME}://{self.seed}")
        simulated.queues = inner.queues
        simulated.plugins = (*app.plugins, SimulationPlugin(self._network, inner))
        return simulated

    @contextmanager
    def outage(self, worker: str | None = None) -> Iterator[None]:
        """While entered, the database cannot be reached, and nothing that is asked of it is done.

        Args:
            worker: the name in its `WorkerConfig`, when it is only this worker that is cut off (it still gets notices).
        """
        self._network.unreachable_for.append(worker)
        try:
            yield
        finally:
            self._network.unreachable_for.remove(worker)

    def run(self, body: Callable[[*Ts], Awaitable[T]], *args: *Ts, limit: timedelta = timedelta(days=365)) -> T:
        """Run `body` to its end under the mock clock; once for each `Simulation`, and one at a time in a process.

        Args:
            limit: simulated time after which the body is cancelled, and an hour later even what is shielded.

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
            trio.lowlevel.spawn_system_task(unshield_at, limit.total_seconds() + GRACE)
            with anyio.fail_after(limit.total_seconds()):
                return await body(*args)

        try:
            with seeded(self.seed):
                return trio.run(limited, clock=self._clock, instruments=[self._steps])
        finally:
            _one_at_a_time.release()

    def _new_id(self) -> str:
        """As a UUID version 7: milliseconds, then 74 random bits; greater than the one before."""
        milliseconds = (self.now() - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
        fresh = (milliseconds << 74) | self._id_random.getrandbits(73)
        self._last_id = max(fresh, self._last_id + 1 + self._id_random.getrandbits(32))
        time, middle, tail = self._last_id >> 74, (self._last_id >> 62) & 0xFFF, self._last_id & (2**62 - 1)
        return str(UUID(int=(time << 80) | (7 << 76) | (middle << 64) | (2 << 62) | tail))
