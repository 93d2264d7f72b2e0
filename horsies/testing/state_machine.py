"""A machine that drives a broker by random calls and compares it with the model after each of them.

    def test_mine() -> None:
        run_broker_machine(open_broker, backend="trio")   # open_broker() gives an open Broker on an empty database

It needs Hypothesis. Time is the machine's: every call is told what `now` is. A crash is a worker that stops beating
while time advances. What a rule draws never depends on what the broker answered, so that a broker whose answers vary
with the timing (two calls side by side) does not confuse Hypothesis: a lease is drawn as a place in a list, be it the
list of what fits or that of all leases there ever were.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import anyio.from_thread
import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from horsies.abc import Lease, TaskStatus

from .driver import WORKERS, Call, OpenBroker, Play, Roles, Which, never_at_once, open_roles

Empty: TypeAlias = Callable[[], Awaitable[object]]
Given: TypeAlias = Mapping[str, Any]
Calls: TypeAlias = Mapping[str, st.SearchStrategy[Any]]

workers = st.integers(0, len(WORKERS) - 1)
limits = st.sampled_from((1, 2, 3, 20))
numbers = st.integers(1, 12)
"""Which task: its id is made from it."""
names = st.sampled_from(("a_task", "another"))
sends = st.fixed_dictionaries(
    {
        "number": numbers,
        "queue": st.sampled_from(("fast", "slow")),
        "priority": st.sampled_from((50, 1, 100)),
        "delay": st.sampled_from((0.0, 0.0, 0.0, 0.5, 3.0)),
        "good_for": st.sampled_from((*[None] * 6, 30.0, 4.0, 1.0, 0.0)),
        "name": names,
        "key": st.sampled_from((None, None, None, "k", "l")),
        "changed": st.sampled_from((False, False, False, True)),
    }
)
"""What to send; of a task that was sent before only `number` and `changed` count, which makes it a replay."""
held = {
    "leases": st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from((*[Which.FITTING] * 4, Which.ANY, Which.OLDER, Which.NEWER))),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    "caller": st.sampled_from((None, None, None, None, *range(len(WORKERS)))),
}
"""Which leases, by their places in a list; and who calls (None: who has the first of them)."""
delays = st.sampled_from((0.0, 0.5, 3.0))
crashes = st.none() | delays
endings = {
    "status": st.sampled_from((TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.FAILED)),
    "retry_in": delays,
    "interrupted": st.booleans(),
    "begun": st.booleans(),
}

SETTLED: Calls = {
    "send": st.fixed_dictionaries({"tasks": st.lists(sends, min_size=1, max_size=4)}),
    "start": st.fixed_dictionaries({**held, "retry_after_crash": crashes}),
    "finish": st.fixed_dictionaries({**held, **endings}),
    "give_back": st.fixed_dictionaries({**held, "delay": delays, "unknown": st.booleans(), "running": st.booleans()}),
    "give_back_unknown": st.fixed_dictionaries({**held, "heard": st.none() | delays}),
    "cancel": st.fixed_dictionaries(
        {"tasks": st.lists(numbers, min_size=1, max_size=2, unique=True), "running": st.booleans()}
    ),
}
"""Calls that leave the broker no choice. Without their answer, either all of it was done or nothing."""
FREE: Calls = {
    **dict.fromkeys(("promote", "expire", "reap"), st.fixed_dictionaries({"worker": workers, "limit": limits})),
    "claim": st.fixed_dictionaries(
        {
            "worker": workers,
            "limit": limits,
            "startable": st.frozensets(names),
            "without": st.one_of(st.just(frozenset[str]()), st.frozensets(names)),
        }
    ),
}
"""Calls that leave the broker a choice."""
CALLS: Calls = {**SETTLED, **FREE}


def one_of(calls: Calls) -> st.SearchStrategy[tuple[str, Given]]:
    """A call by its name, with what it is given."""
    return st.one_of(*(st.tuples(st.just(name), given) for name, given in calls.items()))


class BrokerMachine(RuleBasedStateMachine):
    """One example: one life of a database, from empty. `run_broker_machine` runs many.

    Args:
        portal: the event loop on which the broker lives.
        roles: opens them on an empty database.
        dead_after: `recovery.dead_after` of the broker's configuration, in seconds; four heartbeat intervals.
    """

    def __init__(
        self,
        portal: anyio.from_thread.BlockingPortal,
        roles: Callable[[], AbstractAsyncContextManager[Roles]],
        *,
        dead_after: float = 20.0,
    ) -> None:
        super().__init__()
        self._dead_after = dead_after
        self._opened = portal.wrap_async_context_manager(roles())
        self._play = Play(portal, self._opened.__enter__(), dead_after=dead_after)

    def teardown(self) -> None:
        """Close what was opened."""
        self._opened.__exit__(None, None, None)

    @initialize(tasks=st.lists(sends, min_size=3, max_size=8))
    def populate(self, tasks: Sequence[Given]) -> None:
        """All workers are alive, and there is something to do."""
        self._join(range(len(WORKERS)))
        self._play.do(self._play.send(tasks))

    @rule(seconds=st.sampled_from((0.25, 0.5, 1.0, 3.0, 10.0)), leading=st.lists(workers, max_size=2))
    def advance(self, seconds: float, leading: list[int]) -> None:
        """Time passes."""
        self._play.advance(seconds)
        self._beat(range(len(WORKERS)))
        for worker in leading:
            self._play.do(self._play.lead(worker))

    @rule(silent=st.sets(workers, min_size=1), over=st.booleans(), leader=workers)
    def fall_silent(self, silent: set[int], over: bool, leader: int) -> None:
        """Some workers are silent for so long that they can be found dead, or with `over` false nearly."""
        for seconds in (self._dead_after / 2, self._dead_after / 2 - (0.0 if over else 0.25)):
            self._play.advance(seconds)
            self._beat(sorted(set(range(len(WORKERS))) - silent))
        self._play.do(self._play.lead(leader))

    @rule(again=st.sets(workers, min_size=1))
    def join(self, again: set[int]) -> None:
        """Workers come back under their old names, though no horsies worker does."""
        self._join(again)

    @rule(given=SETTLED["send"])
    def send(self, given: Given) -> None:
        self._play.do(self._play.send(**given))

    @rule(task=sends)
    def send_in_vain(self, task: Given) -> None:
        """The insert is lost before it reaches the database. A later send is a replay all the same."""
        self._play.new_task(**task)

    @rule(given=FREE["promote"])
    def promote(self, given: Given) -> None:
        self._play.do(self._play.promote(**given))

    @rule(given=FREE["claim"])
    def claim(self, given: Given) -> None:
        self._play.do(self._play.claim(**given))

    @rule(given=FREE["claim"], retry_after_crash=crashes)
    def begin_work(self, given: Given, retry_after_crash: float | None) -> None:
        """What a worker does again and again: promote, claim, start."""
        self._work(given, retry_after_crash)

    @rule(given=FREE["claim"], end=st.fixed_dictionaries(endings))
    def work(self, given: Given, end: Given) -> None:
        """The same, and finish a little later."""
        worker, leases = self._work(given, None)
        self._play.advance(0.25)
        self._play.do(self._play.finished(worker, leases, **end))

    @rule(given=SETTLED["start"])
    def start(self, given: Given) -> None:
        self._play.do(self._play.start(**given))

    @rule(given=SETTLED["finish"])
    def finish(self, given: Given) -> None:
        self._play.do(self._play.finish(**given))

    @rule(given=SETTLED["give_back"])
    def give_back(self, given: Given) -> None:
        self._play.do(self._play.give_back(**given))

    @rule(given=SETTLED["give_back_unknown"])
    def give_back_unknown(self, given: Given) -> None:
        self._play.do(self._play.give_back_unknown(**given))

    @rule(given=SETTLED["cancel"])
    def cancel(self, given: Given) -> None:
        self._play.do(self._play.cancel(**given))

    @rule(given=FREE["expire"])
    def expire(self, given: Given) -> None:
        self._play.do(self._play.expire(**given))

    @rule(given=FREE["reap"])
    def reap(self, given: Given) -> None:
        self._play.do(self._play.reap(**given))

    @rule(worker=workers, again=st.sampled_from((True, True, False)))
    def leave(self, worker: int, again: bool) -> None:
        """A worker goes; `again`: another one of its name comes."""
        self._play.do(self._play.leave(worker))
        self._join([worker] if again else [])

    @rule(worker=workers)
    def lead(self, worker: int) -> None:
        self._play.do(self._play.lead(worker))

    @rule(worker=workers)
    def held(self, worker: int) -> None:
        self._play.do(self._play.held(worker))

    @rule(worker=workers)
    def has_due(self, worker: int) -> None:
        self._play.do(self._play.has_due(worker))

    @rule(one=FREE["claim"], other=FREE["claim"])
    def rival_claims(self, one: Given, other: Given) -> None:
        """Two workers claim at once."""
        self._play.do(self._play.claim(**one), self._play.claim(**other))

    @rule(one=one_of(CALLS), other=one_of(CALLS))
    def side_by_side(self, one: tuple[str, Given], other: tuple[str, Given]) -> None:
        """Two calls at once; one after the other where no worker makes both at once."""
        calls = self._call(*one), self._call(*other)
        if never_at_once(*calls) or never_at_once(*reversed(calls)):
            for call in calls:
                self._play.do(call)
        else:
            self._play.do(*calls)

    @rule(one=one_of(SETTLED), checkpoints=st.integers(0, 4))
    def cut_off(self, one: tuple[str, Given], checkpoints: int) -> None:
        """A call that is cancelled while it runs. Its answer is lost, unless it came first."""
        self._play.do(self._play.cut_off(self._call(*one), checkpoints))

    def _join(self, workers: Iterable[int]) -> None:
        for worker in workers:
            self._play.do(self._play.join(worker))

    def _beat(self, workers: Iterable[int]) -> None:
        for worker in workers:
            self._play.do(self._play.beat(worker))

    def _work(self, given: Given, retry_after_crash: float | None) -> tuple[int, list[Lease]]:
        self._play.do(self._play.promote(given["worker"], given["limit"]))
        call = self._play.claim(**given)
        (claim,) = self._play.do(call)
        leases = [task.lease for task in claim.tasks]
        self._play.do(self._play.started(call.worker, leases, retry_after_crash))
        return call.worker, leases

    def _call(self, name: str, given: Given) -> Call:
        call: Call = getattr(self._play, name)(**given)
        return call


@asynccontextmanager
async def _emptied(roles: Roles, empty: Empty) -> AsyncIterator[Roles]:
    await empty()
    yield roles


def run_broker_machine(
    open_broker: OpenBroker,
    *,
    backend: str = "asyncio",
    backend_options: dict[str, Any] | None = None,
    empty: Empty | None = None,
    dead_after: float = 20.0,
    settings: hypothesis.settings | None = None,
) -> None:
    """Drive a broker through many examples.

    Args:
        open_broker: opens the broker on an empty database.
        backend: the event loop, "asyncio" or "trio", with its options.
        empty: empties the database. With it one broker serves all examples, without it each has a broker of its own.
        dead_after: `recovery.dead_after` of the broker's configuration, in seconds; four heartbeat intervals.
        settings: of Hypothesis; without them its defaults, but no deadline.

    Raises:
        Disagreement: the broker did what none may do. Hypothesis prints the shortest way there that it found.
    """
    with anyio.from_thread.start_blocking_portal(backend, backend_options) as portal:

        def run(roles: Callable[[], AbstractAsyncContextManager[Roles]]) -> None:
            # It takes whatever makes a machine, though its signature says a class.
            run_state_machine_as_test(
                lambda: BrokerMachine(portal, roles, dead_after=dead_after),  # type: ignore[arg-type]
                settings=settings or hypothesis.settings(deadline=None, print_blob=True),
            )

        if empty is None:
            run(partial(open_roles, open_broker))
        else:
            with portal.wrap_async_context_manager(open_roles(open_broker)) as roles:
                run(partial(_emptied, roles, empty))
