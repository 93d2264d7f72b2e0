"""All waiting for ends in one place: one subscription and one batched query for any number of waiters.

The subscription exists only while somebody waits, and for a while after, since the next one mostly comes soon. A waiter
is looked up when it comes, when a notice names its task, when the subscription was (re-)established, and every
`poll_interval`, because notices are hints.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from .._core.config import ResilienceConfig
from .._core.errors import BrokerError
from .._core.status import WorkflowStatus
from ..abc import Broker, StoredResult, Topic, WorkflowRow, Workflows
from .contact import Contact

T = TypeVar("T")
Lookup: TypeAlias = Callable[[Sequence[str]], Awaitable[Mapping[str, T | None]]]
"""Answers for those of these ids that need not be waited for any more: None where there is no such thing."""

logger = logging.getLogger("horsies.wait")

LOOKUP = 1_000
LINGER = 10.0
"""Seconds for which the subscription outlives the last waiter: making it anew takes longer than a quick task."""


class _Waiter(Generic[T]):
    __slots__ = ("answer", "answered", "is_looked_up", "looked_up")

    def __init__(self) -> None:
        self.answered = anyio.Event()
        self.answer: T | BrokerError | None = None
        self.is_looked_up = False
        self.looked_up: anyio.Event | None = None
        """Set with `is_looked_up`; it is made only for a waiter whose time is up before that."""

    def look_up(self) -> None:
        """The database was asked after this waiter came."""
        self.is_looked_up = True
        if self.looked_up is not None:
            self.looked_up.set()

    def settle(self, answer: T | BrokerError | None) -> None:
        self.answer = answer
        self.answered.set()
        self.look_up()


async def ended_tasks(broker: Broker, task_ids: Sequence[str]) -> dict[str, StoredResult | None]:
    """The `Lookup` of tasks."""
    found = {stored.task_id: stored for stored in await broker.reader.results(task_ids)}
    answers = {task_id: found.get(task_id) for task_id in task_ids}
    return {task_id: stored for task_id, stored in answers.items() if stored is None or stored.status.is_terminal}


async def resting_workflows(store: Workflows, workflow_ids: Sequence[str]) -> dict[str, WorkflowRow | None]:
    """The `Lookup` of workflows: what is paused is not waited for either."""
    answers = {workflow_id: await store.read(workflow_id) for workflow_id in workflow_ids}
    return {
        workflow_id: row for workflow_id, row in answers.items() if row is None or row.status != WorkflowStatus.RUNNING
    }


class Waiters(Generic[T]):
    """Everybody in this runtime who waits for ends of one kind."""

    def __init__(self, broker: Broker, lookup: Lookup[T], resilience: ResilienceConfig, contact: Contact) -> None:
        self._broker = broker
        self._lookup = lookup
        self._resilience = resilience
        self._contact = contact
        self._waiting: dict[str, list[_Waiter[T]]] = {}
        self._unchecked: set[str] = set()
        self._changed = anyio.Event()
        self._closed = False

    async def wait_finished(self, task_id: str, timeout: float | None = None) -> T | None:
        """Wait for the end of the one with this id; None when there is none.

        Raises:
            BrokerError: the database could not be asked, for a reason that does not pass by itself.
            TimeoutError: there is no end after `timeout` seconds, nor when the database was first asked.
        """
        if self._closed:
            await anyio.lowlevel.checkpoint()
            raise BrokerError("the runtime is closed", retryable=True)
        waiter: _Waiter[T] = _Waiter()
        self._waiting.setdefault(task_id, []).append(waiter)
        self._unchecked.add(task_id)
        self._changed.set()
        try:
            with anyio.move_on_after(timeout):
                await waiter.answered.wait()
            if not waiter.answered.is_set():
                await self._wait_looked_up(waiter)
        finally:
            self._forget(task_id, waiter)
        if isinstance(waiter.answer, BrokerError):
            # Who is cancelled along with the runtime hears of that alone.
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise waiter.answer
        return waiter.answer

    async def _wait_looked_up(self, waiter: _Waiter[T]) -> None:
        if not waiter.is_looked_up:
            waiter.looked_up = anyio.Event()
            await waiter.looked_up.wait()
        if not waiter.answered.is_set():
            raise TimeoutError

    def _forget(self, task_id: str, waiter: _Waiter[T]) -> None:
        others = self._waiting.get(task_id)
        if others is not None and waiter in others:
            others.remove(waiter)
            if not others:
                del self._waiting[task_id]
                self._unchecked.discard(task_id)
                self._changed.set()

    async def run(self) -> None:
        try:
            while True:
                await self._wait_for_waiters(None)
                async with anyio.create_task_group() as group:
                    group.start_soon(self._listen)
                    while await self._wait_for_waiters(LINGER):
                        await self._answer_all()
                    group.cancel_scope.cancel()
        finally:
            self._closed = True
            self._fail(list(self._waiting), BrokerError("the runtime is closed", retryable=True))

    async def _wait_for_waiters(self, timeout: float | None) -> bool:
        """Wait until somebody waits, for `timeout` seconds at most; whether somebody does."""
        with anyio.move_on_after(timeout):
            while not self._waiting:
                await self._wait_changed(None)
        return bool(self._waiting)

    async def _answer_all(self) -> None:
        """Answer waiters until there are none."""
        backoff = self._contact.backoff()
        while self._waiting:
            asked, self._unchecked = self._unchecked, set()
            new = [one for task_id in asked for one in self._waiting.get(task_id, ()) if not one.is_looked_up]
            try:
                await self.run_once(asked)
            except BrokerError as error:
                if not error.retryable:
                    self._fail(asked, error)
                    continue
                self._unchecked |= asked & self._waiting.keys()
                await backoff.failed(error, "cannot look up results", logger)
                continue
            backoff.answered()
            for waiter in new:
                waiter.look_up()
            if not self._waiting or self._unchecked:
                continue
            if not await self._wait_changed(self._resilience.poll_interval):
                self._unchecked |= self._waiting.keys()

    async def run_once(self, task_ids: Iterable[str]) -> int:
        """Look `task_ids` up and answer those who wait for the ones that have ended, or are not there."""
        answered = 0
        ids = sorted(task_id for task_id in task_ids if task_id in self._waiting)
        for start in range(0, len(ids), LOOKUP):
            part = ids[start : start + LOOKUP]
            for task_id, answer in (await self._lookup(part)).items():
                answered += self._settle(task_id, answer)
        return answered

    def _settle(self, task_id: str, answer: T | BrokerError | None) -> int:
        waiters = self._waiting.pop(task_id, [])
        for waiter in waiters:
            waiter.settle(answer)
        return len(waiters)

    def _fail(self, task_ids: Iterable[str], error: BrokerError) -> None:
        for task_id in task_ids:
            self._settle(task_id, error)

    async def _wait_changed(self, timeout: float | None) -> bool:
        with anyio.move_on_after(timeout):
            await self._changed.wait()
        changed = self._changed.is_set()
        self._changed = anyio.Event()
        return changed

    async def _listen(self) -> None:
        backoff = self._contact.backoff()
        while True:
            try:
                async with self._broker.listen(Topic.FINISHED) as listener:
                    backoff.answered()
                    names = [""]
                    while True:
                        hit = self._waiting.keys() if "" in names else self._waiting.keys() & set(names)
                        if hit:
                            self._unchecked |= hit
                            self._changed.set()
                        names = await listener.receive()
            except BrokerError as error:
                await backoff.failed(error, "no notifications of finished tasks", logger)
