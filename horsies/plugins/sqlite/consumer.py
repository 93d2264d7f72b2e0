"""All that one worker does with tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from horsies import RecoveryConfig

from .completion import SqliteCompletion
from .intake import SqliteIntake
from .membership import SqliteMembership
from .session import Session


class SqliteConsumer(SqliteMembership, SqliteIntake, SqliteCompletion):
    """See `horsies.abc.Consumer`."""

    def __init__(
        self,
        session: Session,
        worker_id: str,
        queues: Sequence[tuple[str, int]],
        *,
        recovery: RecoveryConfig,
        caps: Mapping[str, int],
        cluster_cap: int | None,
    ) -> None:
        SqliteMembership.__init__(self, session, worker_id, recovery=recovery)
        SqliteIntake.__init__(self, session, worker_id, queues, recovery=recovery, caps=caps, cluster_cap=cluster_cap)
        SqliteCompletion.__init__(self, session, worker_id, caps=caps, cluster_cap=cluster_cap)
