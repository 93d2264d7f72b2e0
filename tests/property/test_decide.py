"""What a worker does next, wherever it may stand."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from horsies._worker.intake.claimer import NOTHING
from horsies._worker.intake.decide import CLAIM_BATCH, Snapshot, Timings, decide, pause_of, room_of

TIMINGS = Timings()
NOW = 1_000.0
IDLE = Snapshot(
    now=NOW,
    may_claim=True,
    has_room=True,
    concurrency=10,
    running=0,
    ready=0,
    starting=0,
    early=0,
    early_since=0.0,
    put_off_until=math.inf,
    allowance=math.inf,
    ahead=0,
    soon_free=0,
    startable=frozenset(),
    last_start=0.0,
    next_due=math.inf,
    next_excess=math.inf,
    is_hungry=True,
    was_full=False,
    is_claiming=False,
    rests_until=0.0,
    is_in_doubt=False,
    is_time_to_look=False,
)
counts = st.integers(0, 300)
instants = st.floats(NOW - 100, NOW + 100)
later = st.one_of(st.just(math.inf), instants)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    concurrency = draw(st.integers(1, 200))
    ready = draw(counts)
    starting = draw(st.integers(0, ready))
    ahead = draw(st.integers(0, concurrency))
    has_room, is_in_doubt = draw(st.booleans()), draw(st.booleans())
    return Snapshot(
        now=NOW,
        may_claim=has_room and draw(st.booleans()),
        has_room=has_room,
        concurrency=concurrency,
        running=draw(st.integers(0, concurrency)),
        ready=ready,
        starting=starting,
        early=draw(st.integers(0, ready - starting)),
        early_since=draw(instants),
        put_off_until=draw(later),
        allowance=draw(st.one_of(st.just(math.inf), st.integers(0, 1_000))),
        ahead=ahead,
        soon_free=draw(st.integers(0, ahead)),
        startable=draw(st.sampled_from([frozenset[str](), frozenset({"some"})])),
        last_start=draw(instants),
        next_due=draw(later),
        next_excess=draw(later),
        is_hungry=draw(st.booleans()),
        was_full=draw(st.booleans()),
        is_claiming=draw(st.booleans()),
        rests_until=draw(instants),
        is_in_doubt=is_in_doubt,
        is_time_to_look=is_in_doubt and draw(st.booleans()),
    )


@given(snapshots())
def test_no_more_is_claimed_than_slots_and_what_may_be_claimed_ahead(at: Snapshot) -> None:
    room = room_of(at)
    if room.tasks > 0:
        assert at.running + at.ready + room.tasks <= at.concurrency + max(at.ahead, at.soon_free)
        assert room.tasks <= min(CLAIM_BATCH, at.allowance)


@given(snapshots())
def test_what_a_claim_may_start_has_a_slot_by_its_answer(at: Snapshot) -> None:
    room = room_of(at)
    if room.tasks > 0 and room.startable:
        assert at.running + at.ready + room.tasks <= at.concurrency + at.soon_free


@given(snapshots())
def test_one_claim_at_a_time_and_none_by_a_worker_that_may_not(at: Snapshot) -> None:
    orders = decide(at, TIMINGS)
    if at.is_claiming or not at.may_claim or not at.is_hungry:
        assert orders.claim is NOTHING
    assert not (at.is_claiming and orders.look)


@given(snapshots())
def test_without_room_for_results_nothing_starts(at: Snapshot) -> None:
    orders = decide(at, TIMINGS)
    if not at.has_room:
        assert not orders.start
        assert orders.claim is NOTHING
    assert orders.start <= (at.starting > 0)


@given(snapshots())
def test_a_claim_is_waited_for_only_if_nothing_runs_or_starts(at: Snapshot) -> None:
    orders = decide(at, TIMINGS)
    if orders.wait_for_claim:
        assert orders.claim.tasks > 0
        assert at.running == at.starting == 0


@given(snapshots())
def test_no_more_goes_back_than_there_is_too_much(at: Snapshot) -> None:
    assert decide(at, TIMINGS).return_last in (0, at.excess)
    if at.excess <= 0 or at.now - at.last_start < TIMINGS.patience:
        assert decide(at, TIMINGS).return_last == 0


@given(snapshots())
@example(IDLE)
def test_free_slots_and_hunger_lead_to_a_claim(at: Snapshot) -> None:
    free = at._replace(running=min(at.running, at.concurrency - 1), ready=0, starting=0, early=0)
    hungry = free._replace(may_claim=True, has_room=True, is_hungry=True, is_claiming=False)
    assert decide(hungry._replace(allowance=max(1, at.allowance)), TIMINGS).claim.tasks > 0


@given(snapshots(), st.floats(0.0, 60.0))
def test_a_pause_ends_when_something_is_to_be_done(at: Snapshot, longest: float) -> None:
    pause = pause_of(at, TIMINGS, longest)
    assert 0.0 <= pause <= longest
    then = at._replace(now=at.now + pause)
    if pause < longest and at.next_due <= then.now:
        assert decide(then, TIMINGS).promote
    reasons: list[tuple[bool, Any]] = [
        (True, at.next_due),
        (True, at.next_excess),
        (True, at.put_off_until),
        (at.early > 0, at.early_since + TIMINGS.early),
        (at.excess > 0, at.last_start + TIMINGS.patience),
    ]
    assert all(not counts or until >= then.now or pause == 0.0 for counts, until in reasons)
