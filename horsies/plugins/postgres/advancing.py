"""Following up what has happened to workflows, in a transaction that somebody has opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from horsies.abc import Decide, EndedTask, News, NewWorkflow, Step, TaskStatus, WorkflowRow

from .producer import PostgresProducer, is_id
from .session import Fetch, Row, in_utc


class _UndecidedError(Exception):
    """What `decide` raised, on its way out of what would take it for a failure of the database."""

    def __init__(self, why: Exception) -> None:
        super().__init__(why)
        self.why = why


@contextmanager
def deciding() -> Iterator[None]:
    """Around a transaction with an `advance_locked` in it: what `decide` raises leaves as it is."""
    try:
        yield
    except _UndecidedError as undecided:
        raise undecided.why from None


async def advance_locked(
    fetch: Fetch, sql: Mapping[str, str], rows: Sequence[Row], decide: Decide, now: datetime | None
) -> list[Step]:
    """Take what has happened to workflows that are locked, and write what follows; the steps."""
    news = _News([row[0] for row in rows])
    news.add(await fetch("advance", sql["news"], {"ids": list(news.ends)}))
    try:
        steps = list(decide([news.of(row) for row in rows]))
    except Exception as error:  # to be told from what the database raises
        raise _UndecidedError(error) from None
    if steps:
        await _write(fetch, sql, steps, news, now)
    return steps


async def begin(fetch: Fetch, sql: Mapping[str, str], news: Sequence[NewWorkflow], now: datetime | None) -> bool:
    """Put in those whose ids are free, with their tasks and parts; whether there was any."""
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
    free = {workflow_id for (workflow_id,) in await fetch("start", sql["start_workflows"], given)}
    begun = [new for new in news if new.workflow_id in free]
    tasks = [task for new in begun for task in new.tasks]
    if tasks:
        await PostgresProducer(fetch, sql).enqueue(tasks, now=now)
    parts = [part for new in begun for part in new.parts]
    if parts:
        await begin(fetch, sql, parts, now)
    return bool(begun)


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
        "heard": [number for workflow_id in ids for number, _ in news.signals[workflow_id]],
        "now": now,
    }
    await fetch("advance", sql["step"], written)
    tasks = [task for step in steps for task in step.tasks]
    if tasks:
        await PostgresProducer(fetch, sql).enqueue(tasks, now=now)
    parts = [part for step in steps for part in step.parts]
    if parts:
        await begin(fetch, sql, parts, now)
    # Only now: one of them may be among these.
    cancelled = sorted({task_id for step in steps for task_id in step.cancel})
    if cancelled:
        await fetch("advance", sql["cancel"], {"ids": cancelled, "now": now})
    signals = [signal for step in steps for signal in step.signals if is_id(signal.workflow_id)]
    if signals:
        told = {"ids": [signal.workflow_id for signal in signals], "data": [signal.data for signal in signals]}
        await fetch("advance", sql["signal"], told)


class _News:
    """What has happened to the workflows of these ids."""

    def __init__(self, ids: Sequence[str]) -> None:
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
        signals = tuple(data for _, data in self.signals[row[0]])
        return News(workflow_row(tuple(row)), tuple(self.ends[row[0]]), signals, is_overdue)


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
