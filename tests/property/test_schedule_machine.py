"""Where schedules stand, against a model: by random calls, also two firings at once. HORSIES_DEEP=1 runs many more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, TypeAlias
from uuid import UUID

import anyio
import anyio.from_thread
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from horsies import AppConfig, Horsies, Runtime
from horsies.abc import Broker, BrokerError, Firing, NewSchedule, NewTask, ScheduleRow, Scheduling, TaskStatus
from horsies.testing.broker import T0, at, new_task

DEEP = os.environ.get("HORSIES_DEEP") == "1"
pytestmark = pytest.mark.timeout(1800 if DEEP else 60)

Given: TypeAlias = Mapping[str, Any]
Visible: TypeAlias = tuple[dict[str, ScheduleRow], dict[str, TaskStatus]]
"""Schedules by name, and how tasks stand, by id."""

SECOND = timedelta(seconds=1)
NAMES = ("a", "b", "c")
KEYS = {1: None, 2: None, 3: "k", 4: "k", 5: "k", 6: "l", 7: "l", 8: None}
"""The tasks by number, and the unique key of each."""
names = st.sampled_from(NAMES)
timings = st.sampled_from(("x", "y"))
slots = st.none() | st.integers(1, 9)
schedules = st.lists(
    st.fixed_dictionaries({"name": names, "timing": timings, "next_slot": slots}),
    max_size=3,
    unique_by=lambda given: given["name"],
)
firings = st.lists(
    st.fixed_dictionaries(
        {
            "name": names,
            "off": st.sampled_from((0, 0, 0, 0, 1, -1)),
            "timing": st.sampled_from((None, None, None, "x")),
            "next_slot": slots,
            "tasks": st.lists(st.sampled_from(list(KEYS)), max_size=3),
            "cancel_previous": st.booleans(),
            "problem": st.sampled_from((None, None, "it does not fit")),
        }
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda given: given["name"],
)
"""`off`: how far from where the schedule stands; `timing`: None for the one it has."""
REFUSED = new_task(1, task_id="nonsense")


@dataclass
class Model:
    """What should be there: schedules by name, and tasks by id, each with its status and its key."""

    rows: dict[str, ScheduleRow] = field(default_factory=dict)
    tasks: dict[str, tuple[TaskStatus, str | None]] = field(default_factory=dict)

    def copy(self) -> Model:
        return Model(dict(self.rows), dict(self.tasks))

    def visible(self) -> Visible:
        return self.rows, {task_id: status for task_id, (status, _) in self.tasks.items()}

    def declare(self, one: NewSchedule) -> bool:
        row = self.rows.get(one.name, ScheduleRow(one.name, "", None, None, None, None, None))
        if row.timing == one.timing:
            return False
        self.rows[one.name] = replace(row, timing=one.timing, next_slot=one.next_slot, problem=None)
        return True

    def fire(self, firings: Sequence[Firing]) -> list[bool] | None:
        """None: it is refused."""
        ours = [one for one in firings if self._stands(self.rows[one.name], one)]
        if any(REFUSED in one.tasks for one in ours):
            return None
        for one in ours:
            previous = self.rows[one.name].last_task_id
            if one.cancel_previous and previous is not None:
                self.tasks[previous] = (TaskStatus.CANCELLED, self.tasks[previous][1])
        for one in ours:
            row = replace(self.rows[one.name], next_slot=one.next_slot, problem=one.problem)
            for task in one.tasks:
                if self._put(task):
                    row = replace(row, last_slot=task.sent_at, last_task_id=task.task_id)
            self.rows[one.name] = row
        return [one in ours for one in firings]

    @staticmethod
    def _stands(row: ScheduleRow, one: Firing) -> bool:
        return (row.timing, row.next_slot, row.paused_at) == (one.timing, one.slot, None)

    def _put(self, task: NewTask) -> bool:
        if task.task_id in self.tasks:
            return True
        if task.unique_key is not None and (TaskStatus.PENDING, task.unique_key) in self.tasks.values():
            return False
        self.tasks[task.task_id] = (TaskStatus.PENDING, task.unique_key)
        return True


class ScheduleMachine(RuleBasedStateMachine):
    """One example. All share one database, in which each has names, ids and keys of its own."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal, broker: Broker, example: int) -> None:
        super().__init__()
        assert isinstance(broker, Scheduling)
        self._portal, self._reader, self._store = portal, broker.reader, broker.schedules
        self._example = example
        self._model = Model()
        self._seconds = 0

    @initialize()
    def populate(self) -> None:
        self.declare([{"name": name, "timing": "x", "next_slot": 1} for name in NAMES])

    @rule(given=schedules)
    def declare(self, given: Sequence[Given]) -> None:
        new = [NewSchedule(self._own(one["name"]), one["timing"], slot(one["next_slot"])) for one in given]
        assert self._portal.call(self._store.declare, new) == [self._model.declare(one) for one in new]
        assert self._found() == self._model.visible()

    @rule(given=firings, refused=st.sampled_from((False, False, False, True)))
    def fire(self, given: Sequence[Given], refused: bool) -> None:
        made = [self._firing(**one) for one in given]
        if refused:
            made[-1] = replace(made[-1], tasks=(*made[-1].tasks, REFUSED))
        ((answer, _),) = self._portal.call(self._at_once, [made])
        assert answer == self._model.fire(made)
        assert self._found() == self._model.visible()

    @rule(one=firings, other=firings)
    def rivals(self, one: Sequence[Given], other: Sequence[Given]) -> None:
        """One comes after the other, in either order; who met the other's lock for too long has written nothing."""
        calls = [[self._firing(**given) for given in firings] for firings in (one, other)]
        answers = self._portal.call(self._at_once, calls)
        found = self._found()
        for order in ((0, 1), (1, 0)):
            model = self._model.copy()
            as_answered = all(
                locked or model.fire(calls[n]) == answer for n in order for answer, locked in [answers[n]]
            )
            if as_answered and model.visible() == found:
                self._model = model
                return
        before = self._model.visible()
        raise AssertionError(f"{calls} on {before}: {answers} and {found} are of neither order")

    @rule(name=names)
    def pause(self, name: str) -> None:
        self._seconds += 1
        row = self._model.rows[self._own(name)]
        assert self._portal.call(partial(self._store.pause, row.name, now=at(self._seconds))) == (not row.paused_at)
        self._model.rows[row.name] = replace(row, paused_at=row.paused_at or at(self._seconds))
        assert self._found() == self._model.visible()

    @rule(name=names, next_slot=slots)
    def resume(self, name: str, next_slot: int | None) -> None:
        row = self._model.rows[self._own(name)]
        was_paused = row.paused_at is not None
        assert self._portal.call(self._store.resume, row.name, slot(next_slot)) == was_paused
        if was_paused:
            self._model.rows[row.name] = replace(row, paused_at=None, next_slot=slot(next_slot))
        assert self._found() == self._model.visible()

    async def _at_once(self, calls: Sequence[Sequence[Firing]]) -> list[tuple[list[bool] | None, bool]]:
        """The answers (None: it is refused), and whether it was a lock that kept each from writing."""
        answers: dict[int, tuple[list[bool] | None, bool]] = {}

        async def fire(n: int, firings: Sequence[Firing]) -> None:
            try:
                answers[n] = (await self._store.fire(firings, now=T0), False)
            except BrokerError as error:
                if error.retryable and not error.locked:
                    raise
                answers[n] = (None, error.locked)

        async with anyio.create_task_group() as group:
            for n, firings in enumerate(calls):
                group.start_soon(fire, n, firings)
        return [answers[n] for n in range(len(calls))]

    def _firing(self, name: str, off: int, timing: str | None, next_slot: int | None, **fields: Any) -> Firing:
        row = self._model.rows[self._own(name)]
        stands = T0 if row.next_slot is None else row.next_slot
        fields["tasks"] = tuple(self._task(n, KEYS[n]) for n in fields["tasks"])
        return Firing(row.name, timing or row.timing, stands + off * SECOND, slot(next_slot), **fields)

    def _task(self, n: int, key: str | None) -> NewTask:
        key = None if key is None else self._own(key)
        return new_task(n, task_id=self._id(n), sent_at=at(n), unique_key=key)

    def _found(self) -> Visible:
        rows = {row.name: row for row in self._portal.call(self._store.read).rows if row.name in self._model.rows}
        stored = self._portal.call(self._reader.results, [self._id(n) for n in KEYS])
        return rows, {one.task_id: one.status for one in stored}

    def _own(self, name: str) -> str:
        return f"{name} of {self._example}"

    def _id(self, n: int) -> str:
        return str(UUID(int=1000 * self._example + n))


def slot(n: int | None) -> datetime | None:
    return None if n is None else at(n)


def test_schedules_stand_where_they_should(anyio_backend: Any, config: AppConfig) -> None:
    backend, options = anyio_backend
    examples = count(1)
    with anyio.from_thread.start_blocking_portal(backend, options) as portal:
        opening = Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)
        with portal.wrap_async_context_manager(opening) as broker:
            run_state_machine_as_test(
                lambda: ScheduleMachine(portal, broker, next(examples)),
                settings=settings(
                    deadline=None, print_blob=True, max_examples=300 if DEEP else 15, stateful_step_count=30
                ),
            )
