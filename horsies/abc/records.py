"""The rows that pass between a broker and the rest of horsies. Instants are aware UTC; durations are seconds.

What is made once or more for every task is a `msgspec.Struct`, which costs a fifth of a frozen dataclass to make and
half to hash; `msgspec.structs.replace` copies one with changes. None can be part of a reference cycle, so the garbage
collector need not follow them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import msgspec

from .._core.status import TaskStatus


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Where the schema of a database stands.

    `version` is that of the newest migration applied (0: there is no schema), `newest` the newest that this code knows,
    and `readable_from` the oldest version whose code can use the schema. `missing` names the migrations that are still
    to be applied. `problems` are sentences about what was applied and needs a person: each says what to do.
    """

    version: int
    newest: int
    readable_from: int
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether this code can use the schema as it is."""
        return self.version >= self.newest and (self.version == self.newest or self.readable_from <= self.newest)


class NewTask(msgspec.Struct, frozen=True, gc=False):
    """A task to insert. Every field but `due_in` and `workflow_id` is derived from `envelope`, whose SHA-256 is `sha`.

    `due_in` is how long from the database's clock at the insert the task falls due; 0 or less: at once. Of all tasks of
    one name that have not ended, at most one has a given `unique_key`. The end of a task that has a `workflow_id`
    leaves a mark, in the same transaction (see `horsies.abc.workflows`).
    """

    task_id: str
    sha: bytes
    envelope: bytes
    task_name: str
    queue: str
    priority: int
    sent_at: datetime
    due_in: float
    good_until: datetime | None
    unique_key: str | None = None
    workflow_id: str | None = None


class EnqueueOutcome(StrEnum):
    """What became of one `NewTask`."""

    INSERTED = "INSERTED"
    REPLAYED = "REPLAYED"
    """The id is there already with the same SHA, in whatever state; nothing was written."""
    MISMATCH = "MISMATCH"
    """The id is there already with another SHA; nothing was written."""
    DEDUPLICATED = "DEDUPLICATED"
    """Another task of that name, not ended, has the unique key; nothing was written."""


class Enqueued(msgspec.Struct, frozen=True, gc=False):
    """The answer for one `NewTask`. `task_id` is its own, or for DEDUPLICATED that of the task which has the key."""

    outcome: EnqueueOutcome
    task_id: str


class Lease(msgspec.Struct, frozen=True, gc=False):
    """One claim of one task. The claim number fences every write: it grows with each claim and never resets."""

    task_id: str
    claim_number: int


class Held(msgspec.Struct, frozen=True, gc=False):
    """A task that a worker holds, CLAIMED or RUNNING. `is_cancelled`: its cancellation was requested."""

    lease: Lease
    is_cancelled: bool = False


class ClaimedTask(msgspec.Struct, frozen=True, gc=False):
    """A task now CLAIMED by the consumer that asked, or RUNNING where `is_running`."""

    lease: Lease
    envelope: bytes
    sha: bytes
    task_name: str
    queue: str
    priority: int
    attempt: int
    """How often user code has started before."""
    retries: int
    """How many retries have been used."""
    good_until: datetime | None
    unknown_for: float = 0.0
    """Seconds since a worker first gave the task back as unknown; 0.0: none has since the task last started."""
    is_running: bool = False
    """The claim has started it too: user code is to begin now."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought.

    `expired` counts the tasks past `good_until` that the claim met and moved to EXPIRED. Neither a short nor an empty
    list of tasks means that the queue is empty: rows locked by others are passed over (see `Consumer.has_due`).
    `claimed_at` is the instant of the claim as it stands in the rows, by the database's clock; None: it took nothing.
    """

    tasks: tuple[ClaimedTask, ...]
    expired: int
    claimed_at: datetime | None = None


class Start(msgspec.Struct, frozen=True, gc=False):
    """A task to start, and what becomes of it if the worker dies while it runs.

    `retry_after_crash` is in how many seconds it is tried again, counted as a retry; None: it ends FAILED.
    """

    lease: Lease
    retry_after_crash: float | None = None


class StartOutcome(StrEnum):
    """What became of one start."""

    STARTED = "STARTED"
    EXPIRED = "EXPIRED"
    """`good_until` has passed: the task is EXPIRED and user code must not run."""
    LOST = "LOST"
    """The claim is no longer this consumer's: user code must not run."""
    LOCKED = "LOCKED"
    """Somebody's open transaction has locked the row, and nothing was written: try again later."""


class Verb(StrEnum):
    """What a `Finish` asks for."""

    COMPLETE = "COMPLETE"
    """COMPLETED, with its result."""
    RETRY = "RETRY"
    """PENDING again after `retry_in`, and a retry is counted."""
    INTERRUPT = "INTERRUPT"
    """PENDING again at once, and no retry is counted."""
    FAIL = "FAIL"
    """FAILED."""
    REFUSE = "REFUSE"
    """FAILED before its user code began: no attempt is counted."""


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The end of one attempt.

    `status` is COMPLETED, FAILED or PENDING. PENDING asks for a retry `retry_in` seconds from now; where that would
    be at or after `good_until` the task becomes FAILED instead, so `result` is the failure in every case.
    With `interrupted` the attempt ended because the worker stopped: no retry is counted. FAILED without `has_begun` is
    the end of a task whose user code never began: no attempt is counted.
    """

    lease: Lease
    status: TaskStatus
    result: bytes
    error_code: str | None
    retry_in: float = 0.0
    interrupted: bool = False
    has_begun: bool = True
    workflow_id: str | None = None
    """Of the workflow that the task is a node of. For the worker: a broker knows it from the task."""

    @property
    def verb(self) -> Verb:
        """The same in a word."""
        if self.status is TaskStatus.COMPLETED:
            return Verb.COMPLETE
        if self.status is TaskStatus.PENDING:
            return Verb.INTERRUPT if self.interrupted else Verb.RETRY
        return Verb.FAIL if self.has_begun else Verb.REFUSE


class GiveBack(msgspec.Struct, frozen=True, gc=False):
    """A task CLAIMED and not started, to be PENDING again after `delay` seconds.

    `unknown`: the worker does not know the task, or something that the task needs. The first such instant is kept until
    the task starts (see `ClaimedTask.unknown_for`).
    `is_running`: the claim has started the task too, and user code did not begin. The attempt is not counted, and a
    task that was asked to be cancelled meanwhile becomes CANCELLED, its waiters notified.
    """

    lease: Lease
    delay: float = 0.0
    unknown: bool = False
    is_running: bool = False


@dataclass(frozen=True, slots=True)
class Promotion:
    """How many delayed tasks became ready, and in how many seconds the next one is due (None: there is none)."""

    promoted: int
    next_due_in: float | None


@dataclass(frozen=True, slots=True)
class QueueRow:
    """What stands in one queue: how many tasks, by what they wait for, and when the first of those ready was due.

    `ready` ones can be claimed, unless the queue is paused (since `paused_at`) or has reached its cap.
    """

    name: str
    paused_at: datetime | None
    ready: int
    delayed: int
    claimed: int
    running: int
    oldest_due_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredResult:
    """Where a task stands. `result` is what `Finish.result` was; None where `error_code` says all there is."""

    task_id: str
    task_name: str
    status: TaskStatus
    error_code: str | None
    result: bytes | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt that ended and was followed by another."""

    attempt: int
    worker_id: str
    started_at: datetime
    finished_at: datetime
    error_code: str | None
    result: bytes | None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """Everything stored of one task."""

    task_id: str
    task_name: str
    queue: str
    priority: int
    status: TaskStatus
    attempt: int
    retries: int
    sent_at: datetime
    due_at: datetime
    claimed_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    good_until: datetime | None
    worker_id: str | None
    error_code: str | None
    envelope: bytes
    result: bytes | None
    cancel_requested: bool
    attempts: tuple[AttemptRow, ...]
