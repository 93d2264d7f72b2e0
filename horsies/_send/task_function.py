"""`TaskFunction`: a task bound to a runtime. Exceptions end here: what can fail is returned in `Err`."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from typing import Any, Generic, ParamSpec, TypeAlias, TypeGuard, TypeVar

import anyio.lowlevel

from .._core.codes import TaskSendErrorCode
from .._core.errors import BrokerError, HorsiesError
from .._core.instants import span
from .._core.result import Err, Ok
from .._payload.send_error import TaskSendError
from .._payload.send_payload import TaskSendPayload
from ..abc import Enqueued, EnqueueOutcome
from .bulk import Bulk, open_bulk
from .encode_call import NOW, reason_not_to_replay, refuse, row_of, seal
from .gateway import DeclaredTask, Gateway, joined
from .options import TaskSendOptions, updated
from .suppression import code_of
from .task_handle import TaskHandle

P = ParamSpec("P")
T = TypeVar("T")
X = TypeVar("X")

TaskSendResult: TypeAlias = Ok[X] | Err[TaskSendError]
"""The outcome of a send: a value of type `X` such as a `TaskHandle`, or the error that kept the task from the queue."""

RESENDS = 3
RESEND_FIRST = 0.2
RESEND_CAP = 2.0
"""Seconds: how `resend_on_transient_err` spaces its further tries."""
_NO_OPTIONS = TaskSendOptions()


class TaskFunction(Generic[P, T]):
    """A task bound to a runtime, with its send options."""

    def __init__(
        self,
        gateway: Gateway,
        task: DeclaredTask[P, T],
        options: TaskSendOptions = _NO_OPTIONS,
        connection: object | None = None,
    ) -> None:
        self._gateway = gateway
        self._task = task
        self._options = options
        self._connection = connection

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return self._task.name

    @property
    def queue_name(self) -> str:
        """Queue that a send goes to."""
        return getattr(self._options, "queue", None) or self._gateway.app.queue_of(self._task)

    @property
    def priority(self) -> int:
        """1 (first) to 100 (last)."""
        priority: int | None = getattr(self._options, "priority", None)
        return self._task.settings.priority if priority is None else priority

    def with_options(self, options: TaskSendOptions) -> TaskFunction[P, T]:
        """The same task with `options` for its sends; an option that is None stays as it was. Never raises."""
        return TaskFunction(self._gateway, self._task, updated(self._options, options), self._connection)

    def using(self, connection: object) -> TaskFunction[P, T]:
        """The same task, sent in the open transaction of `connection`: it is there with that commit, or never.

        An error leaves that transaction aborted. A connection that cannot be used, that is None, or that leads to
        another database than this runtime's is VALIDATION_FAILED at the send.
        If the NOTIFY queue of the server is full, the commit of that transaction raises
        `psycopg.errors.ProgramLimitExceeded` and stores nothing: run the transaction again.

        Args:
            connection: a psycopg connection to the database of this runtime: a sync one, an async one, the one from
                `Runtime.transaction`, or the one beneath SQLAlchemy's (`connection.connection.driver_connection`).
        """
        return TaskFunction(self._gateway, self._task, self._options, joined(connection))

    async def send(self, /, *args: P.args, **kwargs: P.kwargs) -> TaskSendResult[TaskHandle[T]]:
        """Enqueue now.

        Returns:
            `Ok` with a handle once the task is committed, or after `using` once it is inserted. `Err` with a
            `TaskSendError`; `retry_send` replays its payload if it is `retryable`.
        """
        return await self._send(NOW, args, kwargs)

    async def schedule(
        self, delay: float | timedelta, /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskSendResult[TaskHandle[T]]:
        """Enqueue now, claimable `delay` (seconds or a timedelta, from 0 to 1,000 years) later. Returns as `send`."""
        try:
            left = span(delay)
        except ValueError as error:
            await anyio.lowlevel.checkpoint()
            return refuse(self.task_name, f"delay {error}")
        return await self._send(left, args, kwargs)

    async def send_many(
        self, calls: Iterable[tuple[Any, ...] | Mapping[str, Any]]
    ) -> list[TaskSendResult[TaskHandle[T]]]:
        """Enqueue many calls now, up to a thousand in one statement and transaction.

        `calls` is read as fast as the database takes it, so a generator may yield any number: beside the answers, the
        payloads of two statements live at once. What has been committed stays when `calls` raises (its exception
        leaves as it is) or this call is cancelled; for all or nothing use `using(connection)`.

        Args:
            calls: for each task a tuple of positional arguments, or a dict of keyword ones.

        Returns:
            One answer for each call, in order, as `send` gives it. A call that does not validate fails alone. After
            `using` any other failure aborts the transaction and fails all; those that were inserted by then have no
            payload to replay: run the transaction again.
        """
        async with self._open_bulk() as bulk:
            await bulk.add(calls)
        return bulk.answers

    def _open_bulk(self) -> AbstractAsyncContextManager[Bulk[TaskHandle[T]]]:
        """A `send_many` whose calls come in portions."""
        self._gateway.refuse_in_fork()
        enqueue = partial(self._enqueue, replay=False)
        return open_bulk(self._seal_call, enqueue, joined=self._connection is not None)

    async def retry_send(self, failed: TaskSendError | TaskSendPayload) -> TaskSendResult[TaskHandle[T]]:
        """Replay a `send` with the identical payload: it is enqueued at most once, however often this is called.

        Returns:
            `Ok` with the same task id, in whatever state that task is by now; `Err` with PAYLOAD_MISMATCH when the
            bytes are not those first sent, VALIDATION_FAILED for another task's payload or a delayed one.
        """
        return await self._replay(failed, delayed=False)

    async def retry_schedule(self, failed: TaskSendError | TaskSendPayload) -> TaskSendResult[TaskHandle[T]]:
        """Replay a `schedule` with the identical payload; the due time stays where the first send put it."""
        return await self._replay(failed, delayed=True)

    async def _send(
        self, delay: timedelta, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> TaskSendResult[TaskHandle[T]]:
        sealed = seal(self._gateway, self._task, self._options, delay, args, kwargs)
        if isinstance(sealed, Err):
            await anyio.lowlevel.checkpoint()
            return sealed
        (answer,) = await self._enqueue([sealed.value], replay=False)
        return answer

    def _seal_call(self, call: object) -> Ok[TaskSendPayload] | Err[TaskSendError]:
        if isinstance(call, tuple):
            return seal(self._gateway, self._task, self._options, NOW, call, {})
        if isinstance(call, Mapping) and all(isinstance(name, str) for name in call):
            return seal(self._gateway, self._task, self._options, NOW, (), dict(call))
        return refuse(
            self.task_name, "a call of send_many is neither a tuple of positional arguments nor a dict of keyword ones"
        )

    async def _replay(self, failed: TaskSendError | TaskSendPayload, *, delayed: bool) -> TaskSendResult[TaskHandle[T]]:
        payload = failed.payload if isinstance(failed, TaskSendError) else failed
        if isinstance(payload, TaskSendPayload):
            refusal = reason_not_to_replay(self._gateway, self.task_name, payload, delayed=delayed)
            if refusal is None:
                (answer,) = await self._enqueue([payload], replay=True)
                return answer
        else:
            refusal = refuse(
                self.task_name,
                "there is no payload to replay: this send failed before it had one, or with a transaction",
            )
        await anyio.lowlevel.checkpoint()
        return refusal

    async def _enqueue(
        self, payloads: Sequence[TaskSendPayload], *, replay: bool
    ) -> list[TaskSendResult[TaskHandle[T]]]:
        if not payloads:
            await anyio.lowlevel.checkpoint()
            return []
        try:
            answers = await self._submit(payloads, replay=replay)
            if self._connection is None and any(map(_is_transient, answers)):
                await self._send_again(payloads, answers)
        except ValueError as error:
            return [refuse(self.task_name, str(error)) for _ in payloads]
        return [self._answered(payload, answer) for payload, answer in zip(payloads, answers, strict=True)]

    async def _send_again(self, payloads: Sequence[TaskSendPayload], answers: list[Enqueued | BrokerError]) -> None:
        """Replay what has not reached the database, and put what comes of it into `answers`."""
        backoff = self._gateway.contact.backoff()
        for wait in resend_pauses(self._gateway):
            left = [index for index, answer in enumerate(answers) if _is_transient(answer)]
            if not left:
                return
            await backoff.pause(wait, next(error for error in answers if _is_transient(error)))
            again = await self._submit([payloads[index] for index in left], replay=True)
            for index, answer in zip(left, again, strict=True):
                answers[index] = answer

    def _submit(self, payloads: Sequence[TaskSendPayload], *, replay: bool) -> Awaitable[list[Enqueued | BrokerError]]:
        now = self._gateway.environment.clock()
        rows = [row_of(payload, now) for payload in payloads]
        return self._gateway.submit(rows, replay=replay, connection=self._connection)

    def _answered(self, payload: TaskSendPayload, answer: Enqueued | BrokerError) -> TaskSendResult[TaskHandle[T]]:
        if isinstance(answer, BrokerError):
            return self._failed(payload, code_of(answer), answer.message, retryable=answer.retryable)
        if answer.outcome is EnqueueOutcome.MISMATCH:
            why = f"task {payload.task_id} is stored with another payload; nothing was changed"
            return self._failed(payload, TaskSendErrorCode.PAYLOAD_MISMATCH, why)
        deduplicated = answer.outcome is EnqueueOutcome.DEDUPLICATED
        return Ok(TaskHandle(self._gateway, answer.task_id, deduplicated=deduplicated))

    def _failed(
        self, payload: TaskSendPayload, code: TaskSendErrorCode, why: str, *, retryable: bool = False
    ) -> Err[TaskSendError]:
        message = f"task {self.task_name!r}: {why}"
        return Err(TaskSendError(code, message, retryable=retryable, task_id=payload.task_id, payload=payload))


def resend_pauses(gateway: Gateway) -> Iterator[float]:
    """Seconds before each time that what did not reach the database is sent again; none where that is off."""
    for n in range(RESENDS if gateway.app.config.resend_on_transient_err else 0):
        yield min(RESEND_FIRST * 2**n, RESEND_CAP) * gateway.environment.random.uniform(0.75, 1.25)


def _is_transient(answer: Enqueued | BrokerError) -> TypeGuard[BrokerError]:
    return isinstance(answer, BrokerError) and answer.retryable


def bind(gateway: Gateway, task: DeclaredTask[P, T]) -> TaskFunction[P, T]:
    """`task` bound to `gateway`.

    Raises:
        HorsiesError: HRS-300 when the gateway's application has not registered it.
    """
    if gateway.app.tasks.get(task.name) is not task:
        raise HorsiesError(
            "HRS-300",
            f"task {task.name!r} is not registered with this runtime's application",
            ["declare it with @app.task, or register it: app.include(the_task)"],
        )
    return TaskFunction(gateway, task)
