"""Where workflows stand: what a broker keeps of them, so that each end of a task is followed up once.

A task of a workflow ends like any other, by whatever statement ends it, and its end leaves a mark. An advance takes all
marked ends of a workflow at once, asks what follows, and writes that and removes the marks in one transaction. A crash
in between leaves the marks, and `Workflows.unadvanced` finds them.

What a workflow has to tell another one, of which it is a part or that is a part of it, is a signal: it is written in
the advance of the one and taken in an advance of the other. So no transaction ever changes two workflows that go on.

A spec can be as large as the arguments of all nodes together. A row comes with its first `HEAD` bytes; a decision that
needs more of it names the ranges, and is asked again with them.

A broker that keeps workflows has an attribute `workflows`. The rules of `horsies.abc.broker` hold here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec

from .._core.status import TaskStatus
from .records import Enqueued, NewTask

HEAD = 16 * 1024
"""Bytes of a spec that come with the row of a workflow."""
LARGE = 16 * 1024
"""Bytes of a state, or of what a task has opened, beyond which a workflow is large: it has a thousand nodes or more. It
is advanced by itself: `Consumer.finish` need not offer it to `decide`."""
MOST_NEWS = 1_000
"""Marked ends, and signals, that one advance of one workflow takes at most."""

Slice: TypeAlias = tuple[int, bytes]
"""Bytes of a spec, and the offset at which they begin."""
Range: TypeAlias = tuple[int, int]
"""An offset in a spec, and a number of bytes."""


class NewWorkflow(msgspec.Struct, frozen=True):
    """A workflow to start, with the tasks that wait for no other, and the workflows that are parts of it and start too.

    `spec` and `state` are any bytes: a broker never looks inside. `sha` is what tells a replay from another start of
    the same id. A `status` that is neither RUNNING nor PAUSED means that it ends as it starts. `parent_id` is the
    workflow that it is a part of, `root_id` the one that is a part of none.
    """

    workflow_id: str
    sha: bytes
    name: str
    version: int
    spec: bytes
    state: bytes
    status: str
    sent_at: datetime
    tasks: tuple[NewTask, ...] = ()
    parts: tuple[NewWorkflow, ...] = ()
    parent_id: str | None = None
    root_id: str | None = None
    good_until: datetime | None = None


class WorkflowRow(msgspec.Struct, frozen=True):
    """A workflow as it stands. It has `finished_at` once its status is neither RUNNING nor PAUSED.

    `spec` is the first `HEAD` bytes of its spec. `problem` says why it could not be advanced when that was last tried.
    """

    workflow_id: str
    sha: bytes
    name: str
    version: int
    spec: bytes
    state: bytes
    status: str
    sent_at: datetime
    finished_at: datetime | None
    error_code: str | None
    parent_id: str | None = None
    root_id: str | None = None
    good_until: datetime | None = None
    problem: str | None = None


class WorkflowSummary(msgspec.Struct, frozen=True):
    """A workflow as it stands, without what it consists of."""

    workflow_id: str
    name: str
    version: int
    status: str
    sent_at: datetime
    finished_at: datetime | None
    error_code: str | None
    good_until: datetime | None
    problem: str | None


class EndedTask(msgspec.Struct, frozen=True):
    """A task of a workflow that has ended. `result` is there for tasks whose names begin with `OWN`, for no others."""

    task_id: str
    status: TaskStatus
    error_code: str | None
    result: bytes | None = None


OWN = "horsies."
"""How the names of tasks begin that are horsies' own."""


class Signal(msgspec.Struct, frozen=True):
    """Something to tell a workflow: any bytes."""

    workflow_id: str
    data: bytes


class News(msgspec.Struct, frozen=True):
    """A workflow, and what has happened to it: its marked ends, and its signals, both in order."""

    row: WorkflowRow
    ended: tuple[EndedTask, ...] = ()
    signals: tuple[bytes, ...] = ()
    is_overdue: bool = False
    """Whether its `good_until` has passed and it has not ended."""
    has_more: bool = False
    """Whether there may be more ends or signals, which a later advance takes."""
    slices: tuple[Slice, ...] = ()
    """The ranges of the spec that were asked for, by offset."""


class Step(msgspec.Struct, frozen=True):
    """What follows from the ends of a workflow's tasks, or from what somebody wants of it.

    A `status` that is neither RUNNING nor PAUSED ends the workflow; one that has ended keeps its status and code,
    whatever its steps say. `tasks` are put in, each with the workflow's id, and `parts` are started. `cancel` are ids
    of tasks to cancel, of those just put in too: what has not started ends at once, and that end is marked for the next
    advance. `signals` are sent, to those just started too, and to the workflow itself perhaps. `has_more` is that of
    the news; a broker does nothing about it.

    With `reads` nothing else counts: these ranges of the spec have to be known first, and the decision is asked for
    again. Past the end of the spec there are no bytes.
    """

    workflow_id: str
    state: bytes
    status: str
    error_code: str | None = None
    tasks: tuple[NewTask, ...] = ()
    cancel: tuple[str, ...] = ()
    parts: tuple[NewWorkflow, ...] = ()
    signals: tuple[Signal, ...] = ()
    has_more: bool = False
    reads: tuple[Range, ...] = ()


Decide: TypeAlias = Callable[[Sequence[News]], Sequence[Step]]
"""From workflows and what has happened to them to what follows: at most one step for each. It changes nothing outside:
it may be asked again, and in another thread. For a small workflow it is quick."""


class Workflows(Protocol):
    """Keeps where each workflow stands."""

    async def start(
        self, new: NewWorkflow, *, connection: object | None = None, now: datetime | None = None
    ) -> Enqueued:
        """Put a workflow in, its first tasks and its parts with theirs, in one transaction, and notify their queues.

        INSERTED; or REPLAYED or MISMATCH, and nothing written, where the id is there with the same or another SHA. The
        answer's `task_id` is the workflow's id. A task or part whose id is there already is left alone.

        Args:
            connection: the caller's, to be written through as `Transactional.joining` does.

        Raises:
            ValueError: `connection` is none that this broker can join, and what would be.
        """
        ...

    async def read(self, workflow_id: str) -> WorkflowRow | None:
        """Everything stored of one workflow, but of its spec only the head."""
        ...

    async def read_standing(self, workflow_id: str) -> WorkflowSummary | None:
        """A workflow as it stands, without what it consists of."""
        ...

    async def read_spec(self, workflow_id: str, ranges: Sequence[Range]) -> tuple[Slice, ...]:
        """These ranges of the spec of a workflow, by offset; none when it is not there."""
        ...

    async def newest(
        self,
        limit: int,
        *,
        name: str | None = None,
        statuses: Collection[str] | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[WorkflowSummary]:
        """The newest workflows that are parts of no other, those sent last first.

        Args:
            name, statuses: only those.
            before: `sent_at` and id of the last one that was seen; those after it.
        """
        ...

    async def tasks(self, workflow_id: str) -> list[tuple[str, TaskStatus, str | None]]:
        """Id, status and error code of the tasks of a workflow that are still there, in any order."""
        ...

    async def running(self, workflow_id: str) -> list[str]:
        """The ids of the tasks of a workflow that are RUNNING, in any order."""
        ...

    async def advance(self, workflow_ids: Sequence[str], decide: Decide, *, now: datetime | None = None) -> list[Step]:
        """Take what has happened to workflows and write what follows, in one transaction; the steps that were written.

        The workflows are locked, in the order of their ids and until the transaction ends; then their marked ends and
        their signals are read, `MOST_NEWS` of each for one workflow at most, the oldest signals first; then `decide` is
        called with all of them in that order, those without news and those that have ended too. Ids that are not there
        are left out. What it gives no step for stays as it is, with its marks and signals. A step takes away the marks
        and signals that were in the news, and no others.

        What ends a workflow notifies whoever waits for it. What is to be cancelled is cancelled once all tasks are put
        in. A task to put in whose id is there already is left alone, and so is a part with all that comes with it; a
        signal to a workflow that is not there is dropped. When anything fails nothing is written; what `decide` raises
        leaves as it is. A step that is written takes away the workflow's `problem`.
        """
        ...

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = (), now: datetime | None = None) -> list[str]:
        """Ids of at most `limit` workflows that have marked ends or signals or are overdue, without those to skip."""
        ...

    async def note_problem(self, workflow_id: str, problem: str) -> None:
        """Say why a workflow cannot be advanced, for whoever looks at it."""
        ...


@runtime_checkable
class Workflowing(Protocol):
    """A broker that keeps workflows."""

    workflows: Workflows
