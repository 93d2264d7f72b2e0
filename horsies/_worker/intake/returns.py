"""Tasks that go back to their queues, because this worker does not run them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from ...abc import GiveBack, Intake, Lease


class Returns:
    """Gives tasks back. The worker knows them as its own until the database has answered.

    Args:
        counts: the worker's, for its statistics.
    """

    def __init__(self, intake: Intake, counts: Counter[str]) -> None:
        self._intake = intake
        self._counts = counts
        self._waiting: dict[Lease, GiveBack] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def leases(self) -> Iterator[Lease]:
        return iter(self._waiting)

    def add(self, tasks: Iterable[GiveBack]) -> None:
        """Have these given back by the next `run_once`."""
        self._waiting.update((task.lease, task) for task in tasks)

    async def run_once(self) -> None:
        """Give back what was added. Raises: BrokerError, and all of it is given back later."""
        tasks = dict(self._waiting)
        if tasks:
            answers = await self._intake.give_back(list(tasks.values()))
            self._counts["given_back"] += sum(answers)  # read now: what is given back beside this counts, too
            for lease in tasks:
                self._waiting.pop(lease, None)
