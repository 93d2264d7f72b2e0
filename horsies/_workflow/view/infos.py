"""What can be known of a workflow and of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ..._core.status import NodeStatus, WorkflowStatus
from ...abc import WorkflowRow, WorkflowSummary


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A workflow as it stands. Instants are aware UTC."""

    workflow_id: str
    """Id of the workflow: a UUID in lower case."""
    name: str
    """Name that the workflow was declared with."""
    version: int
    """Version of the definition that it was started from."""
    status: WorkflowStatus
    """Where the workflow stands."""
    sent_at: datetime
    """When it was started, by the caller's clock."""
    finished_at: datetime | None
    """When it ended, by the database's clock; None: it has not."""
    error_code: str | None
    """Code of the node that a FAILED workflow failed by; None: it has not failed."""
    good_until: datetime | None
    """Deadline of the workflow; None: it has none."""
    problem: str | None
    """Why the last step of the workflow failed, as in the worker's log; None: nothing is wrong."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node of a workflow as it stands."""

    node_id: str
    """Id of the node within its workflow."""
    task_name: str
    """Name of the task, or of the workflow that the node stands for."""
    status: NodeStatus
    """Where the node stands."""
    task_id: str | None
    """Id of the task of its last run; None: it has not run, or is not of kind "task"."""
    error_code: str | None
    """Code of the error that it failed with; None: it has not failed."""
    kind: Literal["task", "map", "workflow"] = "task"
    """A task, a task for each item of a list, or a workflow of its own."""
    workflow_id: str | None = None
    """Id of the workflow of its last run; None: it has not run, or is of kind "task"."""


def info_of(stored: WorkflowRow | WorkflowSummary) -> WorkflowInfo:
    """What is stored of a workflow, for people."""
    return WorkflowInfo(
        stored.workflow_id,
        stored.name,
        stored.version,
        WorkflowStatus(stored.status),
        stored.sent_at,
        stored.finished_at,
        stored.error_code,
        stored.good_until,
        stored.problem,
    )
