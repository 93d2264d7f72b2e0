"""Following up what has happened to workflows, in a transaction that somebody has opened."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import anyio
import anyio.to_thread
from msgspec.structs import replace

from horsies.abc import (
    MOST_NEWS,
    Decide,
    EndedTask,
    News,
    NewTask,
    NewWorkflow,
    Range,
    Slice,
    Step,
    TaskStatus,
    WorkflowRow,
    is_task_id,
)

from .._sql.deciding import decided
from .driver.session import Fetch, Row, in_utc
from .producer import PostgresProducer

T = TypeVar("T")

PORTION = 1_000
"""Rows that one statement writes; between two of them the loop runs."""
PORTION_BYTES = 4 * 1024 * 1024
SMALL = 16 * 1024
"""Bytes of what has happened that are decided about on the loop; for more there is a thread."""
FEW = 200
"""Ends that an advance takes of each workflow, however many there are: as many as a worker writes at a time."""


async def advance_locked(
    fetch: Fetch, sql: Mapping[str, str], rows: Sequence[Row], decide: Decide, now: datetime | None
) -> list[Step]:
    """Take what has happened to workflows that are locked, and write what follows; the steps."""
    most = max(FEW, MOST_NEWS // max(1, len(rows)))
    news = _News([row[0] for row in rows], most)
    if rows:
        news.add(await fetch("advance", sql["workflows.news"], {"ids": list(news.ends), "limit": most}))
    steps = await _decided(fetch, sql, decide, [news.of(row) for row in rows])
    if steps:
        await _write(fetch, sql, steps, news, now)
    return steps


async def _decided(fetch: Fetch, sql: Mapping[str, str], decide: Decide, news: list[News]) -> list[Step]:
    """What follows, once everything is read that this depends on."""
    while True:
        if sum(map(_size, news)) <= SMALL:
            steps = decided(decide, news)
        else:
            limiter = anyio.CapacityLimiter(1)  # others may have taken all threads there are
            steps = await anyio.to_thread.run_sync(decided, decide, news, limiter=limiter)
        reads = {step.workflow_id: step.reads for step in steps if step.reads}
        if not reads:
            return steps
        found = await slices(fetch, sql, reads)
        news = [replace(one, slices=tuple(sorted((*one.slices, *found.get(one.row.workflow_id, ()))))) for one in news]


def _size(news: News) -> int:
    results = sum(len(end.result) for end in news.ended if end.result is not None)
    return len(news.row.state) + results + sum(len(data) for _, data in news.slices)


async def slices(
    fetch: Fetch, sql: Mapping[str, str], ranges: Mapping[str, Sequence[Range]]
) -> dict[str, tuple[Slice, ...]]:
    """Ranges of specs, by the ids of their workflows."""
    asked = [(workflow_id, *one) for workflow_id, some in ranges.items() for one in some]
    ids, starts, lengths = map(list, zip(*asked, strict=True)) if asked else ([], [], [])
    found = defaultdict(list)
    for workflow_id, start, data in await fetch(
        "read a spec", sql["workflows.slices"], {"ids": ids, "starts": starts, "lengths": lengths}
    ):
        found[workflow_id].append((start, data))
    return {workflow_id: tuple(some) for workflow_id, some in found.items()}


def portions(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """As many of `items` at a time as one statement writes."""
    portion: list[T] = []
    room = PORTION_BYTES
    for item in items:
        cost = size(item)
        if portion and (cost > room or len(portion) == PORTION):
            yield portion
            portion, room = [], PORTION_BYTES
        portion.append(item)
        room -= cost
    if portion:
        yield portion


def _bytes_of_task(task: NewTask) -> int:
    return len(task.envelope)


def _bytes_of_workflow(new: NewWorkflow) -> int:
    return len(new.spec) + len(new.state)


async def begin(fetch: Fetch, sql: Mapping[str, str], news: Sequence[NewWorkflow], now: datetime | None) -> bool:
    """Put in those whose ids are free, with their tasks and parts; whether there was any."""
    has_begun = False
    for portion in portions(news, _bytes_of_workflow):
        free = await _insert(fetch, sql, portion, now)
        begun = [new for new in portion if new.workflow_id in free]
        await _enqueue(fetch, sql, (task for new in begun for task in new.tasks), now)
        parts = [part for new in begun for part in new.parts]
        if parts:
            await begin(fetch, sql, parts, now)
        has_begun = has_begun or bool(begun)
    return has_begun


async def _insert(fetch: Fetch, sql: Mapping[str, str], news: Sequence[NewWorkflow], now: datetime | None) -> set[str]:
    """The ids of those that were free."""
    given = {
        "ids": [new.workflow_id for new in news],
        "shas": [new.sha for new in news],
        "names": [new.name for new in news],
        "versions": [new.version for new in news],
        "specs": [new.spec for new in news],
        "states": [new.state for new in news],
        "statuses": [new.status for new in news],
        "sent_ats": [new.sent_at for new in news],
        "parent_ids": [new.parent_id for new in news],
        "root_ids": [new.root_id for new in news],
        "good_untils": [new.good_until for new in news],
        "now": now,
    }
    return {workflow_id for (workflow_id,) in await fetch("start", sql["workflows.start_workflows"], given)}


async def _enqueue(fetch: Fetch, sql: Mapping[str, str], tasks: Iterable[NewTask], now: datetime | None) -> None:
    for portion in portions(tasks, _bytes_of_task):
        await PostgresProducer(fetch, sql).enqueue(portion, now=now)


async def _write(
    fetch: Fetch, sql: Mapping[str, str], steps: Sequence[Step], news: _News, now: datetime | None
) -> None:
    ids = [step.workflow_id for step in steps]
    written = {
        "ids": ids,
        "states": [step.state for step in steps],
        "statuses": [step.status for step in steps],
        "error_codes": [step.error_code for step in steps],
        "done": [end.task_id for workflow_id in ids for end in news.ends[workflow_id]],
        "workflow_ids": [workflow_id for workflow_id in ids for _ in news.signals[workflow_id]],
        "heard": [number for workflow_id in ids for number, _ in news.signals[workflow_id]],
        "now": now,
    }
    await fetch("advance", sql["workflows.step"], written)
    await _enqueue(fetch, sql, (task for step in steps for task in step.tasks), now)
    parts = [part for step in steps for part in step.parts]
    if parts:
        await begin(fetch, sql, parts, now)
    # Only now: one of them may be among these.
    cancelled = sorted({task_id for step in steps for task_id in step.cancel})
    for start in range(0, len(cancelled), PORTION):
        await fetch("advance", sql["tasks.cancel"], {"ids": cancelled[start : start + PORTION], "now": now})
    signals = [signal for step in steps for signal in step.signals if is_task_id(signal.workflow_id)]
    for start in range(0, len(signals), PORTION):
        some = signals[start : start + PORTION]
        told = {"ids": [signal.workflow_id for signal in some], "data": [signal.data for signal in some]}
        await fetch("advance", sql["workflows.signal"], told)


class _News:
    """What has happened to the workflows of these ids, `most` ends and signals of each."""

    def __init__(self, ids: Sequence[str], most: int) -> None:
        self._most = most
        self.ends: dict[str, list[EndedTask]] = {workflow_id: [] for workflow_id in ids}
        self.signals: dict[str, list[tuple[int, bytes]]] = {workflow_id: [] for workflow_id in ids}

    def add(self, rows: Sequence[Row]) -> None:
        for workflow_id, task_id, status, error_code, data, number, _ in rows:
            if task_id is None:
                self.signals[workflow_id].append((number, data))
            else:
                self.ends[workflow_id].append(EndedTask(task_id, TaskStatus(status), error_code, data))

    def of(self, locked: Row) -> News:
        """Of one workflow, by its row and whether it is overdue."""
        *row, is_overdue = locked
        ends, signals = tuple(self.ends[row[0]]), tuple(data for _, data in self.signals[row[0]])
        has_more = max(len(ends), len(signals)) == self._most
        return News(workflow_row(tuple(row)), ends, signals, is_overdue, has_more)


def workflow_row(row: Row) -> WorkflowRow:
    """A workflow by its columns."""
    workflow_id, sha, name, version, spec, state, status, sent_at, finished_at, *others = row
    error_code, parent_id, root_id, good_until, problem = others
    return WorkflowRow(
        workflow_id,
        sha,
        name,
        version,
        spec,
        state,
        status,
        sent_at.astimezone(UTC),
        in_utc(finished_at),
        error_code,
        parent_id,
        root_id,
        in_utc(good_until),
        problem,
    )
