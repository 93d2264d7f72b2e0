"""What a send needs of the task and of the runtime, so that this layer need know neither."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, ParamSpec, Protocol, TypeVar

from .._core.config import AppConfig, QueueConfig
from .._payload.ids import new_task_id
from .._payload.signature import Signature
from ..abc import (
    BrokerError,
    CancelOutcome,
    Clock,
    Enqueued,
    NewTask,
    Serializer,
    StoredResult,
    SupportsDelay,
    TaskRow,
)
from .contact import Contact
from .options import TaskSettings

P = ParamSpec("P")
T_co = TypeVar("T_co", covariant=True)


class _NoConnection:
    """See `joined`."""


NO_CONNECTION = _NoConnection()
NOTHING_TO_JOIN = (
    "using() got None in place of a connection with an open transaction: Django has one after its first query, in "
    "connection.connection, and SQLAlchemy while the session is at work"
)


def joined(connection: object | None) -> object:
    """What `using` keeps of its argument. None would mean that there was no `using`, and the send would commit."""
    return NO_CONNECTION if connection is None else connection


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Environment:
    """What differs from run to run enters here and nowhere else, so that a simulation can replace it."""

    clock: Clock = utc_now
    """Function that returns the current instant, aware UTC. Default: the system's clock."""
    new_id: Callable[[], str] = new_task_id
    """Function that returns a new task id: a UUID in lower case that grows with time. Default: version 7."""
    random: Random = field(default_factory=Random)
    """Source of chance, for example for jitter. Default: one of its own, seeded by the system."""
    inline: bool = False
    """Run sync tasks in the thread of the event loop. For simulations."""
    host: str = field(default_factory=lambda: platform.node() or "worker")
    """Name of the machine, for the ids of workers. Default: the system's network name."""
    pid: int = field(default_factory=os.getpid)
    """Id of the process, for the ids of workers. Default: this process."""


class DeclaredTask(Protocol[P, T_co]):
    """A declared task, as a send sees it."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> TaskSettings: ...

    @property
    def signature(self) -> Signature: ...

    def _takes(self, /, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """What the types of a send are known by. There is no such method."""
        ...


class Application(Protocol):
    """The application of a runtime, as a send sees it."""

    @property
    def config(self) -> AppConfig: ...

    @property
    def queues(self) -> Mapping[str, QueueConfig]: ...

    @property
    def tasks(self) -> Mapping[str, DeclaredTask[..., Any]]: ...

    def queue_of(self, task: DeclaredTask[..., Any] | None) -> str: ...


class Gateway(Protocol):
    """An open runtime, as tasks and handles see it. Its methods raise `BrokerError`."""

    @property
    def app(self) -> Application: ...

    @property
    def environment(self) -> Environment: ...

    @property
    def contact(self) -> Contact: ...

    @property
    def serializers(self) -> Mapping[str, Serializer]: ...

    @property
    def retry_policies(self) -> Mapping[str, SupportsDelay]: ...

    def refuse_in_fork(self) -> None:
        """Raises: HorsiesError, HRS-211, in a fork of the process that opened the runtime."""
        ...

    async def submit(
        self, tasks: Sequence[NewTask], *, replay: bool, connection: object | None
    ) -> list[Enqueued | BrokerError]:
        """Have `tasks`, `SEND_ROWS` at most, written by the batcher or through the caller's `connection`.

        One answer for each. A cancelled call withdraws what is still queued.

        Raises:
            ValueError: `connection` cannot be used, and why. `NO_CONNECTION` never can.
        """
        ...

    async def wait_finished(self, task_id: str, timeout: float | None = None) -> StoredResult | None:
        """Wait until the task is terminal; None when there is no such task.

        Raises:
            TimeoutError: after `timeout` seconds, and not before the database has been asked once.
        """
        ...

    async def read(self, task_id: str) -> TaskRow | None: ...

    async def cancel(self, task_id: str) -> CancelOutcome: ...
