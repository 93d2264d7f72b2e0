"""Workers: which there are, and all that one does with tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from .records import Held
from .tasks import Completion, Intake


class Membership(Protocol):
    """One worker among the others: whether it lives, whether it leads, and what it holds."""

    async def join(self, *, now: datetime | None = None) -> None:
        """Register the worker with its first heartbeat. Repeating it does no harm."""
        ...

    async def beat(self, *, now: datetime | None = None) -> bool:
        """Write the heartbeat of a worker that has joined; whether the worker is alive.

        A worker that was found dead meanwhile stays dead: nothing is written, and the answer is False. The call depends
        on the workers' heartbeats alone, so that no lock on another table makes a living worker look dead.

        A worker is steady since it joined, or since the last of its heartbeats that came more than two
        `recovery.heartbeat_interval` after the one before.
        """
        ...

    async def lead(self, *, now: datetime | None = None) -> bool:
        """Take or renew the lease of the leader for `recovery.dead_after` / 2; whether the worker leads.

        Only a registered worker can lead. The lease can be taken when it has expired, and by a worker that has been
        steady for `recovery.dead_after` from one that has not.
        """
        ...

    async def held(self) -> list[Held]:
        """Everything that is CLAIMED or RUNNING by this worker, in any order."""
        ...

    async def leave(self) -> int:
        """Give back everything still CLAIMED by this worker, remove its heartbeat and its lease; how many came back."""
        ...


class Consumer(Membership, Intake, Completion, Protocol):
    """One worker's view of the tasks. Every write names the worker and the claim number."""
