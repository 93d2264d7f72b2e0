"""What a worker does next: a pure function of where it stands. The dispatcher takes a snapshot, decides, and obeys."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from .claimer import DOUBT_POLL, NOTHING, Room
from .prefetch import begin_batch

CLAIM_BATCH = 500


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds for which a dispatcher waits.

    Attributes:
        early: what a claim has started may wait for a slot so long; then it is given back.
        patience: so long without a start, and what was claimed ahead is given back: it stands behind slow tasks.
        idle_recheck: an `until_idle` worker looks so often at due tasks that others hold locked.
    """

    early: float = 0.1
    patience: float = 0.5
    idle_recheck: float = 0.05


class Snapshot(NamedTuple):
    """Where a worker stands. Instants are seconds on the event loop's clock.

    Attributes:
        may_claim: it is not stopping, its heartbeat is young enough, and there is room for results.
        has_room: there is room for results.
        concurrency: slots in all.
        running: tasks that run.
        ready: tasks that are here and have not begun.
        starting: of these, CLAIMED tasks for which there is a slot.
        early: of these, tasks that a claim has started and for which there is no slot yet.
        early_since: since when there have been such.
        put_off_until: when the first task can be started again whose start the database has refused.
        allowance: tasks that it may claim yet, by its `max_tasks`.
        ahead: tasks that may be claimed beyond the slots.
        soon_free: slots that will be free by the time a claim is answered.
        startable: names of the tasks that a claim may start.
        last_start: when a task began last.
        next_due: when the next delayed task falls due.
        next_excess: when tasks without a slot in their place are to go back.
        is_hungry: there may be something to claim.
        was_full: the last claim brought as much as there was room for.
        is_claiming: a claim is under way.
        rests_until: no claim before that is worth its cost.
        is_in_doubt: the database may show what the worker never heard of.
        is_time_to_look: and it is time to look for that.
    """

    now: float
    may_claim: bool
    has_room: bool
    concurrency: int
    running: int
    ready: int
    starting: int
    early: int
    early_since: float
    put_off_until: float
    allowance: float
    ahead: int
    soon_free: int
    startable: Collection[str]
    last_start: float
    next_due: float
    next_excess: float
    is_hungry: bool
    was_full: bool
    is_claiming: bool
    rests_until: float
    is_in_doubt: bool
    is_time_to_look: bool

    @property
    def excess(self) -> int:
        """How many tasks are here beyond the concurrency; below 0: how many slots are free."""
        return self.running + self.ready - self.concurrency


class Orders(NamedTuple):
    """What is to be done, in this order. After any of the first four it is decided anew about the others.

    Attributes:
        return_early: give back what a claim has started and there is no slot for.
        return_last: give back so many of those that wait for their start, the last ones first.
        promote: make delayed tasks claimable that have fallen due.
        look: give back what the database shows and the worker never heard of.
        claim: how much to claim.
        wait_for_claim: there is nothing to do before its answer.
        start: start the tasks for which there is a slot.
    """

    return_early: bool
    return_last: int
    promote: bool
    look: bool
    claim: Room
    wait_for_claim: bool
    start: bool


def decide(at: Snapshot, timings: Timings) -> Orders:
    """What to do now."""
    excess = at.excess
    is_stuck = excess > 0 and at.now - at.last_start >= timings.patience
    # What follows a short claim mostly finds nothing, and need not slow down the start of what was found.
    claims = at.is_hungry and not at.is_claiming and at.has_room and (at.was_full or not at.starting)
    claim = room_of(at) if claims else NOTHING
    return Orders(
        return_early=at.early > 0 and at.now - at.early_since >= timings.early,
        return_last=excess if is_stuck else 0,
        promote=at.now >= at.next_due,
        look=at.is_time_to_look and not at.is_claiming,
        claim=claim,
        wait_for_claim=claim.tasks > 0 and not at.starting and not at.running,
        start=at.has_room and at.starting > 0,
    )


def room_of(at: Snapshot) -> Room:
    """What may be claimed now if each task could run in any place."""
    if not at.may_claim:
        return NOTHING
    most = min(CLAIM_BATCH, at.allowance)
    excess, busy = at.excess, at.running + at.ready
    if excess < at.soon_free and at.startable:
        batch = begin_batch(at.concurrency, at.soon_free)
        return Room(int(min(at.soon_free - excess, batch, most)), at.startable, busy)
    if excess >= 0 and (at.ahead - excess) * 2 < at.ahead:
        return NOTHING  # there is enough to do: a few at a time would cost a statement each
    return Room(int(min(at.ahead - excess, most)), busy=busy)


def pause_of(at: Snapshot, timings: Timings, longest: float) -> float:
    """Seconds to wait for a notice or a freed slot, `longest` at most; then it is time to decide again."""
    until = min(
        at.next_due,
        at.next_excess,
        at.last_start + timings.patience if at.excess > 0 else math.inf,
        at.early_since + timings.early if at.early else math.inf,
        at.rests_until if at.is_hungry and at.rests_until > at.now else math.inf,
        at.put_off_until,
        at.now + DOUBT_POLL if at.is_in_doubt else math.inf,
    )
    return min(longest, max(0.0, until - at.now))
