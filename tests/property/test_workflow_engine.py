"""Workflows beside a naive reading of their rules, which looks at everything after every event.

HORSIES_DEEP=1 tries more. The rules stand in `horsies/_workflow/advance/engine.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from horsies._core.status import NODE_TRANSITIONS, WORKFLOW_TRANSITIONS, NodeStatus, WorkflowStatus
from horsies._workflow.advance import engine
from horsies._workflow.advance.engine import (
    Cancelled,
    CancelRest,
    CancelTask,
    Command,
    Ended,
    Enqueue,
    Event,
    Expired,
    NodeEnded,
    Open,
    Opened,
    Paused,
    Resumed,
    Started,
    advance,
    begin,
)
from horsies._workflow.advance.state import Plan, PlanNode, State

DEEP = os.environ.get("HORSIES_DEEP") == "1"
pytestmark = pytest.mark.timeout(0 if DEEP else 60)

PENDING, READY, ENQUEUED, RUNNING = NodeStatus.PENDING, NodeStatus.READY, NodeStatus.ENQUEUED, NodeStatus.RUNNING
COMPLETED, FAILED, SKIPPED = NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED
HAS_ENDED = (COMPLETED, FAILED, SKIPPED)


def tries(number: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=number * (20 if DEEP else 1), deadline=None, suppress_health_check=checks)


@dataclass
class Naive:
    """A workflow that is worked out anew after each event, from the words of the rules."""

    plan: Plan
    status: WorkflowStatus = WorkflowStatus.RUNNING
    nodes: list[NodeStatus] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    codes: dict[int, str] = field(default_factory=dict)
    first_failed: int | None = None

    def __post_init__(self) -> None:
        self.nodes = [PENDING for _ in self.plan.nodes]
        self.runs = [0 for _ in self.plan.nodes]

    def of(self, index: int) -> list[NodeStatus]:
        return [self.nodes[need] for need in self.plan.nodes[index].needs]

    def has_lost(self, index: int) -> bool:
        waiting = [other for other, node in enumerate(self.plan.nodes) if index in node.needs]
        is_of_use = index == self.plan.output or any(index in case for case in self.plan.success)
        if len(waiting) != 1 or is_of_use or self.nodes[index] is COMPLETED:
            return False
        join = self.plan.nodes[waiting[0]]
        return join.cancel_losers and join.join > 0 and self.of(waiting[0]).count(COMPLETED) >= join.join

    def counts(self, index: int) -> bool:
        return self.nodes[index] is FAILED and index not in self.plan.optional and not self.has_lost(index)

    def verdict(self, index: int) -> NodeStatus:
        """Where a node belongs that was not enqueued."""
        node, needs = self.plan.nodes[index], self.of(index)
        if self.has_lost(index):
            return SKIPPED
        if node.join:
            if needs.count(COMPLETED) >= node.join:
                return READY
            return PENDING if len([one for one in needs if one not in (FAILED, SKIPPED)]) >= node.join else SKIPPED
        if node.allow_failed:
            return READY if all(one in HAS_ENDED for one in needs) else PENDING
        if FAILED in needs or SKIPPED in needs:
            return SKIPPED
        return READY if all(one is COMPLETED for one in needs) else PENDING

    def take(self, happened: Event) -> None:
        match happened:
            case NodeEnded(index, run, completed, code):
                if self.nodes[index] in (ENQUEUED, RUNNING) and run == self.runs[index]:
                    self.nodes[index] = COMPLETED if completed else FAILED
                    if not completed and code:
                        self.codes[index] = code
                    if self.counts(index) and self.plan.on_error == "pause" and self.status is WorkflowStatus.RUNNING:
                        self.status = WorkflowStatus.PAUSED
            case Opened(index, run) if self.nodes[index] is ENQUEUED and run == self.runs[index]:
                if self.status.is_terminal or self.has_lost(index):
                    self.nodes[index] = FAILED
                    self.codes[index] = "TASK_CANCELLED"
                else:
                    self.nodes[index] = RUNNING
            case Cancelled() | Expired() if not self.status.is_terminal:
                is_expiry = isinstance(happened, Expired)
                self.status = WorkflowStatus.EXPIRED if is_expiry else WorkflowStatus.CANCELLED
                self.nodes = [SKIPPED if one in (PENDING, READY) else one for one in self.nodes]
            case Paused() if self.status is WorkflowStatus.RUNNING:
                self.status = WorkflowStatus.PAUSED
            case Resumed(rerun_failed) if self.status is WorkflowStatus.PAUSED:
                self.status = WorkflowStatus.RUNNING
                if rerun_failed:
                    again = [i for i, one in enumerate(self.nodes) if one in (FAILED, SKIPPED) and not self.has_lost(i)]
                    for index in again:
                        self.nodes[index] = PENDING
                        self.codes.pop(index, None)
        if not self.status.is_terminal:
            self.settle()

    def settle(self) -> None:
        before = None
        while before != self.nodes:
            before = self.nodes.copy()
            for index, status in enumerate(before):
                if status in (PENDING, READY):
                    self.nodes[index] = self.verdict(index)
        if self.status is WorkflowStatus.RUNNING:
            for index, status in enumerate(self.nodes):
                if status is READY:
                    self.nodes[index] = ENQUEUED
                    self.runs[index] += 1
            if all(one in HAS_ENDED for one in self.nodes):
                self.end()

    def end(self) -> None:
        plan, indexes = self.plan, range(len(self.nodes))
        counting = [index for index in indexes if self.counts(index)]
        others = [index for index in indexes if self.nodes[index] is FAILED and not self.has_lost(index)]
        if plan.success:
            is_good = any(all(self.nodes[index] is COMPLETED for index in case) for case in plan.success)
        else:
            is_good = not counting
        if plan.output is not None and self.nodes[plan.output] is not COMPLETED:
            is_good = False
        self.status = WorkflowStatus.COMPLETED if is_good else WorkflowStatus.FAILED
        self.first_failed = None if is_good else (counting or others or [None])[0]


class Follower:
    """The engine, told one event at a time, beside the naive one; everything is compared after each."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.naive = Naive(plan)
        self.state = begin(plan)
        self.events: list[Event] = []
        self.past: list[Event] = [Started()]
        """What has happened, and cannot happen anew."""
        self.commands: list[Command] = []
        self.tell(Started())

    def tell(self, happened: Event) -> list[Command]:
        naive, before = self.naive, self.state
        had_lost = {index for index in range(len(before.nodes)) if naive.has_lost(index)}
        runs = naive.runs.copy()
        given = stored(before)
        self.state, commands = advance(self.plan, given, [happened])
        assert given == before
        naive.take(happened)
        self.events.append(happened)
        self.commands += commands

        assert (self.state.status, self.state.nodes, self.state.runs, self.state.codes) == (
            naive.status,
            naive.nodes,
            naive.runs,
            naive.codes,
        )
        check_counts(self.plan, self.state)
        check_transitions(before, self.state, happened)
        enqueued = [one for one in commands if isinstance(one, Enqueue)]
        assert sorted(one.index for one in enqueued) == [i for i, run in enumerate(naive.runs) if run > runs[i]]
        assert all(one.run == naive.runs[one.index] for one in enqueued)
        told = {one.index: one.run for one in commands if isinstance(one, CancelTask)}
        running = {index: naive.runs[index] for index, one in enumerate(naive.nodes) if one in (ENQUEUED, RUNNING)}
        if self.status is not before.status and self.status in (WorkflowStatus.CANCELLED, WorkflowStatus.EXPIRED):
            assert told == running
        else:
            lost = {index for index in running if naive.has_lost(index)}
            assert told.items() <= running.items()
            assert told.keys() == (set() if before.status.is_terminal else lost - had_lost)
        opened = [
            Open(index, naive.runs[index])
            for index, one in enumerate(before.nodes)
            if one is ENQUEUED and self.state.nodes[index] is RUNNING
        ]
        assert [one for one in commands if isinstance(one, Open)] == opened
        ends = [number for number, one in enumerate(commands) if isinstance(one, Ended)]
        assert ends == ([len(commands) - 1] if self.status.is_terminal and not before.status.is_terminal else [])
        if ends:
            assert commands[-1] == Ended(self.status, naive.first_failed)
        assert self.status is not WorkflowStatus.RUNNING or self.open, "it is stuck"
        return commands

    @property
    def status(self) -> WorkflowStatus:
        return self.state.status

    @property
    def open(self) -> list[int]:
        return [index for index, status in enumerate(self.state.nodes) if status in (ENQUEUED, RUNNING)]

    def open_one(self, chosen: int) -> None:
        """Say what the workflow consists of that a node stands for."""
        if self.open:
            index = self.open[chosen % len(self.open)]
            self.past.append(Opened(index, self.state.runs[index]))
            self.tell(self.past[-1])

    def end_one(self, chosen: int, is_good: bool) -> None:
        if self.open:
            index = self.open[chosen % len(self.open)]
            self.past.append(NodeEnded(index, self.state.runs[index], is_good, None if is_good else "BROKEN"))
            self.tell(self.past[-1])

    def finish(self) -> None:
        """Let everything that is open complete, and resume what is paused."""
        while self.open or not self.status.is_terminal:
            if self.open:
                self.end_one(0, True)
            else:
                self.tell(Resumed())


def stored(state: State) -> State:
    """What comes back from where it is kept."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State)


def check_counts(plan: Plan, state: State) -> None:
    has_ended = [status in HAS_ENDED for status in state.nodes]
    assert state.left == has_ended.count(False)
    assert state.ended == [sum(has_ended[need] for need in node.needs) for node in plan.nodes]
    assert state.completed == [sum(state.nodes[need] is COMPLETED for need in node.needs) for node in plan.nodes]


def check_transitions(before: State, after: State, happened: Event) -> None:
    assert after.status is before.status or after.status in WORKFLOW_TRANSITIONS[before.status] | (
        # Resumed with nothing left to do: it runs, and has ended.
        WORKFLOW_TRANSITIONS[WorkflowStatus.RUNNING] if isinstance(happened, Resumed) else frozenset()
    )
    back = {PENDING} if isinstance(happened, Resumed) and happened.rerun_failed else set()
    for was, now in zip(before.nodes, after.nodes, strict=True):
        assert now in reachable(was, forbidden={PENDING} - back)


def reachable(status: NodeStatus, forbidden: set[NodeStatus]) -> set[NodeStatus]:
    found, fresh = {status}, [status]
    while fresh:
        following = NODE_TRANSITIONS[fresh.pop()] - forbidden - found
        found |= following
        fresh += following
    return found


@st.composite
def plans(draw: st.DrawFn, *, on_error: Sequence[str] = ("fail", "pause")) -> Plan:
    count = draw(st.integers(1, 12))
    # Which node stands where says nothing of which comes first.
    places = draw(st.permutations(range(count)))
    nodes: dict[int, PlanNode] = {}
    for number, place in enumerate(places):
        masks = st.integers(0, 2**number - 1)
        mask = draw(masks) & draw(masks)
        needs = tuple(sorted(other for bit, other in enumerate(places[:number]) if mask >> bit & 1))
        join = draw(st.integers(0, len(needs)))
        flags = draw(st.integers(0, 3))
        nodes[place] = PlanNode(needs, join, bool(flags & 1), bool(flags & 2))
    indexes = st.integers(0, count - 1)
    cases = st.lists(st.sets(indexes, min_size=1, max_size=3).map(lambda case: tuple(sorted(case))), max_size=3)
    return Plan(
        tuple(nodes[index] for index in range(count)),
        on_error=draw(st.sampled_from(on_error)),
        success=tuple(draw(cases)) if draw(st.booleans()) else (),
        optional=frozenset(draw(st.sets(indexes, max_size=4))),
        output=draw(st.none() | indexes),
    )


Action = tuple[str, int, bool]

ends = st.tuples(st.sampled_from(["end", "end", "open"]), st.integers(0, 11), st.booleans())
others = st.tuples(
    st.sampled_from(["pause", "resume", "again", "stray", "pause", "resume", "again", "stray", "cancel", "expire"]),
    st.integers(0, 40),
    st.booleans(),
)
histories = st.lists(ends | ends | others, max_size=40)


def act(follower: Follower, action: Action) -> None:
    name, number, flag = action
    match name:
        case "end":
            follower.end_one(number, flag)
        case "open":
            follower.open_one(number)
        case "pause":
            follower.tell(Paused())
        case "resume":
            follower.tell(Resumed(rerun_failed=flag))
        case "cancel":
            follower.tell(Cancelled())
        case "expire":
            follower.tell(Expired())
        case "again":
            told_again(follower, follower.past[number % len(follower.past)])
        case "stray":
            index = number % len(follower.plan.nodes)
            told_again(follower, NodeEnded(index, follower.state.runs[index] + (1 if flag else -1), True))


def told_again(follower: Follower, happened: Event) -> None:
    before = follower.state
    assert follower.tell(happened) == []
    assert follower.state == before


def ending(*fates: tuple[int, bool]) -> list[Action]:
    return [("end", number, is_good) for number, is_good in fates]


FIRST_OF_TWO = PlanNode((0, 1), 1, False, True)
RACE = Plan((PlanNode(), PlanNode(), FIRST_OF_TWO), on_error="pause")
FORGIVING = Plan((PlanNode(), PlanNode((0,), 0, True)), on_error="pause")
RACE_WITHIN_ONE_EVENT = Plan((PlanNode(), PlanNode((0,)), FIRST_OF_TWO))

# The first join loses by what satisfies it as well.
TWO_RACES = Plan((PlanNode(), PlanNode(), FIRST_OF_TWO, PlanNode((0, 2), 1, False, True)))
# The second node is satisfied only after it has lost.
A_RACE_THAT_WAS_LOST = Plan((PlanNode(), PlanNode((2, 3), 1, False, True), PlanNode(), PlanNode(), FIRST_OF_TWO))


@tries(400)
@given(plans(), histories)
@example(RACE, [*ending((0, True), (0, False), (0, False)), ("resume", 0, True)])
@example(RACE, [*ending((0, False)), ("resume", 0, False), *ending((0, True))])
@example(RACE, [*ending((0, True)), ("cancel", 0, False)])
@example(RACE, [("cancel", 0, False), *ending((0, True))])
@example(RACE, [("pause", 0, False), *ending((0, True)), ("resume", 0, False)])
@example(FORGIVING, [*ending((0, False)), ("resume", 0, True)])
@example(RACE_WITHIN_ONE_EVENT, ending((0, True)))
@example(RACE, [("open", 0, False), ("open", 0, False), *ending((1, True), (0, True))])
@example(RACE, [*ending((0, True)), ("open", 0, False)])
@example(RACE, [("cancel", 0, False), ("open", 0, False), ("open", 0, False)])
@example(TWO_RACES, ending((0, True), (0, False)))
@example(A_RACE_THAT_WAS_LOST, ending((0, True), (0, True)))
def test_the_engine_does_what_the_rules_say(plan: Plan, history: list[Action]) -> None:
    follower = Follower(plan)
    for action in history:
        act(follower, action)
    follower.finish()
    event(follower.status)
    told_again(follower, Started())
    for late in (Paused(), Resumed(), Resumed(rerun_failed=True), Cancelled(), Expired()):
        told_again(follower, late)
    runs = [one for one in follower.commands if isinstance(one, Enqueue)]
    assert len(runs) == len(set(runs)) == sum(follower.state.runs)


@tries(200)
@given(plans(), histories, st.lists(st.integers(0, 10), max_size=20))
def test_several_events_at_once_are_the_same_as_one_after_the_other(
    plan: Plan, history: list[Action], sizes: list[int]
) -> None:
    follower = Follower(plan)
    for action in history:
        act(follower, action)
    state, commands = begin(plan), list[Command]()
    for batch in batches(follower.events, sizes):
        state, more = advance(plan, state, batch)
        commands += more
    assert (state, commands) == (follower.state, follower.commands)


def batches(events: Sequence[Event], sizes: Sequence[int]) -> Iterator[Sequence[Event]]:
    begun = 0
    for size in sizes:
        yield events[begun : begun + size]
        begun += size
    yield events[begun:]


fates_of_twelve = st.lists(st.booleans(), min_size=12, max_size=12)
orders = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 12)), max_size=12)


@tries(400)
@given(plans(on_error=["fail"]), fates_of_twelve, orders, orders)
def test_the_order_in_which_tasks_end_decides_nothing(
    plan: Plan, fates: list[bool], one_way: list[tuple[int, int]], another: list[tuple[int, int]]
) -> None:
    first, second = played(plan, fates, one_way), played(plan, fates, another)
    assert first[-1] == second[-1]
    for index, statuses in enumerate(zip(first[0].nodes, second[0].nodes, strict=True)):
        # What may lose a race is the one thing that depends on who was quick.
        if not may_lose(plan, index):
            assert statuses[0] is statuses[1]


def played(plan: Plan, fates: Sequence[bool], order: Sequence[tuple[int, int]]) -> tuple[State, Command]:
    """Each step ends, in one call, so many of what is open, from one on."""
    state, commands = advance(plan, begin(plan), [Started()])
    steps = iter(order)
    while not state.status.is_terminal:
        start, count = next(steps, (0, 12))
        running = [index for index, status in enumerate(state.nodes) if status is ENQUEUED]
        start %= len(running)
        chosen = (running[start:] + running[:start])[:count]
        state, commands = advance(plan, state, [NodeEnded(index, 1, fates[index]) for index in chosen])
    return state, commands[-1]


def may_lose(plan: Plan, index: int) -> bool:
    return any(index in node.needs and node.cancel_losers and node.join for node in plan.nodes)


@tries(200)
@given(plans(on_error=["pause"]), fates_of_twelve)
def test_whoever_mends_everything_and_has_it_run_again_has_a_complete_workflow(plan: Plan, fates: list[bool]) -> None:
    """Nothing is lost by a failure: in the end everything has run but the losers, and nothing twice but what failed."""
    follower = Follower(plan)
    while not follower.status.is_terminal:
        while follower.open:
            index = follower.open[-1]
            follower.end_one(-1, fates[index] or follower.state.runs[index] > 1)
        if not follower.status.is_terminal:
            follower.tell(Paused())
            follower.tell(Resumed(rerun_failed=True))
    if not plan.optional:
        assert follower.status is WorkflowStatus.COMPLETED
        for index, status in enumerate(follower.state.nodes):
            assert status is COMPLETED or follower.naive.has_lost(index)
    assert all(run <= 2 for run in follower.state.runs)
    assert all(run < 2 or not fates[index] for index, run in enumerate(follower.state.runs))


@tries(150)
@given(plans(), histories, st.integers(1, 3), st.sampled_from([Cancelled(), Expired()]))
def test_portions_cancel_what_one_call_would(
    plan: Plan, history: list[Action], portion: int, last: Cancelled | Expired
) -> None:
    """Each portion goes on where the one before has ended, whatever has ended in between."""
    follower = Follower(plan)
    follower.tell(Started())
    for action in history:
        act(follower, action)
    whole, wanted = advance(plan, follower.state, [last])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "PORTION", portion)
        state, commands = advance(plan, follower.state, [last])
        assert state == whole
        found = [one for one in commands if isinstance(one, CancelTask)]
        while isinstance(rest := commands[-1] if commands else None, CancelRest):
            assert len([one for one in commands if isinstance(one, CancelTask)]) == portion
            events: list[Event] = [rest]
            if found:  # the task of the last one ends in between
                events.append(NodeEnded(found[-1].index, found[-1].run, False, "TASK_CANCELLED"))
            state, commands = advance(plan, state, events)
            found += [one for one in commands if isinstance(one, CancelTask)]
    assert found == [one for one in wanted if isinstance(one, CancelTask)]


def test_portions_cancel_losers_and_no_others() -> None:
    losers = tuple(range(5))
    nodes = [PlanNode() for _ in range(7)]
    nodes.append(PlanNode((*losers, 5), join=1, cancel_losers=True))
    plan = Plan(tuple(nodes))
    state, _ = advance(plan, begin(plan), [Started()])
    found: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "PORTION", 2)
        events: list[Event] = [NodeEnded(5, 1, True)]
        while events:
            state, commands = advance(plan, state, events)
            found += [one.index for one in commands if isinstance(one, CancelTask)]
            events = [one for one in commands if isinstance(one, CancelRest)]
    assert found == list(losers)
    assert state.status is WorkflowStatus.RUNNING
