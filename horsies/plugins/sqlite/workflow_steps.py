"""Following up what has happened to workflows, in a transaction that somebody has opened."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from horsies.abc import (
    HEAD,
    MOST_NEWS,
    Decide,
    EndedTask,
    News,
    NewTask,
    NewWorkflow,
    Range,
    Signal,
    Slice,
    Step,
    TaskStatus,
    Topic,
    WorkflowRow,
)

from .._sql.deciding import decided
from .._sql.ids import require_ids
from .control import cancel_one
from .producer import enqueue_one
from .session import Row, Transaction, in_utc, instant, microseconds


def advance(
    sql: Mapping[str, str], transaction: Transaction, workflow_ids: Collection[str], decide: Decide
) -> list[Step]:
    """Take what has happened to these workflows, and write what follows; the steps."""
    news = {}
    signals: dict[str, list[Row]] = {}
    for workflow_id in sorted(set(workflow_ids)):
        for row in transaction.fetch(sql["workflows.workflow"], {"id": workflow_id, "head": HEAD}):
            some = {"id": workflow_id, "limit": MOST_NEWS}
            ended = transaction.fetch(sql["workflows.marked_ends"], some)
            told = signals[workflow_id] = transaction.fetch(sql["workflows.signals"], some)
            news[workflow_id] = _news(row, ended, told, transaction.now)
    steps = _decided(sql, transaction, decide, news)
    for step in steps:
        _write(sql, transaction, step, news[step.workflow_id], signals[step.workflow_id])
    _enqueue(sql, transaction, [task for step in steps for task in step.tasks])
    for part in [part for step in steps for part in step.parts]:
        begin(sql, transaction, part)
    # Only now: one of them may be among these.
    for task_id in [task_id for step in steps for task_id in step.cancel]:
        cancel_one(sql, transaction, task_id)
    for signal in [signal for step in steps for signal in step.signals]:
        _tell(sql, transaction, signal)
    return steps


def _decided(sql: Mapping[str, str], transaction: Transaction, decide: Decide, news: Mapping[str, News]) -> list[Step]:
    """What follows, once everything is read that this depends on."""
    known = dict(news)
    while True:
        steps = decided(decide, list(known.values()))
        reads = [step for step in steps if step.reads]
        if not reads:
            return steps
        for step in reads:
            one = known[step.workflow_id]
            found = slices(sql, transaction, step.workflow_id, step.reads)
            known[step.workflow_id] = replace(one, slices=tuple(sorted((*one.slices, *found))))


def slices(
    sql: Mapping[str, str], transaction: Transaction, workflow_id: str, ranges: Sequence[Range]
) -> tuple[Slice, ...]:
    """Ranges of the spec of a workflow."""
    return tuple(
        (start, data)
        for start, length in sorted(ranges)
        for (data,) in transaction.fetch(sql["workflows.slice"], {"id": workflow_id, "start": start, "length": length})
    )


def begin(sql: Mapping[str, str], transaction: Transaction, new: NewWorkflow) -> bool:
    """Put it in with its tasks and parts, if its id is free; whether it is."""
    given = {
        "id": new.workflow_id,
        "sha": new.sha,
        "name": new.name,
        "version": new.version,
        "spec": new.spec,
        "state": new.state,
        "status": new.status,
        "sent_at": microseconds(new.sent_at),
        "parent_id": new.parent_id,
        "root_id": new.root_id,
        "good_until": None if new.good_until is None else microseconds(new.good_until),
        "now": transaction.now,
    }
    if not transaction.fetch(sql["workflows.start_workflow"], given):
        return False
    _enqueue(sql, transaction, new.tasks)
    for part in new.parts:
        begin(sql, transaction, part)
    return True


def _write(sql: Mapping[str, str], transaction: Transaction, step: Step, news: News, signals: Sequence[Row]) -> None:
    given = {
        "id": step.workflow_id,
        "state": step.state,
        "status": step.status,
        "error_code": step.error_code,
        "now": transaction.now,
    }
    ((finished_at,),) = transaction.fetch(sql["workflows.step"], given)
    if news.row.finished_at is None and finished_at is not None:
        transaction.notify(Topic.FINISHED, step.workflow_id)
    for end in news.ended:
        transaction.fetch(sql["workflows.advanced"], {"id": end.task_id})
    for number, _ in signals:
        transaction.fetch(sql["workflows.taken"], {"id": number})


def _tell(sql: Mapping[str, str], transaction: Transaction, signal: Signal) -> None:
    transaction.fetch(sql["workflows.signal"], {"id": signal.workflow_id, "data": signal.data})


def _enqueue(sql: Mapping[str, str], transaction: Transaction, tasks: Sequence[NewTask]) -> None:
    require_ids("enqueue", (task.task_id for task in tasks))
    for task in tasks:
        enqueue_one(sql, transaction, task)


def _news(row: Row, ended: Sequence[Row], signals: Sequence[Row], now: int) -> News:
    workflow = workflow_row(row)
    ends = tuple(
        EndedTask(task_id, TaskStatus(status), error_code, result) for task_id, status, error_code, result in ended
    )
    is_overdue = (
        workflow.finished_at is None and workflow.good_until is not None and workflow.good_until <= instant(now)
    )
    has_more = max(len(ends), len(signals)) == MOST_NEWS
    return News(workflow, ends, tuple(data for _, data in signals), is_overdue, has_more)


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
        instant(sent_at),
        in_utc(finished_at),
        error_code,
        parent_id,
        root_id,
        in_utc(good_until),
        problem,
    )
