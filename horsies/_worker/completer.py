"""Writes the ends of attempts in batches.

What follows from the ends of nodes of workflows is written in the same transaction, where that can be done at once.

State: a buffer of ends, filled by the running tasks without waiting, emptied by one loop. The slot of a task is free
once its end is in the buffer; `has_room` is what keeps a slow database from filling it without bound: while it is false
nothing is claimed or started. An end leaves the buffer only when the database has answered for it.

A row that somebody else's open transaction has locked holds up nobody else's result: the broker says so soon, the batch
is halved until the locked row stands alone, and its end is set aside and tried again by itself, at growing intervals.

A batch that fails for a reason that should pass, time and again, while the database is there for others, is written end
by end; those that fail again are set aside too. In the end the database is given BROKER_ERROR in place of such a
result. A database that is away, or that takes no result at all, costs none.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from .._core.backoff import pauses
from .._core.codes import TaskErrorCode
from .._core.errors import BrokerError, TaskError
from .._core.limits import STATEMENT_BYTES
from .._core.result import Err
from .._core.status import TaskStatus
from .._declare.context import ContextLogger
from .._payload.stored_result import encode_result
from .._send.contact import REMEDY, Backoff
from ..abc import Completion, Finish, Lease
from .gateway import WorkerGateway

BATCH = 200
BUFFER = 2_000
"""Ends not written yet with which nothing more is begun."""
BUFFER_BYTES = 64 * 1024 * 1024
"""Bytes of results not written yet with which nothing more is begun."""
TRIES = 3
"""Failures of one batch, while the database is there for others, after which its ends are written one by one."""
TRIES_ASIDE = 3
"""Failures of a result that was set aside, while others were written, after which BROKER_ERROR takes its place."""
TRIES_LOST = 10
"""The same where the connection was lost, for which a bad network may be to blame."""
TRIES_OF_A_ROW = 20
"""Further failures before BROKER_ERROR is tried again that was refused as well: then the result is not to blame."""
QUERY_CANCELED = "57014"
READ_ONLY = "25006"
SUSPECTS = 10
"""If so many ends are refused in a row, the database takes none, and the others of the batch stay together."""


@dataclass(slots=True)
class _Aside:
    """An end that waits by itself.

    `tries` have failed that tell of this end: others were written in between, there were none, or it was refused for
    good. `written` is how many the worker had written by the last one.
    """

    end: Finish
    tries: int = 0
    written: int = 0


class Completer:
    """The one writer of a worker's results.

    Args:
        counts: the worker's, for its statistics.
        written: called after each batch that the database has answered for.
        until_idle: the worker is to end by itself, so an end that the database refuses for good ends it.

    Attributes:
        freed: called when there is room again.
    """

    def __init__(
        self,
        gateway: WorkerGateway,
        completion: Completion,
        counts: Counter[str],
        log: ContextLogger,
        written: Callable[[], None],
        *,
        until_idle: bool = False,
    ) -> None:
        self._gateway = gateway
        self._completion = completion
        self._resilience = gateway.app.config.resilience
        self._environment = gateway.environment
        self.freed: Callable[[], None] = lambda: None
        self._buffer: list[Finish] = []
        self._unwritten = 0
        self._unwritten_bytes = 0
        self._may_not_have_started: set[Lease] = set()
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._is_hurried = False
        self._counts = counts
        self._log = log
        self._written = written
        self._written_count = 0
        self._until_idle = until_idle
        self._contact = gateway.contact
        self._pausing: anyio.CancelScope | None = None
        self._aside: deque[_Aside] = deque()
        self._aside_until = math.inf
        self._waits = pauses(self._resilience, self._environment.random)

    @property
    def leases(self) -> list[Lease]:
        """Of all ends that the database has not answered for."""
        return [end.lease for end in (*self._buffer, *(aside.end for aside in self._aside))]

    @property
    def has_room(self) -> bool:
        return self._unwritten < BUFFER and self._unwritten_bytes < BUFFER_BYTES

    def add_nowait(self, end: Finish, *, has_started: bool = True) -> None:
        """Have `end` written. Unless its attempt is known to have started, there may turn out to be none to end."""
        if not has_started:
            self._may_not_have_started.add(end.lease)
        self._buffer.append(end)
        self._unwritten += 1
        self._unwritten_bytes += len(end.result)
        self._filled.set()

    async def wait_written(self, *, hurry: bool = False) -> None:
        """Wait until everything added so far, and meanwhile, is written.

        With `hurry` a database that was away is tried again at once, then every `retry_initial`: there is no time for
        longer pauses.
        """
        if hurry:
            self._is_hurried = True
            if self._pausing is not None:
                self._pausing.cancel()
            self._aside_until = anyio.current_time()
            self._filled.set()
        while self._buffer or self._aside:
            self._emptied = anyio.Event()
            await self._emptied.wait()

    async def run(self) -> None:
        while True:
            with anyio.CancelScope(deadline=self._aside_until):
                await self._filled.wait()
            self._filled = anyio.Event()
            while self._buffer:
                await self.run_once()
                await self._try_aside()
            await self._try_aside()
            if not self._aside:
                self._emptied.set()

    async def run_once(self) -> int:
        """Write one batch from the buffer; how many ends left it."""
        batch = self._next_batch()
        await self._write(batch)
        del self._buffer[: len(batch)]
        return len(batch)

    def _next_batch(self) -> list[Finish]:
        """As many ends as fit one statement; one that is larger stands alone."""
        batch, size = self._buffer[:BATCH], 0
        for place, end in enumerate(batch):
            size += len(end.result)
            if place and size > STATEMENT_BYTES:
                return batch[:place]
        return batch

    async def _write(self, batch: Sequence[Finish]) -> None:
        """Write a batch, or set aside what cannot be written."""
        await self._settle(batch)

    async def _settle(self, batch: Sequence[Finish], *, tries: int = TRIES, aside: _Aside | None = None) -> None:
        """As `_write`.

        Args:
            tries: failures after which the batch is to blame, or the end that it consists of.
            aside: what that end was set aside as.
        """
        backoff = self._contact.backoff()
        workflow_ids = {end.workflow_id for end in batch if end.workflow_id is not None}
        following = self._gateway.following() if workflow_ids else None
        failures, answers = 0, self._contact.answers
        while True:
            began = anyio.current_time()
            try:
                if following is None:
                    written = await self._completion.finish(batch)
                else:
                    written = await self._completion.finish(batch, decide=following.decide)
            except BrokerError as error:
                passes = error.retryable and not error.locked
                if passes:
                    # The database is there: it has answered others meanwhile, or says that this takes too long.
                    takes_too_long = error.code == QUERY_CANCELED and not error.lost
                    failures += takes_too_long or self._contact.answers > answers
                    answers = self._contact.answers
                    if failures < tries:
                        self._log.warning("cannot write %d results, trying again: %s", len(batch), error.message)
                        following = None  # no end waits for what follows, which may take too long for one statement
                        await self._pause(backoff, error)
                        continue
                if following is not None:
                    following, failures = None, 0  # it may be what follows that is refused, and no end waits for that
                    continue
                if len(batch) == 1:
                    await self._set_aside(aside or _Aside(batch[0]), error, lasted=anyio.current_time() - began)
                elif passes:
                    await self._part(batch)
                else:
                    await self._halve(batch)
                return
            backoff.answered()
            if following is not None:
                following.committed(workflow_ids)
            elif workflow_ids:
                self._gateway.nodes_ended(workflow_ids)
            self._note_written(batch, written)
            return

    def _note_written(self, batch: Sequence[Finish], written: Sequence[bool]) -> None:
        was_full = not self.has_room
        self._written_count += len(batch)
        self._unwritten -= len(batch)
        self._unwritten_bytes -= sum(len(end.result) for end in batch)
        if was_full and self.has_room:
            self.freed()
        self._written()
        for end, was_written in zip(batch, written, strict=True):
            if not was_written and end.lease not in self._may_not_have_started:
                self._counts["lost"] += 1
                self._log.warning(
                    "the result of task %s was not written: another worker owns it by now, or a try whose answer "
                    "was lost wrote it",
                    end.lease.task_id,
                    extra={"task_id": end.lease.task_id},
                )

    async def _part(self, batch: Sequence[Finish]) -> None:
        """Write the ends of a batch that keeps failing one by one."""
        before = self._written_count
        for done, end in enumerate(batch):
            if done == SUSPECTS and self._written_count == before:
                await self._settle(batch[done:])
                return
            await self._settle([end], tries=1)

    async def _halve(self, batch: Sequence[Finish]) -> None:
        """Halve a batch that the database refuses until the guilty end stands alone; only that one fails or waits."""
        middle = len(batch) // 2
        await self._settle(batch[:middle])
        await self._settle(batch[middle:])

    async def _try_aside(self) -> None:
        """Write what was set aside, if it is time, until one is found that must still wait: each costs time."""
        if anyio.current_time() < self._aside_until:
            return
        self._aside_until = math.inf
        for _ in range(len(self._aside)):
            await self._settle([self._aside[0].end], tries=1, aside=self._aside[0])
            self._aside.popleft()  # the database has answered; one that must still wait stands at the end again
            if self._aside_until < math.inf:
                return
        self._waits = pauses(self._resilience, self._environment.random)

    async def _pause(self, backoff: Backoff, error: BrokerError) -> None:
        if self._is_hurried:
            await anyio.sleep(min(backoff.next_pause(), self._resilience.retry_initial))
            return
        with anyio.CancelScope() as self._pausing:
            await backoff.pause(backoff.next_pause(), error)
        self._pausing = None

    async def _set_aside(self, aside: _Aside, error: BrokerError, *, lasted: float) -> None:
        """Have an end wait that the database has refused when it stood alone, or write BROKER_ERROR in its place.

        Args:
            lasted: seconds that the last try took.
        """
        end, task_id = aside.end, aside.end.lease.task_id
        others_wait = len(self._aside) + len(self._buffer) > 1
        if self._written_count > aside.written or not (others_wait and error.retryable):
            aside.tries += 1
        aside.written = self._written_count
        if aside.tries > _patience(error):
            if await self._replace(aside, error):
                return
            aside.tries = -TRIES_OF_A_ROW
        pause = self._resilience.retry_initial
        if not self._is_hurried:
            # The others have as much time as this one has taken from them.
            pause = max(next(self._waits), min(lasted, self._resilience.retry_max))
        self._aside.append(aside)
        self._aside_until = anyio.current_time() + pause
        why = "waits for a transaction that has locked its row" if error.locked else "cannot be written"
        self._log.warning(
            "the result of task %s %s (%d bytes): %s; trying again in %.1f s, while others are written",
            *(task_id, why, len(end.result), error.message, pause),
            extra={"task_id": task_id},
        )

    async def _replace(self, aside: _Aside, error: BrokerError) -> bool:
        """Write BROKER_ERROR in place of a result; whether the database took it.

        Raises:
            BrokerError: `until_idle`, and the database refuses that for good, too.
        """
        end, task_id = aside.end, aside.end.lease.task_id
        tried = "" if not error.retryable else f", {aside.tries} times while it took others"
        message = (
            f"the result could not be stored: the database refused it{tried}; it has {len(end.result)} bytes; "
            f"{error.message}"
        )
        code = TaskErrorCode.BROKER_ERROR
        data = encode_result(Err(TaskError(code, message)), None, "", None)
        substitute = Finish(end.lease, TaskStatus.FAILED, data, code, workflow_id=end.workflow_id)
        try:
            written = await self._completion.finish([substitute])
        except BrokerError as refusal:
            if self._until_idle and not refusal.retryable:
                raise
            if not refusal.retryable:
                self._log.error(
                    "the database refuses the result of task %s, and BROKER_ERROR in its place: %s; %s",
                    *(task_id, refusal.message, REMEDY),
                    extra={"task_id": task_id},
                )
            return False
        self._contact.answered()
        self._log.error("task %s: %s", task_id, message, extra={"task_id": task_id})
        if end.workflow_id is not None:
            self._gateway.nodes_ended({end.workflow_id})
        self._note_written([end], written)
        return True


def _patience(error: BrokerError) -> float:
    """How many failures like this one an end may have that stands alone."""
    # A server that only reads refuses every result, and the next connection may lead to one that writes.
    if error.locked or error.code == READ_ONLY:
        return math.inf
    if not error.retryable:
        return 0
    return TRIES_LOST if error.lost else TRIES_ASIDE
