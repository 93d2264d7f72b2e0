"""The rules of workflows, one by one. `tests/property/test_workflow_engine.py` holds them together."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from horsies._core.status import (
    NODE_ENDS,
    NODE_TRANSITIONS,
    WORKFLOW_TRANSITIONS,
    NodeStatus,
    WorkflowStatus,
)
from horsies._workflow.advance.engine import (
    Cancelled,
    CancelTask,
    Command,
    Ended,
    Enqueue,
    Event,
    Expired,
    NodeEnded,
    Paused,
    Resumed,
    Started,
    advance,
    begin,
)
from horsies._workflow.advance.state import Plan, PlanNode, State

STATUSES = {
    ".": NodeStatus.PENDING,
    "r": NodeStatus.READY,
    "q": NodeStatus.ENQUEUED,
    "+": NodeStatus.COMPLETED,
    "-": NodeStatus.FAILED,
    "s": NodeStatus.SKIPPED,
}
LETTERS = {status: letter for letter, status in STATUSES.items()}
COMPLETED = Ended(WorkflowStatus.COMPLETED)


def failed(index: int | None) -> Ended:
    return Ended(WorkflowStatus.FAILED, index)


class Play:
    """A workflow whose tasks end when the test says so."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state: State = begin(plan)
        self.commands: list[Command] = self.tell(Started())

    def tell(self, *events: Event) -> list[Command]:
        self.state, self.commands = advance(self.plan, self.state, events)
        return self.commands

    def end(self, fates: str) -> list[Command]:
        """The last runs of some nodes end, one after the other: `0+ 3-` is that 0 completes and 3 fails."""
        said: list[Command] = []
        for fate in fates.split():
            index = int(fate[:-1])
            is_good = fate[-1] == "+"
            said += self.tell(NodeEnded(index, self.state.runs[index], is_good, None if is_good else "BROKEN"))
        self.commands = said
        return said

    @property
    def nodes(self) -> str:
        return "".join(LETTERS[status] for status in self.state.nodes)

    @property
    def status(self) -> WorkflowStatus:
        return self.state.status


def first_runs(indexes: Iterable[int]) -> list[Command]:
    return [Enqueue(index, 1) for index in indexes]


def waiting(count: int, node: PlanNode, *more: PlanNode) -> Plan:
    """`count` roots, and after them nodes that wait."""
    return Plan((PlanNode(),) * count + (node, *more))


THREE = (0, 1, 2)
ALL, ANYHOW = PlanNode(THREE), PlanNode(THREE, allow_failed=True)
ANY, TWO, THREE_OF = PlanNode(THREE, join=1), PlanNode(THREE, join=2), PlanNode(THREE, join=3)


@pytest.mark.parametrize(
    ("join", "fates", "nodes"),
    [
        (ALL, "", "qqq."),
        (ALL, "0+ 2+", "+q+."),
        (ALL, "0+ 2+ 1+", "+++q"),
        (ALL, "1-", "q-qs"),
        (ALL, "0+ 1+ 2-", "++-s"),
        (ANYHOW, "0-", "-qq."),
        (ANYHOW, "0- 1+", "-+q."),
        (ANYHOW, "0- 1+ 2-", "-+-q"),
        (ANYHOW, "0- 1- 2-", "---q"),
        (ANY, "1+", "q+qq"),
        (ANY, "0- 2-", "-q-."),
        (ANY, "0- 2- 1+", "-+-q"),
        (ANY, "0- 2- 1-", "---s"),
        (TWO, "0+", "+qq."),
        (TWO, "0+ 1- 2+", "+-+q"),
        (TWO, "0- 1-", "--qs"),
        (THREE_OF, "2-", "qq-s"),
        (THREE_OF, "0+ 1+ 2+", "+++q"),
        (PlanNode(THREE, join=1, allow_failed=True), "0- 1- 2-", "---s"),
        (PlanNode(THREE, join=2, allow_failed=True), "0- 1-", "--qs"),
        (PlanNode(THREE, allow_failed=True, cancel_losers=True), "0+ 1-", "+-q."),
    ],
)
def test_when_a_node_runs(join: PlanNode, fates: str, nodes: str) -> None:
    play = Play(waiting(3, join))
    play.end(fates)
    assert play.nodes == nodes


def test_roots_run_at_once_and_the_others_in_their_turn() -> None:
    play = Play(Plan((PlanNode(), PlanNode((0,)), PlanNode((0,)), PlanNode((1, 2)))))
    assert play.commands == first_runs([0])
    assert play.end("0+") == first_runs([1, 2])
    assert play.end("2+") == []
    assert play.end("1+") == first_runs([3])
    assert play.end("3+") == [COMPLETED]


def test_needs_may_have_higher_indexes() -> None:
    play = Play(Plan((PlanNode((1,)), PlanNode((2,)), PlanNode())))
    assert play.commands == first_runs([2])
    assert play.end("2+ 1+ 0+") == [*first_runs([1, 0]), COMPLETED]


def test_what_is_skipped_skips_what_waits_for_it() -> None:
    play = Play(Plan((PlanNode(), PlanNode((0,)), PlanNode((1,)), PlanNode((2,), allow_failed=True))))
    assert play.end("0-") == first_runs([3])
    assert play.nodes == "-ssq"
    assert play.end("3+") == [failed(0)]


def test_a_thousand_siblings_that_end_together_enqueue_their_join_once() -> None:
    plan = waiting(1_000, PlanNode(tuple(range(1_000))))
    play = Play(plan)
    assert play.tell(*(NodeEnded(index, 1, True) for index in range(1_000))) == first_runs([1_000])


def test_a_long_chain_is_skipped_in_one_go() -> None:
    play = Play(Plan(tuple(PlanNode((index - 1,) if index else ()) for index in range(5_000))))
    assert play.end("0-") == [failed(0)]
    assert play.nodes == "-" + 4_999 * "s"


def test_independent_branches_go_on_after_a_failure_and_the_first_by_index_is_named() -> None:
    play = Play(Plan((PlanNode(), PlanNode(), PlanNode((1,)), PlanNode((0,)))))
    assert play.end("1-") == []
    assert (play.status, play.nodes) == (WorkflowStatus.RUNNING, "q-s.")
    assert play.end("0+") == first_runs([3])
    assert play.end("3-") == [failed(1)]
    assert play.state.codes == {1: "BROKEN", 3: "BROKEN"}


def test_a_workflow_of_nothing_is_complete() -> None:
    assert Play(Plan(())).commands == [COMPLETED]


BOTH = (PlanNode(), PlanNode())


@pytest.mark.parametrize(
    ("plan", "fates", "end"),
    [
        (Plan(BOTH), "0+ 1+", COMPLETED),
        (Plan(BOTH), "0+ 1-", failed(1)),
        (Plan(BOTH, optional=frozenset({1})), "0+ 1-", COMPLETED),
        (Plan(BOTH, optional=frozenset({0})), "0- 1-", failed(1)),
        (Plan(BOTH, output=0), "0+ 1-", failed(1)),
        # An output has to come even if it is optional, and so has that of a skipped node.
        (Plan(BOTH, output=1, optional=frozenset({1})), "0+ 1-", failed(1)),
        (Plan((PlanNode(), PlanNode((0,))), output=1, optional=frozenset({0})), "0-", failed(0)),
        # By itself a skipped node fails nothing.
        (Plan((PlanNode(), PlanNode((0,))), optional=frozenset({0})), "0-", COMPLETED),
        # Nobody is excused because another node allows the failure.
        (Plan((PlanNode(), PlanNode((0,), allow_failed=True))), "0- 1+", failed(0)),
        (waiting(2, PlanNode((0, 1), join=1)), "0- 1+ 2+", failed(0)),
        (Plan(BOTH, success=((0,),)), "0+ 1-", COMPLETED),
        (Plan(BOTH, success=((0,),)), "0- 1+", failed(0)),
        (Plan(BOTH, success=((0,), (1,))), "0- 1+", COMPLETED),
        (Plan(BOTH, success=((0, 1),)), "0+ 1-", failed(1)),
        (Plan(BOTH, success=((0, 1), (1,))), "0- 1+", COMPLETED),
        (Plan(BOTH, success=((0,),), output=1), "0+ 1-", failed(1)),
        (Plan(BOTH, success=((1,),), optional=frozenset({0})), "0- 1-", failed(1)),
        (Plan((PlanNode(), PlanNode((0,))), success=((1,),), optional=frozenset({0})), "0-", failed(0)),
    ],
)
def test_what_becomes_of_the_workflow(plan: Plan, fates: str, end: Ended) -> None:
    play = Play(plan)
    assert play.end(fates)[-1] == end
    assert play.status is end.status


class TestLosers:
    RACE = waiting(3, PlanNode(THREE, join=1, cancel_losers=True))

    def test_they_are_cancelled_and_waited_for(self) -> None:
        play = Play(self.RACE)
        assert play.end("1+") == [CancelTask(0, 1), CancelTask(2, 1), Enqueue(3, 1)]
        assert play.nodes == "q+qq"
        assert play.end("0- 3+") == []
        assert play.end("2+") == [COMPLETED]
        assert play.nodes == "-+++"

    def test_it_is_no_matter_whether_one_failed_before_it_lost(self) -> None:
        for fates in ("0- 1+ 2- 3+", "1+ 0- 3+ 2-"):
            assert Play(self.RACE).end(fates)[-1] == COMPLETED

    def test_without_a_winner_there_is_no_loser(self) -> None:
        assert Play(self.RACE).end("0- 1- 2-") == [failed(0)]

    def test_one_that_was_not_enqueued_is_skipped(self) -> None:
        play = Play(Plan((PlanNode(), PlanNode(), PlanNode((1,)), PlanNode((0, 2), join=1, cancel_losers=True))))
        assert play.end("0+") == first_runs([3])
        assert play.nodes == "+qsq"
        assert play.end("1+ 3+") == [COMPLETED]

    def test_one_is_not_enqueued_by_what_makes_it_lose(self) -> None:
        play = Play(Plan((PlanNode(), PlanNode((0,)), PlanNode((0, 1), join=1, cancel_losers=True))))
        assert play.end("0+") == first_runs([2])
        assert play.nodes == "+sq"

    def test_a_race_that_nobody_waits_for_any_more_has_losers_too(self) -> None:
        final, race = PlanNode((0, 4), join=1, cancel_losers=True), PlanNode((2, 3), join=1, cancel_losers=True)
        play = Play(Plan((PlanNode(), final, PlanNode(), PlanNode(), race)))
        play.end("0+")
        assert play.nodes == "+qqqs"
        assert play.end("2+") == [CancelTask(3, 1)]
        assert play.end("3- 1+") == [COMPLETED]

    @pytest.mark.parametrize(
        "plan",
        [
            Plan((*BOTH, PlanNode((0, 1), join=1, cancel_losers=True)), output=1),
            Plan((*BOTH, PlanNode((0, 1), join=1, cancel_losers=True)), success=((0,), (1, 2))),
            Plan((*BOTH, PlanNode((0, 1), join=1, cancel_losers=True), PlanNode((1,)))),
        ],
        ids=["the output", "of a success case", "waited for by another"],
    )
    def test_what_somebody_has_a_use_for_does_not_lose(self, plan: Plan) -> None:
        play = Play(plan)
        assert play.end("0+") == first_runs([2])
        assert play.state.nodes[1] is NodeStatus.ENQUEUED

    def test_it_pauses_nothing(self) -> None:
        play = Play(Plan(self.RACE.nodes, on_error="pause"))
        play.end("0+ 1-")
        assert play.status is WorkflowStatus.RUNNING

    def test_it_does_not_run_again(self) -> None:
        play = Play(Plan(self.RACE.nodes, on_error="pause"))
        play.end("0+ 1- 2- 3-")
        assert play.tell(Resumed(rerun_failed=True)) == [Enqueue(3, 2)]
        assert play.nodes == "+--q"
        assert play.end("3+") == [COMPLETED]

    def test_they_lose_in_a_pause_too(self) -> None:
        play = Play(self.RACE)
        play.tell(Paused())
        assert play.end("0+") == [CancelTask(1, 1), CancelTask(2, 1)]
        assert play.tell(Resumed()) == first_runs([3])


class TestPausing:
    CHAIN = Plan((PlanNode(), PlanNode((0,)), PlanNode((1,))))

    def test_what_runs_goes_on_and_nothing_is_enqueued(self) -> None:
        play = Play(self.CHAIN)
        assert play.tell(Paused()) == []
        assert play.end("0+") == []
        assert (play.status, play.nodes) == (WorkflowStatus.PAUSED, "+r.")
        assert play.tell(Resumed()) == first_runs([1])
        assert (play.status, play.nodes) == (WorkflowStatus.RUNNING, "+q.")

    def test_nodes_are_skipped_in_it(self) -> None:
        play = Play(self.CHAIN)
        play.tell(Paused())
        play.end("0-")
        assert (play.status, play.nodes) == (WorkflowStatus.PAUSED, "-ss")
        assert play.tell(Resumed()) == [failed(0)]

    def test_it_ends_only_once_it_is_resumed(self) -> None:
        play = Play(Plan((PlanNode(),)))
        play.tell(Paused())
        assert play.end("0+") == []
        assert play.status is WorkflowStatus.PAUSED
        assert play.tell(Resumed()) == [COMPLETED]

    def test_a_workflow_may_be_paused_before_it_starts(self) -> None:
        state, commands = advance(self.CHAIN, begin(self.CHAIN), [Paused(), Started(), Started()])
        assert (state.status, state.nodes[0], commands) == (WorkflowStatus.PAUSED, NodeStatus.READY, [])
        assert advance(self.CHAIN, state, [Resumed()])[1] == first_runs([0])

    def test_only_what_is_paused_can_be_resumed(self) -> None:
        play = Play(Plan((*BOTH, PlanNode((0,)))))
        play.end("0-")
        assert play.tell(Resumed(rerun_failed=True)) == []
        assert play.nodes == "-qs"
        play.end("1+")
        assert play.tell(Resumed(rerun_failed=True), Paused()) == []
        assert play.status is WorkflowStatus.FAILED


class TestPausingOnError:
    PLAN = Plan((*BOTH, PlanNode((0,)), PlanNode((1,)), PlanNode((0,), allow_failed=True)), on_error="pause")

    def test_the_first_failure_pauses(self) -> None:
        play = Play(self.PLAN)
        assert play.end("0- 1+") == []
        assert (play.status, play.nodes) == (WorkflowStatus.PAUSED, "-+srr")

    def test_resumed_it_goes_on_without_what_failed(self) -> None:
        play = Play(self.PLAN)
        play.end("0- 1+")
        assert play.tell(Resumed()) == first_runs([3, 4])
        assert play.end("3+ 4+") == [failed(0)]

    def test_what_failed_runs_again_and_what_was_skipped_for_it_too(self) -> None:
        play = Play(self.PLAN)
        play.end("0- 1+")
        assert play.tell(Resumed(rerun_failed=True)) == [Enqueue(0, 2), Enqueue(3, 1)]
        assert (play.nodes, play.state.codes) == ("q+.q.", {})
        assert play.end("0+ 2+ 3+ 4+") == [*first_runs([2, 4]), COMPLETED]

    def test_it_pauses_again_at_the_next_failure(self) -> None:
        play = Play(self.PLAN)
        play.end("0-")
        play.tell(Resumed(rerun_failed=True))
        play.end("0-")
        assert (play.status, play.nodes) == (WorkflowStatus.PAUSED, "-qs.r")

    def test_a_failure_that_does_not_count_pauses_nothing(self) -> None:
        play = Play(Plan(BOTH, on_error="pause", optional=frozenset({0})))
        play.end("0-")
        assert play.status is WorkflowStatus.RUNNING

    def test_an_optional_failure_runs_again_as_well(self) -> None:
        play = Play(Plan(BOTH, on_error="pause", optional=frozenset({0})))
        play.end("0- 1-")
        assert play.tell(Resumed(rerun_failed=True)) == [Enqueue(0, 2), Enqueue(1, 2)]

    def test_one_that_allowed_a_failure_and_failed_waits_for_it_again(self) -> None:
        play = Play(Plan((PlanNode(), PlanNode((0,), allow_failed=True)), on_error="pause"))
        play.end("0-")
        play.tell(Resumed())
        play.end("1-")
        assert play.tell(Resumed(rerun_failed=True)) == [Enqueue(0, 2)]
        assert play.end("0+ 1+") == [Enqueue(1, 2), COMPLETED]

    def test_one_that_allowed_a_failure_and_completed_does_not_run_again(self) -> None:
        play = Play(Plan((PlanNode(), PlanNode((0,), allow_failed=True), PlanNode()), on_error="pause"))
        play.end("0-")
        play.tell(Resumed())
        play.end("1+ 2-")
        assert play.tell(Resumed(rerun_failed=True)) == [Enqueue(0, 2), Enqueue(2, 2)]
        assert play.nodes == "q+q"

    def test_the_end_of_an_earlier_run_is_no_news(self) -> None:
        play = Play(self.PLAN)
        play.end("0-")
        play.tell(Resumed(rerun_failed=True))
        before = play.state
        assert play.tell(NodeEnded(0, 1, True), NodeEnded(0, 1, False), NodeEnded(0, 3, True)) == []
        assert play.state == before


@pytest.mark.parametrize(
    ("event", "status"), [(Cancelled(), WorkflowStatus.CANCELLED), (Expired(), WorkflowStatus.EXPIRED)]
)
class TestStopping:
    PLAN = Plan((*BOTH, PlanNode((0,)), PlanNode((0,), allow_failed=True), PlanNode((1,))), on_error="pause")

    def test_it_ends_at_once_and_later_ends_are_noted(self, event: Event, status: WorkflowStatus) -> None:
        play = Play(self.PLAN)
        assert play.tell(event) == [CancelTask(0, 1), CancelTask(1, 1), Ended(status)]
        assert (play.status, play.nodes) == (status, "qqsss")
        assert play.tell(NodeEnded(0, 1, False, "TASK_CANCELLED"), NodeEnded(1, 1, True)) == []
        assert (play.status, play.nodes, play.state.codes) == (status, "-+sss", {0: "TASK_CANCELLED"})

    def test_what_is_paused_can_be_stopped(self, event: Event, status: WorkflowStatus) -> None:
        play = Play(self.PLAN)
        play.end("0-")
        assert play.nodes == "-qsr."
        assert play.tell(event) == [CancelTask(1, 1), Ended(status)]
        assert play.nodes == "-qsss"

    def test_nothing_follows(self, event: Event, status: WorkflowStatus) -> None:
        play = Play(self.PLAN)
        play.tell(event)
        before = play.state
        assert play.tell(Cancelled(), Expired(), Paused(), Resumed(), Resumed(rerun_failed=True), Started()) == []
        assert play.state == before


class TestTheOrder:
    """The example of the documentation: `apologise` wants to know how `pay` ended, and `pay` is the output."""

    FETCH, PRICE, RESERVE, PAY, APOLOGISE = range(5)
    NODES = (
        PlanNode(),
        PlanNode((FETCH,)),
        PlanNode((FETCH,)),
        PlanNode((PRICE, RESERVE)),
        PlanNode((PAY,), allow_failed=True),
    )
    PLAN = Plan(NODES, output=PAY)

    def test_all_is_well(self) -> None:
        play = Play(self.PLAN)
        assert play.end("0+ 1+ 2+ 3+ 4+") == [*first_runs([1, 2, 3, 4]), COMPLETED]

    def test_the_payment_fails(self) -> None:
        play = Play(self.PLAN)
        assert play.end("0+ 1+ 2+ 3-") == first_runs([1, 2, 3, 4])
        assert play.end("4+") == [failed(self.PAY)]

    def test_the_payment_is_skipped(self) -> None:
        play = Play(self.PLAN)
        assert play.end("0+ 2-") == first_runs([1, 2, 4])
        assert play.nodes == "+q-sq"
        assert play.end("1+ 4+") == [failed(self.RESERVE)]

    def test_nobody_apologises_for_a_payment_that_is_made_again(self) -> None:
        play = Play(Plan(self.NODES, on_error="pause", output=self.PAY))
        play.end("0+ 1+ 2+ 3-")
        assert (play.status, play.nodes) == (WorkflowStatus.PAUSED, "+++-r")
        assert play.tell(Resumed(rerun_failed=True)) == [Enqueue(self.PAY, 2)]
        assert play.nodes == "+++q."
        assert play.end("3+ 4+") == [Enqueue(self.APOLOGISE, 1), COMPLETED]


def test_an_event_that_comes_twice_is_no_news() -> None:
    play = Play(waiting(2, PlanNode((0, 1))))
    for event in (Started(), NodeEnded(0, 1, True), Paused(), NodeEnded(1, 1, True), Resumed(), NodeEnded(2, 1, False)):
        play.tell(event)
        before = play.state
        assert play.tell(event) == []
        assert play.state == before


def test_an_end_of_what_was_never_enqueued_is_no_news() -> None:
    play = Play(waiting(1, PlanNode((0,))))
    assert play.tell(NodeEnded(1, 0, True), NodeEnded(1, 1, True)) == []
    assert play.nodes == "q."


def test_the_state_given_is_left_as_it_is() -> None:
    plan = waiting(1, PlanNode((0,)))
    state = begin(plan)
    advance(plan, state, [Started(), NodeEnded(0, 1, False, "BROKEN")])
    assert state == begin(plan)


def test_terminal_workflows_lead_nowhere_and_what_ended_only_back_to_the_start() -> None:
    assert {status for status in WorkflowStatus if status.is_terminal} == set(WorkflowStatus) - {
        WorkflowStatus.RUNNING,
        WorkflowStatus.PAUSED,
    }
    assert all(status.is_terminal == (not after) for status, after in WORKFLOW_TRANSITIONS.items())
    assert all(status.is_terminal == (status in NODE_ENDS) for status in NodeStatus)
    assert all(NODE_TRANSITIONS[status] <= {NodeStatus.PENDING} for status in NODE_ENDS)
