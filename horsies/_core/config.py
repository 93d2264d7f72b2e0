"""What an application and a worker are configured with.

Frozen, keyword-only, checked at construction with all problems at once. Seconds are floats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Any

from .errors import HorsiesError, raise_all
from .instants import LONGEST, LONGEST_SECONDS, is_seconds
from .names import PRIORITY_DEFAULT, is_name, is_priority, is_unicode
from .urls import masked, scheme_of

LONGEST_TIMEOUT = 2_000_000
"""Seconds, 23 days: Postgres and the system count such timeouts as milliseconds of 32 bits."""
_SCHEMA = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,47}\Z")


def _positive(
    place: str, code: str, owner: object, *names: str, most: float = LONGEST_SECONDS
) -> Iterator[HorsiesError]:
    for name in names:
        if not is_seconds(getattr(owner, name), most=most):
            remedy = f"give seconds above 0, and at most {most:,.0f}"
            yield HorsiesError(code, f"{place}.{name} is not a positive number of seconds in range", [remedy])


def _counts(place: str, code: str, owner: object, *names: str, least: int = 1) -> Iterator[HorsiesError]:
    for name in names:
        value = getattr(owner, name)
        if value is not None and (type(value) is not int or value < least):
            yield HorsiesError(code, f"{place}.{name} is not a whole number of at least {least}", [f"it is {value!r}"])


@dataclass(frozen=True)
class QueueConfig:
    """A queue of an application.

    Raises:
        HorsiesError: HRS-200, with every problem found.
    """

    name: str
    """Name of the queue: 1 to 255 bytes without NUL."""
    _: KW_ONLY
    priority: int = PRIORITY_DEFAULT
    """1 (claimed first) to 100 (last), compared with the other queues of a worker."""
    max_concurrency: int | None = None
    """Maximum number of its tasks that are claimed or running in the whole cluster; None: no limit."""

    def __post_init__(self) -> None:
        problems = list(_counts(f"queue {self.name!r}", "HRS-200", self, "max_concurrency"))
        if not is_name(self.name):
            problems.append(HorsiesError("HRS-200", "a queue's name is 1..255 bytes without NUL"))
        if not is_priority(self.priority):
            problems.append(HorsiesError("HRS-200", f"queue {self.name!r}: priority {self.priority!r} is not 1..100"))
        raise_all(problems)


@dataclass(frozen=True, kw_only=True)
class PayloadPolicy:
    """Limits on the size of one encoded send.

    Raises:
        HorsiesError: HRS-214, with every problem found.
    """

    warn_bytes: int | None = 1024 * 1024
    """Bytes above which a send logs a warning; None: never."""
    reject_bytes: int | None = None
    """Bytes above which a send is VALIDATION_FAILED; None: never."""

    def __post_init__(self) -> None:
        raise_all(list(_counts("payload", "HRS-214", self, "warn_bytes", "reject_bytes")))


@dataclass(frozen=True, kw_only=True)
class RecoveryConfig:
    """How soon the death of a worker is noticed, and what follows. All values are seconds above 0.

    Raises:
        HorsiesError: HRS-204, with every problem found.
    """

    heartbeat_interval: float = 5.0
    """Seconds between two heartbeats of a worker."""
    dead_after: float = 20.0
    """Seconds without a heartbeat after which a worker is dead: at least four times `heartbeat_interval`."""
    reap_interval: float = 5.0
    """Seconds between two searches for expired tasks and for tasks of dead workers."""
    resolution_grace: float = 60.0
    """Seconds for which a task that a worker does not know is left to other workers.

    They count from the first such worker. After that the task fails with WORKER_RESOLUTION_ERROR. A rolling deployment
    should take less time than this.
    """

    def __post_init__(self) -> None:
        names = ("heartbeat_interval", "dead_after", "reap_interval", "resolution_grace")
        problems = list(_positive("recovery", "HRS-204", self, *names))
        if not problems and self.dead_after < 4 * self.heartbeat_interval:
            problems.append(
                HorsiesError(
                    "HRS-204",
                    "recovery.dead_after is less than four heartbeat intervals",
                    [f"{self.dead_after} s < 4 x {self.heartbeat_interval} s: live workers would be taken for dead"],
                )
            )
        raise_all(problems)


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """How long the database keeps what has ended.

    Raises:
        HorsiesError: HRS-216.
    """

    finished_after: timedelta | None = timedelta(days=30)
    """Time for which a finished task is kept; None keeps it for ever. A send older than this is not replayed."""

    def __post_init__(self) -> None:
        value = self.finished_after
        if value is not None and (not isinstance(value, timedelta) or not timedelta(0) < value <= LONGEST):
            remedy = "give a timedelta of at most 365,000 days, or None to keep finished tasks for ever"
            raise HorsiesError("HRS-216", "retention.finished_after is not a positive timedelta in range", [remedy])


@dataclass(frozen=True, kw_only=True)
class ResilienceConfig:
    """How long horsies waits for the database. All values are seconds above 0.

    Raises:
        HorsiesError: HRS-208, with every problem found.
    """

    poll_interval: float = 5.0
    """Seconds after which a waiter or worker looks for itself, in case a notification was lost."""
    retry_initial: float = 0.2
    """Seconds before the first retry after a failure. Each further wait is twice as long."""
    retry_max: float = 5.0
    """Longest wait between two retries, in seconds: at least `retry_initial`."""
    statement_timeout: float = 30.0
    """Seconds that one statement may take: at most 2,000,000."""

    def __post_init__(self) -> None:
        problems = list(_positive("resilience", "HRS-208", self, "poll_interval", "retry_initial", "retry_max"))
        problems += _positive("resilience", "HRS-208", self, "statement_timeout", most=LONGEST_TIMEOUT)
        if not problems and self.retry_max < self.retry_initial:
            problems.append(HorsiesError("HRS-208", "resilience.retry_max is less than resilience.retry_initial"))
        raise_all(problems)


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The pool for short borrows. Workers, senders and waiters hold connections of their own beside it.

    Raises:
        HorsiesError: HRS-213, with every problem found.
    """

    min_size: int = 1
    """Number of connections that the pool keeps open."""
    max_size: int = 10
    """Maximum number of connections in the pool."""
    timeout: float = 30.0
    """Seconds to wait for a connection, and for the database when a runtime opens: at most 2,000,000."""

    def __post_init__(self) -> None:
        problems = list(_positive("pool", "HRS-213", self, "timeout", most=LONGEST_TIMEOUT))
        for name, least in (("min_size", 0), ("max_size", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                problems.append(HorsiesError("HRS-213", f"pool.{name} is not a whole number of at least {least}"))
        if not problems and self.min_size > self.max_size:
            problems.append(HorsiesError("HRS-213", "pool.min_size is more than pool.max_size"))
        raise_all(problems)


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """One worker.

    Raises:
        HorsiesError: HRS-215, with every problem found.
    """

    queues: tuple[str, ...] | None = None
    """Names of the queues that the worker serves; None: all of the application's."""
    concurrency: int = 100
    """Maximum number of tasks that run at once, async and sync together."""
    threads: int | None = None
    """Maximum number of sync tasks that run in threads at once; None: `concurrency`."""
    drain_timeout: float = 30.0
    """Seconds that running tasks get to end when the worker is asked to stop."""
    until_idle: bool = False
    """Stop the worker as soon as no task is due and every result is written."""
    name: str | None = None
    """First part of the worker's id, as in `TaskInfo.worker_id` and in logs; None: the name of the host."""
    max_tasks: int | None = None
    """Stop the worker after this number of started tasks, once they have ended; None: never."""
    max_memory: int | None = None
    """Stop the worker when its process holds more than this many MiB, once running tasks have ended; None: never."""

    def __post_init__(self) -> None:
        problems = list(_counts("worker", "HRS-215", self, "threads", "max_tasks", "max_memory"))
        if type(self.concurrency) is not int or self.concurrency < 1:
            problems.append(HorsiesError("HRS-215", "worker.concurrency is not a whole number of at least 1"))
        if not is_seconds(self.drain_timeout, may_be_zero=True):
            remedy = f"give seconds from 0 to {LONGEST_SECONDS:,.0f}"
            problems.append(HorsiesError("HRS-215", "worker.drain_timeout is not a number of seconds from 0", [remedy]))
        if self.queues is not None:
            object.__setattr__(self, "queues", tuple(self.queues))
            if not self.queues or not all(is_name(queue) for queue in self.queues):
                problems.append(
                    HorsiesError("HRS-215", "worker.queues names no queue", ["give at least one name, or None for all"])
                )
        if self.name is not None and not is_name(self.name):
            problems.append(HorsiesError("HRS-215", "worker.name is not 1..255 bytes without NUL"))
        raise_all(problems)


@dataclass(frozen=True, kw_only=True)
class AppConfig:
    """What an application is configured with.

    Raises:
        HorsiesError: with every problem found.
    """

    url: str = field(repr=False)
    """URL of the database; its scheme chooses the broker.

    `postgresql://...` (every libpq form), `sqlite:///relative.db`, `sqlite:////absolute.db` or `sqlite://:memory:`.
    """
    schema: str = "horsies"
    """Schema of the tables (Postgres), and prefix of every channel name.

    At most 48 lower-case letters, digits and `_`. It does not begin with a digit or with `pg_`.
    """
    listen_url: str | None = field(default=None, repr=False)
    """URL of a session connection for notifications, if `url` leads through a transaction pooler."""
    serializer: str = "msgpack"
    """Name of the plugin that encodes arguments and results."""
    queues: tuple[QueueConfig, ...] = ()
    """Queues of the application; empty means one queue, `default`."""
    cluster_wide_cap: int | None = None
    """Maximum number of tasks that are claimed or running in the whole cluster; None: no limit."""
    resend_on_transient_err: bool = False
    """Let a send retry a retryable failure up to 3 times before it answers."""
    payload: PayloadPolicy = field(default_factory=PayloadPolicy)
    """Limits on the size of a send."""
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)
    """How soon the death of a worker is noticed."""
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    """How long finished tasks are kept."""
    resilience: ResilienceConfig = field(default_factory=ResilienceConfig)
    """How long horsies waits for the database."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """Size of the pool of connections."""

    def __post_init__(self) -> None:
        queues = tuple(self.queues) or (QueueConfig("default"),)
        object.__setattr__(self, "queues", queues)
        raise_all([*self._url_problems(), *self._queue_problems()])

    def _url_problems(self) -> Iterator[HorsiesError]:
        for name in ("url", "listen_url"):
            url = getattr(self, name)
            if url is None and name == "listen_url":
                continue
            if not isinstance(url, str) or scheme_of(url) is None:
                yield HorsiesError(
                    "HRS-203",
                    f"{name} is not a database URL",
                    ["give postgresql://..., sqlite:///file.db or sqlite://:memory:"],
                )
            elif not is_unicode(url):
                what = f"{name} holds bytes that are not UTF-8"
                yield HorsiesError("HRS-203", what, ["write it in UTF-8; libpq also takes %XX for each byte of UTF-8"])
        if not isinstance(self.schema, str) or _SCHEMA.match(self.schema) is None:
            yield HorsiesError(
                "HRS-203",
                f"schema {self.schema!r} cannot name a schema",
                ["use lower-case letters, digits and _, 48 at most, not starting with a digit or with pg_"],
            )

    def _queue_problems(self) -> Iterator[HorsiesError]:
        yield from _counts("app", "HRS-201", self, "cluster_wide_cap")
        strange = [queue for queue in self.queues if not isinstance(queue, QueueConfig)]
        if strange:
            yield HorsiesError("HRS-200", "queues holds something that is not a QueueConfig")
            return
        names = [queue.name for queue in self.queues]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield HorsiesError("HRS-200", f"queue {name!r} is declared {names.count(name)} times")

    @property
    def masked_url(self) -> str:
        """`url` with `***` in place of all that may be secret."""
        return masked(self.url)

    def __str__(self) -> str:
        return f"AppConfig({self.masked_url}, schema={self.schema!r})"

    @classmethod
    def for_database_url(cls, url: str, **fields: Any) -> AppConfig:
        """Make the configuration for `url`. Other fields come from `fields`, or have their defaults."""
        return cls(url=url, **fields)

    @classmethod
    def from_env(cls, **fields: Any) -> AppConfig:
        """Read HORSIES_DATABASE_URL (required), HORSIES_SCHEMA and HORSIES_LISTEN_URL. `fields` take precedence.

        Raises:
            HorsiesError: HRS-203 if the URL is missing, or every problem found.
        """
        read = {
            name: variable for name, variable in _VARIABLES.items() if name not in fields and variable in os.environ
        }
        fields |= {name: os.environ[variable] for name, variable in read.items()}
        if "url" not in fields:
            raise HorsiesError(
                "HRS-203", "HORSIES_DATABASE_URL is not set", ["set it, for example to postgresql://localhost/app"]
            )
        try:
            return cls(**fields)
        except HorsiesError as error:
            raise HorsiesError.of([_placed(problem, read) for problem in error.problems]) from None


_VARIABLES = {"url": "HORSIES_DATABASE_URL", "schema": "HORSIES_SCHEMA", "listen_url": "HORSIES_LISTEN_URL"}


def _placed(problem: HorsiesError, read: Mapping[str, str]) -> HorsiesError:
    """`problem` with the environment variable that its field was read from."""
    variable = read.get(problem.message.partition(" ")[0])
    if variable is None:
        return problem
    note = f"it comes from {variable}" if os.environ[variable] else f"{variable} is empty; unset it if it is not meant"
    return HorsiesError(problem.code, problem.message, [*problem.notes, note])
