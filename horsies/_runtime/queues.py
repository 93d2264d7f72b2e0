"""Queues at run time: what stands in them, and whether anything of them is claimed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from .._core.config import QueueConfig
from .._core.errors import HorsiesError
from .._declare.app import Horsies
from ..abc import QueueRow


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueInfo:
    """A queue as it stands in the database."""

    name: str
    """Name of the queue."""
    priority: int | None
    """1 (first) to 100 (last), as this application declares it; None: it does not declare the queue."""
    max_concurrency: int | None
    """Limit of this application's declaration; None: no limit, or it does not declare the queue."""
    paused_at: datetime | None
    """When the queue was paused, aware UTC; None: it is not paused."""
    ready: int
    """Number of tasks that are due and wait for a worker."""
    delayed: int
    """Number of tasks that are due later, retries among them."""
    claimed: int
    """Number of tasks that workers hold and whose user code has not started."""
    running: int
    """Number of tasks whose user code runs."""
    oldest_due_at: datetime | None
    """When the first of the ready tasks was due, aware UTC; None: no task is ready."""


def queue_infos(app: Horsies, rows: Iterable[QueueRow]) -> list[QueueInfo]:
    """The queues of the application in their order, then those that only the database knows."""
    found = {row.name: row for row in rows}
    names = [*app.queues, *sorted(found.keys() - app.queues.keys())]
    empty = {name: QueueRow(name, None, 0, 0, 0, 0, None) for name in names}
    return [_info(app.queues.get(name), (empty | found)[name]) for name in names]


def _info(declared: QueueConfig | None, row: QueueRow) -> QueueInfo:
    return QueueInfo(
        priority=None if declared is None else declared.priority,
        max_concurrency=None if declared is None else declared.max_concurrency,
        **asdict(row),
    )


def require_queue(app: Horsies, name: str) -> None:
    """Raise HRS-200 unless the application has the queue."""
    if name not in app.queues:
        raise HorsiesError(
            "HRS-200", f"the application has no queue {name!r}", [f"its queues: {', '.join(app.queues)}"]
        )
