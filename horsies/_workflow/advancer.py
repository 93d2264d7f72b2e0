"""What follows when tasks of workflows have ended.

Each end leaves a mark with its task, by whichever statement it was written. Whoever wrote it says so here; the leader
looks for marks that nobody has seen to. One transaction takes the marks of a workflow, under a lock on its row, asks
the engine what follows, and writes that: so every end counts once, and what follows from it happens once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache

import anyio
import msgspec

from .._core.backoff import pauses
from .._core.errors import BrokerError
from .._core.status import TaskStatus
from .._payload.ids import node_of, node_task_id
from .._task.host import Host
from ..abc import EndedTask, News, Step, WorkflowRow, Workflows
from .engine import CancelTask, Ended, Enqueue, Event, NodeEnded, advance
from .nodes import task_of
from .plan import Plan, PlanNode, State
from .spec import Spec, decode

BATCH = 100
"""Workflows that are advanced in one transaction."""
RECOVERED = 200
"""Workflows that are looked for at a time."""

logger = logging.getLogger("horsies.workflow")

_states = msgspec.msgpack.Decoder(State)
encode_state = msgspec.msgpack.Encoder().encode


def plan_of(spec: Spec) -> Plan:
    """What the engine needs to know of a workflow."""
    nodes = [PlanNode(node.needs, node.join, node.allow_failed_deps, node.cancel_losers) for node in spec.nodes]
    return Plan(tuple(nodes), spec.on_error, spec.success, frozenset(spec.optional), spec.output)


@lru_cache(maxsize=256)
def read_spec(data: bytes) -> tuple[Spec, Plan]:
    """A stored spec, and its plan. Raises: ValueError."""
    spec = decode(data)
    return spec, plan_of(spec)


def read_state(data: bytes) -> State:
    """A stored state. Raises: ValueError."""
    try:
        return _states.decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError("the state of the workflow cannot be read") from error


def follow(host: Host, row: WorkflowRow, events: Sequence[Event]) -> Step:
    """What is to be written for a workflow to which these events have happened.

    Raises:
        ValueError: it cannot be read, or a task of it cannot be made.
    """
    spec, plan = read_spec(row.spec)
    state, commands = advance(plan, read_state(row.state), events)
    enqueued = [one.index for one in commands if isinstance(one, Enqueue)]
    cancelled = [node_task_id(row.workflow_id, one.index, one.run) for one in commands if isinstance(one, CancelTask)]
    failed = next((one.failed for one in commands if isinstance(one, Ended)), None)
    return Step(
        row.workflow_id,
        state=encode_state(state),
        status=state.status,
        error_code=None if failed is None else state.codes.get(failed),
        tasks=tuple(task_of(host, spec, row.workflow_id, index, state.runs) for index in enqueued),
        cancel=tuple(cancelled),
    )


def ends(tasks: Iterable[EndedTask]) -> list[Event]:
    """What the engine is told of tasks that have ended."""
    events: list[Event] = []
    for task in tasks:
        index, run = node_of(task.task_id)
        events.append(NodeEnded(index, run, task.status is TaskStatus.COMPLETED, task.error_code or task.status))
    return events


def with_cancelled(steps: Iterable[Step]) -> list[str]:
    """The workflows of which tasks were cancelled: what had not started has ended, and is to be followed up."""
    return [step.workflow_id for step in steps if step.cancel]


class Advancer:
    """Advances the workflows of one runtime."""

    def __init__(self, host: Host, store: Workflows) -> None:
        self._host = host
        self._store = store
        self._waiting: set[str] = set()
        self._poisoned: set[str] = set()
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._emptied.set()

    def add_nowait(self, workflow_ids: Iterable[str]) -> None:
        """Have these advanced soon."""
        self._waiting.update(workflow_ids)
        if self._waiting:
            self._filled.set()
            if self._emptied.is_set():
                self._emptied = anyio.Event()

    async def settle(self) -> None:
        """Wait until everything that was added is advanced."""
        await self._emptied.wait()

    async def recover(self) -> int:
        """Look for workflows with ends that nobody has seen to, and advance them. Raises: BrokerError.

        The answer is 0: they are not done when it comes, and whoever leads need not hurry to look again.
        """
        self.add_nowait(await self._store.unadvanced(RECOVERED, skipping=self._poisoned))
        return 0

    async def run(self) -> None:
        """Advance what was added until cancelled."""
        waits = pauses(self._host.app.config.resilience, self._host.environment.random)
        while True:
            await self._filled.wait()
            self._filled = anyio.Event()
            while self._waiting:
                try:
                    await self.run_once()
                    waits = pauses(self._host.app.config.resilience, self._host.environment.random)
                except BrokerError as error:
                    logger.warning("cannot advance workflows: %s", error.message)
                    await anyio.sleep(next(waits))
            self._emptied.set()

    async def run_once(self) -> int:
        """Advance one batch; how many workflows left the queue. Raises: BrokerError, and what failed stays in it."""
        batch = sorted(self._waiting)[:BATCH]
        self._waiting.difference_update(batch)
        try:
            failure = await self._advance(batch)
        except BrokerError:
            self._waiting.update(batch)
            raise
        if failure is not None:
            raise failure
        return len(batch)

    async def _advance(self, workflow_ids: list[str]) -> BrokerError | None:
        """Advance these; halve what the database refuses until the guilty one stands alone, which is left as it is.

        One that somebody has locked goes back into the queue, and the error is returned, so that others go on.
        """
        try:
            self.add_nowait(with_cancelled(await self._store.advance(workflow_ids, self._decide)))
        except BrokerError as error:
            if error.retryable and not error.locked:
                raise
            if len(workflow_ids) > 1:
                middle = len(workflow_ids) // 2
                first = await self._advance(workflow_ids[:middle])
                return await self._advance(workflow_ids[middle:]) or first
            if error.locked:
                self._waiting.update(workflow_ids)
                return error
            self._leave(workflow_ids[0], error.message)
        return None

    def _decide(self, rows: Sequence[News]) -> list[Step]:
        steps = []
        for news in rows:
            row, tasks = news.row, news.ended
            if not tasks:
                continue
            try:
                steps.append(follow(self._host, row, ends(tasks)))
            except Exception as error:  # what cannot be followed must not hold up the others
                self._leave(row.workflow_id, f"{type(error).__name__}: {error}")
        return steps

    def _leave(self, workflow_id: str, why: str) -> None:
        self._poisoned.add(workflow_id)
        logger.error("workflow %s is left as it is: %s", workflow_id, why, extra={"workflow_id": workflow_id})
