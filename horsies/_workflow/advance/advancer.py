"""What follows when tasks of workflows have ended.

Each end leaves a mark with its task, by whichever statement it was written. Whoever wrote it says so here; the leader
looks for marks that nobody has seen to. One transaction takes the marks of a workflow, under a lock on its row, asks
the engine what follows, and writes that: so every end counts once, and what follows from it happens once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import islice

import anyio

from ..._core.errors import BrokerError
from ..._core.isolate import isolate
from ..._core.status import WorkflowStatus
from ..._declare.gateway import AppGateway
from ...abc import News, Step, Workflows
from .transition import concerned, follow, is_large

BATCH = 100
"""Workflows that are advanced in one transaction."""
MOST_KNOWN = 1_000
"""Workflows of which it is remembered that they are large."""
TRIES = 3
ASIDE = 60.0
"""Seconds for which a workflow is left alone after so many tries in a row that failed by itself."""
RECOVERED = 200
"""Workflows that are looked for at a time."""
SELDOM = 60.0
"""Seconds between looks of those who have declared no workflow and met none."""

logger = logging.getLogger("horsies.workflow")


class Following:
    """Advances workflows in the transaction that writes the ends of their tasks, but for large ones."""

    def __init__(self, advancer: Advancer) -> None:
        self._advancer = advancer
        self._seen: set[str] = set()
        self._steps: list[Step] = []

    def decide(self, all_news: Sequence[News]) -> list[Step]:
        """See `horsies.abc.Decide`."""
        small = [news for news in all_news if not is_large(news)]
        self._seen = {news.row.workflow_id for news in small}
        self._steps = self._advancer.decide(small)
        return self._steps

    def committed(self, workflow_ids: Iterable[str]) -> None:
        """Have advanced what that left: large ones, what others had in hand, and what it has told something."""
        self._advancer.add_nowait(concerned(self._steps) | (set(workflow_ids) - self._seen))


class _Lane:
    """Workflows that wait to be advanced, so many in one transaction."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.waiting: dict[str, None] = {}
        """In the order in which they came, so that one that always has news keeps no other waiting."""
        self.is_busy = False
        self.filled = anyio.Event()
        self.failures: dict[str, int] = {}
        """Of each that was in a batch that failed as a whole: until it succeeds it is advanced by itself."""

    def take(self) -> list[str]:
        """The next batch, which has left the queue."""
        first = next(iter(self.waiting))
        others = (workflow_id for workflow_id in self.waiting if workflow_id not in self.failures)
        batch = [first] if first in self.failures else list(islice(others, self.batch))
        for workflow_id in batch:
            del self.waiting[workflow_id]
        return batch


class Advancer:
    """Advances the workflows of one runtime: small ones many at a time, and large ones beside them, each by itself.

    Neither the results of a worker nor other workflows wait for what follows in a large one.

    Attributes:
        has_met: a workflow was started by this runtime, or something followed from one here.
    """

    def __init__(self, gateway: AppGateway, store: Workflows) -> None:
        self._gateway = gateway
        self._store = store
        self._small = _Lane(BATCH)
        self._large = _Lane(1)
        self._known_large: set[str] = set()
        self._aside: dict[str, float] = {}
        """Until when what could not be advanced by itself is left alone, on the loop's clock."""
        self._poisoned: set[str] = set()
        self._problems: dict[str, str] = {}
        self._look_at = 0.0
        self.has_met = False
        self._emptied = anyio.Event()
        self._emptied.set()

    @property
    def _is_idle(self) -> bool:
        return not (self._problems or any(lane.waiting or lane.is_busy for lane in (self._small, self._large)))

    def add_nowait(self, workflow_ids: Iterable[str]) -> None:
        """Have these advanced soon."""
        now = anyio.current_time()
        for workflow_id in sorted(workflow_ids):
            if self._aside.get(workflow_id, now) <= now:
                lane = self._large if workflow_id in self._known_large else self._small
                lane.waiting[workflow_id] = None
        for lane in (self._small, self._large):
            # What could not be followed up is known by now as well: whoever decides that may be in another thread.
            if lane.waiting or self._problems:
                lane.filled.set()
        if not self._is_idle and self._emptied.is_set():
            self._emptied = anyio.Event()

    async def settle(self) -> None:
        """Wait until everything that was added is advanced."""
        await self._emptied.wait()

    async def recover(self) -> int:
        """Look for workflows with news that nobody has seen to, and advance them. Raises: BrokerError.

        Who has to do with none looks now and then only, for others. The answer is 0: they are not done when it comes,
        and whoever leads need not hurry to look again.
        """
        if not (self.has_met or self._gateway.app.workflows) and anyio.current_time() < self._look_at:
            return 0
        now = anyio.current_time()
        self._aside = {workflow_id: until for workflow_id, until in self._aside.items() if until > now}
        self.add_nowait(await self._store.unadvanced(RECOVERED, skipping=self._poisoned | self._aside.keys()))
        self._look_at = anyio.current_time() + SELDOM
        return 0

    async def run(self) -> None:
        """Advance what was added until cancelled."""
        async with anyio.create_task_group() as group:
            for lane in (self._small, self._large):
                group.start_soon(self._run_lane, lane)

    async def _run_lane(self, lane: _Lane) -> None:
        backoff = self._gateway.contact.backoff()
        while True:
            await lane.filled.wait()
            lane.filled = anyio.Event()
            lane.is_busy = True
            while lane.waiting or self._problems:
                try:
                    await self._run_once(lane)
                    backoff.answered()
                except BrokerError as error:
                    await backoff.failed(error, "cannot advance workflows", logger)
            lane.is_busy = False
            if self._is_idle:
                self._emptied.set()

    async def _run_once(self, lane: _Lane) -> None:
        """Advance one batch. Raises: BrokerError, and what failed is advanced later."""
        batch = lane.take() if lane.waiting else []
        refused: dict[str, BrokerError] = {}
        try:
            failure = await self._advance(lane, batch, refused) if batch else None
        except BrokerError as error:
            for workflow_id in batch:
                lane.failures.setdefault(workflow_id, 0)
            if len(batch) > 1 or not await self._sets_aside(lane, batch[0], error):
                lane.waiting |= dict.fromkeys(batch)
            raise
        for workflow_id in batch:
            lane.failures.pop(workflow_id, None)
        if len(refused) == len(batch) > 1:
            # It is about none of them: a privilege is missing, say, and may be granted again.
            lane.waiting |= dict.fromkeys(batch)
            failure = next(iter(refused.values()))
        else:
            for workflow_id, refusal in refused.items():
                self._leave(workflow_id, refusal.message)
        await self._note_problems()
        if failure is not None:
            raise failure

    async def _sets_aside(self, lane: _Lane, workflow_id: str, error: BrokerError) -> bool:
        """Leave alone for a while what fails by itself again and again; whether that is so.

        A failure counts only if the database can be written to just then: the workflow may take longer than a
        statement may. Otherwise it is the database that was away.
        """
        try:
            await self._store.note_problem(workflow_id, f"it fails, and is tried again: {error.message}")
        except BrokerError:
            lane.failures[workflow_id] = 0
            return False
        lane.failures[workflow_id] += 1
        if lane.failures[workflow_id] < TRIES:
            return False
        del lane.failures[workflow_id]
        self._aside[workflow_id] = anyio.current_time() + ASIDE
        what = "workflow %s is left alone for %g s: %s"
        logger.error(what, workflow_id, ASIDE, error.message, extra={"workflow_id": workflow_id})
        return True

    async def _advance(
        self, lane: _Lane, workflow_ids: list[str], refused: dict[str, BrokerError]
    ) -> BrokerError | None:
        """Advance these; one that the database refuses even alone goes into `refused`.

        A large one among small ones is left for its own lane. One that somebody has locked goes back into the queue,
        and the error is returned, so that others go on.
        """

        async def advance(some: Sequence[str]) -> Sequence[BrokerError]:
            await self._advance_together(lane, some)
            return ()

        async def alone(workflow_id: str, error: BrokerError) -> BrokerError:
            if error.locked:
                lane.waiting[workflow_id] = None
            else:
                refused[workflow_id] = error
            return error

        failures = await isolate(workflow_ids, advance, alone, lambda error: error.locked or not error.retryable)
        return next((error for error in failures if error.locked), None)

    async def _advance_together(self, lane: _Lane, workflow_ids: Sequence[str]) -> None:
        large = set[str]()

        def decide(all_news: Sequence[News]) -> list[Step]:
            large.update(news.row.workflow_id for news in all_news if lane is self._small and is_large(news))
            return self.decide([news for news in all_news if news.row.workflow_id not in large])

        steps = await self._store.advance(workflow_ids, decide)
        if len(self._known_large) > MOST_KNOWN:
            self._known_large.clear()
        self._known_large |= large
        self._known_large.difference_update(step.workflow_id for step in steps if _is_over(step))
        self.add_nowait(concerned(steps) | large)

    def decide(self, all_news: Sequence[News]) -> list[Step]:
        """See `horsies.abc.Decide`; what cannot be followed up has no step."""
        self.has_met = True
        steps = []
        for news in all_news:
            is_news = news.ended or news.signals or news.is_overdue
            if not is_news or news.row.workflow_id in self._poisoned:
                continue
            try:
                steps.append(follow(self._gateway, news))
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


def _is_over(step: Step) -> bool:
    return WorkflowStatus(step.status).is_terminal and not (step.cancel or step.has_more)
