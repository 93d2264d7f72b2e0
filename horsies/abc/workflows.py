"""Where workflows stand: what a broker keeps of them, so that each end of a task is followed up once.

A task of a workflow ends like any other, by whatever statement ends it, and its end leaves a mark. An advance takes all
marked ends of a workflow at once, asks what follows, and writes that and removes the marks in one transaction. A crash
in between leaves the marks, and `Workflows.unadvanced` finds them.

A broker that keeps workflows has an attribute `workflows`. The rules of `horsies.abc.broker` hold here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec

from .._core.status import TaskStatus
from .records import Enqueued, NewTask


class NewWorkflow(msgspec.Struct, frozen=True):
    """A workflow to start, with the tasks that wait for no other.

    `spec` and `state` are any bytes: a broker never looks inside. `sha` is what tells a replay from another start of
    the same id. `status` is RUNNING or PAUSED.
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


class WorkflowRow(msgspec.Struct, frozen=True):
    """A workflow as it stands. It has `finished_at` once its status is neither RUNNING nor PAUSED."""

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


class EndedTask(msgspec.Struct, frozen=True):
    """A task of a workflow that has ended."""

    task_id: str
    status: TaskStatus
    error_code: str | None


class Step(msgspec.Struct, frozen=True):
    """What follows from the ends of a workflow's tasks, or from what somebody wants of it.

    A `status` that is neither RUNNING nor PAUSED ends the workflow; one that has ended keeps its status and code,
    whatever its steps say. `tasks` are put in, each with the workflow's id. `cancel` are ids of tasks to cancel, of
    those just put in too: what has not started ends at once, and that end is marked for the next advance.
    """

    workflow_id: str
    state: bytes
    status: str
    error_code: str | None = None
    tasks: tuple[NewTask, ...] = ()
    cancel: tuple[str, ...] = ()


Decide: TypeAlias = Callable[[Sequence[tuple[WorkflowRow, tuple[EndedTask, ...]]]], Sequence[Step]]
"""From workflows and their marked ends to what follows: at most one step for each. It is quick, and changes nothing
outside: it may be asked again, and in another thread."""


class Workflows(Protocol):
    """Keeps where each workflow stands."""

    async def start(self, new: NewWorkflow, *, now: datetime | None = None) -> Enqueued:
        """Put a workflow in and its first tasks, in one transaction, and notify their queues.

        INSERTED; or REPLAYED or MISMATCH, and nothing written, where the id is there with the same or another SHA. The
        answer's `task_id` is the workflow's id. A task whose id is there already is left alone.
        """
        ...

    async def read(self, workflow_id: str) -> WorkflowRow | None:
        """Everything stored of one workflow."""
        ...

    async def tasks(self, workflow_id: str) -> list[tuple[str, TaskStatus, str | None]]:
        """Id, status and error code of the tasks of a workflow that are still there, in any order."""
        ...

    async def advance(self, workflow_ids: Sequence[str], decide: Decide, *, now: datetime | None = None) -> list[Step]:
        """Take the marked ends of workflows and write what follows, in one transaction; the steps that were written.

        The workflows are locked, in the order of their ids and until the transaction ends; then their marked ends are
        read, then `decide` is called with all of them in that order, those without a marked end and those that have
        ended too. Ids that are not there are left out. What it gives no step for stays as it is, with its marks.

        What ends a workflow notifies whoever waits for it. What is to be cancelled is cancelled once all tasks are put
        in. A task to put in whose id is there already is left alone. When anything fails nothing is written; what
        `decide` raises leaves as it is.
        """
        ...

    async def unadvanced(self, limit: int, *, skipping: Collection[str] = ()) -> list[str]:
        """Ids of at most `limit` workflows that have marked ends, in order, without those to be skipped."""
        ...


@runtime_checkable
class Workflowing(Protocol):
    """A broker that keeps workflows."""

    workflows: Workflows
