"""What can be known of a workflow and of its nodes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ..._core.status import NodeStatus, WorkflowStatus
from ...abc import WorkflowRow, WorkflowSummary


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A workflow as it stands.

    Attributes:
        sent_at: by the starter's clock, aware UTC. All other instants are the database's.
        error_code: of a FAILED one, the code of the node that it failed by.
        problem: why it could not be advanced when that was last tried: see the worker's log.
    """

    workflow_id: str
    name: str
    version: int
    status: WorkflowStatus
    sent_at: datetime
    finished_at: datetime | None
    error_code: str | None
    good_until: datetime | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node as it stands.

    Attributes:
        task_name: of a subworkflow, its name.
        task_id: that of its last run; None: it has not run, or is a workflow.
        kind: "task", "workflow", or "map".
        workflow_id: of what is a workflow, that of its last run.
    """

    node_id: str
    task_name: str
    status: NodeStatus
    task_id: str | None
    error_code: str | None
    kind: Literal["task", "map", "workflow"] = "task"
    workflow_id: str | None = None


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
