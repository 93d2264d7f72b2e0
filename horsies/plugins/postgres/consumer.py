"""All that one worker does with tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from horsies import RecoveryConfig

from .caps import Caps
from .completion import PostgresCompletion
from .driver.session import Session
from .intake import PostgresIntake
from .membership import PostgresMembership


class PostgresConsumer(PostgresMembership, PostgresIntake, PostgresCompletion):
    """See `horsies.abc.Consumer`. No role waits for another: each has sessions of its own."""

    def __init__(
        self,
        worker_id: str,
        queues: Sequence[tuple[str, int]],
        *,
        intake: Session,
        starts: Session,
        outcomes: Session,
        beats: Session,
        looks: Session,
        sql: Mapping[str, str],
        recovery: RecoveryConfig,
        caps: Caps,
    ) -> None:
        PostgresMembership.__init__(
            self, worker_id, beats=beats, looks=looks, outcomes=outcomes, sql=sql, recovery=recovery
        )
        PostgresIntake.__init__(
            self,
            worker_id,
            queues,
            intake=intake,
            starts=starts,
            outcomes=outcomes,
            sql=sql,
            recovery=recovery,
            caps=caps,
        )
        PostgresCompletion.__init__(self, worker_id, outcomes=outcomes, sql=sql, caps=caps)
