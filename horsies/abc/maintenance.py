"""What one worker does for all."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol


class Maintenance(Protocol):
    """Looks after what no worker holds, or holds any more. One leader does it, but several at once do no harm.

    A row that cannot be written (a damaged one, or a trigger of somebody's refuses it) is logged and passed over.
    """

    async def expire(self, limit: int, *, now: datetime | None = None) -> int:
        """PENDING and CLAIMED -> EXPIRED for at most `limit` tasks past `good_until`; how many.

        PENDING ones first, the oldest deadline first. CLAIMED ones may be anybody's: their worker has not come to
        start them.
        """
        ...

    async def reap(self, limit: int, *, now: datetime | None = None) -> int:
        """Take at most `limit` tasks from workers that are dead; how many.

        Only a steady leader may: its lease has not expired, its own heartbeat is at most two
        `recovery.heartbeat_interval` old, and it has been steady for `recovery.dead_after`. All of it is decided at the
        instant of the call, by the database. For any other worker nothing happens, and the answer is 0.

        First, each worker whose heartbeat is `recovery.dead_after` old loses its registration: it is dead.
        Then, of what is held by workers that are not registered: CLAIMED -> PENDING, or EXPIRED past its deadline.
        RUNNING -> CANCELLED where that was requested, else PENDING or FAILED (WORKER_CRASHED, no result) by the
        verdict stored at the start; a retry at or after `good_until` is none.
        """
        ...

    async def prune(self, limit: int, *, finished_after: timedelta, now: datetime | None = None) -> int:
        """Remove at most `limit` tasks that ended `finished_after` ago or earlier, the oldest first; how many.

        The tasks of a workflow stay until it too ended so long ago. A broker that keeps workflows removes them after
        their last task, and counts them.
        """
        ...
