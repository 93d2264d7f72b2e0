"""What follows when tasks of workflows have ended.

Each end leaves a mark with its task, by whichever statement it was written. Whoever wrote it says so here; the leader
looks for marks that nobody has seen to. One transaction takes the marks of a workflow, under a lock on its row, asks
the engine what follows, and writes that: so every end counts once, and what follows from it happens once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import anyio

from .._core.errors import BrokerError
from .._task.host import Host
from ..abc import News, Step, Workflows
from .follow import concerned, follow

BATCH = 100
"""Workflows that are advanced in one transaction."""
RECOVERED = 200
"""Workflows that are looked for at a time."""
SELDOM = 60.0
"""Seconds between looks of those who have declared no workflow and met none."""

logger = logging.getLogger("horsies.workflow")


class Following:
    """Advances workflows in the transaction that writes the ends of their tasks."""

    def __init__(self, advancer: Advancer) -> None:
        self._advancer = advancer
        self._seen: set[str] = set()
        self._steps: list[Step] = []

    def decide(self, all_news: Sequence[News]) -> list[Step]:
        """See `horsies.abc.Decide`."""
        self._seen = {news.row.workflow_id for news in all_news}
        self._steps = self._advancer.decide(all_news)
        return self._steps

    def committed(self, workflow_ids: Iterable[str]) -> None:
        """Have advanced what that left: those that somebody else had in hand, and those that it has told something."""
        self._advancer.add_nowait(concerned(self._steps) | (set(workflow_ids) - self._seen))


class Advancer:
    """Advances the workflows of one runtime.

    Attributes:
        has_met: a workflow was started by this runtime, or something followed from one here.
    """

    def __init__(self, host: Host, store: Workflows) -> None:
        self._host = host
        self._store = store
        self._waiting: set[str] = set()
        self._poisoned: set[str] = set()
        self._problems: dict[str, str] = {}
        self._look_at = 0.0
        self.has_met = False
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._emptied.set()

    def add_nowait(self, workflow_ids: Iterable[str]) -> None:
        """Have these advanced soon."""
        self._waiting.update(workflow_ids)
        # What could not be followed up is known by now as well: whoever decides that may be in another thread.
        if self._waiting or self._problems:
            self._filled.set()
            if self._emptied.is_set():
                self._emptied = anyio.Event()

    async def settle(self) -> None:
        """Wait until everything that was added is advanced."""
        await self._emptied.wait()

    async def recover(self) -> int:
        """Look for workflows with news that nobody has seen to, and advance them. Raises: BrokerError.

        Who has to do with none looks now and then only, for others. The answer is 0: they are not done when it comes,
        and whoever leads need not hurry to look again.
        """
        if not (self.has_met or self._host.app.workflows) and anyio.current_time() < self._look_at:
            return 0
        self.add_nowait(await self._store.unadvanced(RECOVERED, skipping=self._poisoned))
        self._look_at = anyio.current_time() + SELDOM
        return 0

    async def run(self) -> None:
        """Advance what was added until cancelled."""
        backoff = self._host.contact.backoff()
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            while self._waiting or self._problems:
                try:
                    await self.run_once()
                    backoff.answered()
                except BrokerError as error:
                    await backoff.failed(error, "cannot advance workflows", logger)
            self._emptied.set()

    async def run_once(self) -> int:
        """Advance one batch; how many workflows left the queue. Raises: BrokerError, and what failed stays in it."""
        batch = sorted(self._waiting)[:BATCH]
        self._waiting.difference_update(batch)
        refused: dict[str, BrokerError] = {}
        try:
            failure = await self._advance(batch, refused)
        except BrokerError:
            self._waiting.update(batch)
            raise
        if len(refused) == len(batch) > 1:
            # It is about none of them: a privilege is missing, say, and may be granted again.
            self._waiting.update(batch)
            failure = next(iter(refused.values()))
        else:
            for workflow_id, error in refused.items():
                self._leave(workflow_id, error.message)
        await self._note_problems()
        if failure is not None:
            raise failure
        return len(batch)

    async def _advance(self, workflow_ids: list[str], refused: dict[str, BrokerError]) -> BrokerError | None:
        """Advance these; halve what the database refuses until the guilty one stands alone, which `refused` gets.

        One that somebody has locked goes back into the queue, and the error is returned, so that others go on.
        """
        try:
            self.add_nowait(concerned(await self._store.advance(workflow_ids, self.decide)))
        except BrokerError as error:
            if error.retryable and not error.locked:
                raise
            if len(workflow_ids) > 1:
                middle = len(workflow_ids) // 2
                first = await self._advance(workflow_ids[:middle], refused)
                return await self._advance(workflow_ids[middle:], refused) or first
            if error.locked:
                self._waiting.update(workflow_ids)
                return error
            refused[workflow_ids[0]] = error
        return None

    def decide(self, all_news: Sequence[News]) -> list[Step]:
        """See `horsies.abc.Decide`; what cannot be followed up has no step."""
        self.has_met = True
        steps = []
        for news in all_news:
            is_news = news.ended or news.signals or news.is_overdue
            if not is_news or news.row.workflow_id in self._poisoned:
                continue
            try:
                steps.append(follow(self._host, news))
            except Exception as error:  # what cannot be followed must not hold up the others
                self._leave(news.row.workflow_id, f"{type(error).__name__}: {error}")
        return steps

    def _leave(self, workflow_id: str, why: str) -> None:
        self._poisoned.add(workflow_id)
        self._problems[workflow_id] = why
        logger.error("workflow %s is left as it is: %s", workflow_id, why, extra={"workflow_id": workflow_id})

    async def _note_problems(self) -> None:
        """Write down what cannot be advanced, for whoever looks at it; where that fails as well there is the log."""
        while self._problems:
            workflow_id, why = self._problems.popitem()
            try:
                await self._store.note_problem(workflow_id, why)
            except BrokerError as error:
                logger.warning("cannot note what is wrong with workflow %s: %s", workflow_id, error.message)
