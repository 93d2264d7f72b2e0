"""Brokers that are wrong on purpose, each in one thing, and each is caught: what else would the machine be good for?"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any

import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, Phase, settings

from horsies import AppConfig, Horsies, Runtime
from horsies.abc import Broker, CancelOutcome, Claim, Enqueued, EnqueueOutcome, Start, StartOutcome
from horsies.plugins.sqlite import control, producer
from horsies.plugins.sqlite.consumer import SqliteConsumer
from horsies.plugins.sqlite.queries import named_queries
from horsies.testing.broker import T0
from horsies.testing.state_machine import run_broker_machine
from horsies.testing.state_space import Disagreement

SEARCH = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=400,
    stateful_step_count=50,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

Patch = pytest.MonkeyPatch


def opened() -> AbstractAsyncContextManager[Broker]:
    config = AppConfig(url="sqlite://:memory:")
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


def query(patch: Patch, name: str, old: str, new: str) -> None:
    """Change a statement of the SQLite broker."""
    queries = named_queries()
    assert old in queries[name]
    patch.setitem(queries, name, queries[name].replace(old, new))


def claims_without_lock(patch: Patch) -> None:
    """It looks in one transaction and takes in another: two that look at once take the same."""

    async def claim(
        self: SqliteConsumer,
        limit: int,
        *,
        startable: Collection[str] = (),
        without: Collection[str] = (),
        now: datetime | None = None,
    ) -> Claim:
        others = json.dumps(list(without))
        since = {"worker": self._worker_id}

        def look(transaction: Any) -> list[str]:
            alive = transaction.fetch(
                self._sql["workers.alive"], {**since, "since": transaction.now - round(self._dead_after * 1e6)}
            )
            return [head[2] for head in self._heads(transaction, limit, others, step_over=True)] if alive else []

        found = await self._session.read("claim", look, now=now)
        await anyio.lowlevel.checkpoint()
        take = lambda transaction: tuple(  # noqa: E731  # a def would have to repeat the types
            self._take(transaction, task_id, frozenset(startable)) for task_id in found
        )
        return Claim(await self._session.write("claim", take, now=now), 0)

    patch.setattr(SqliteConsumer, "claim", claim)


def no_claim_number(patch: Patch) -> None:
    """A worker's name is all the fence there is."""
    query(patch, "tasks.held", "AND claim_number = :claim_number", "")


def no_worker_in_the_fence(patch: Patch) -> None:
    query(patch, "tasks.held", "AND worker_id = :worker", "")


def expiry_by_the_clients_clock(patch: Patch) -> None:
    """Its clock is a second late, so what is over may begin."""
    start = SqliteConsumer.start

    async def late(self: SqliteConsumer, starts: Sequence[Start], *, now: datetime | None = None) -> list[StartOutcome]:
        return await start(self, starts, now=None if now is None else now - timedelta(seconds=1))

    patch.setattr(SqliteConsumer, "start", late)


def equality_begins(patch: Patch) -> None:
    query(patch, "tasks.overdue", "good_until <= :now", "good_until < :now")


def replay_without_comparing(patch: Patch) -> None:
    enqueue = producer.enqueue_one

    def trusting(sql: Any, transaction: Any, task: Any) -> Enqueued:
        answer = enqueue(sql, transaction, task)
        return Enqueued(EnqueueOutcome.REPLAYED, task.task_id) if answer.outcome == "MISMATCH" else answer

    patch.setattr(producer, "enqueue_one", trusting)


def replay_that_starts_again(patch: Patch) -> None:
    """The hole of many a queue: a finished task that is sent once more runs once more."""
    again = "ON CONFLICT (id) DO UPDATE SET phase = 1, status = 'PENDING', finished_at = NULL WHERE phase = 3"
    query(patch, "tasks.enqueue", "ON CONFLICT DO NOTHING", f"{again} ON CONFLICT DO NOTHING")


def cancel_that_forgets(patch: Patch) -> None:
    query(patch, "tasks.request_cancel", "coalesce(cancel_requested_at, :now)", "NULL AND :now")


def cancel_that_lets_retry(patch: Patch) -> None:
    query(patch, "tasks.held", "cancel_requested_at FROM", "NULL FROM")


def crash_that_burns_no_retry(patch: Patch) -> None:
    query(patch, "tasks.again", "retries + :retries", "retries + 0 * :retries")


def reaping_of_the_living(patch: Patch) -> None:
    """By a worker that is not steady itself, which makes it likely enough to be found."""
    query(patch, "workers.bury", "WHERE seen_at <= :since", "WHERE seen_at <= :since + 15000000")
    query(patch, "workers.finder", " AND me.steady_since <= :long_ago", "")


def claim_number_that_starts_anew(patch: Patch) -> None:
    query(patch, "tasks.claim", "claim_number = claim_number + :step", "claim_number = 1")


def keys_that_nobody_holds(patch: Patch) -> None:
    query(patch, "tasks.enqueue", ":sha, :unique_key", ":sha, substr(:unique_key, 9) || :id")


def giving_back_that_burns_an_attempt(patch: Patch) -> None:
    query(patch, "tasks.give_back", "status = 'PENDING',", "status = 'PENDING', attempt = attempt + 1,")


def claim_that_starts_anything(patch: Patch) -> None:
    claim = SqliteConsumer._claim
    everything = frozenset(("a_task", "another"))
    patch.setattr(
        SqliteConsumer,
        "_claim",
        lambda self, transaction, limit, _, without: claim(self, transaction, limit, everything, without),
    )


def lost_claim_that_burns_an_attempt(patch: Patch) -> None:
    query(patch, "tasks.give_back_unknown", "attempt - (status = 'RUNNING')", "attempt")


def refusal_that_burns_an_attempt(patch: Patch) -> None:
    query(patch, "tasks.unbegun", "attempt - 1", "attempt")


def cancel_of_the_finished(patch: Patch) -> None:
    cancel = control.cancel_one

    def eager(sql: Any, transaction: Any, task_id: str) -> CancelOutcome:
        outcome = cancel(sql, transaction, task_id)
        if outcome is CancelOutcome.ALREADY_FINISHED:
            transaction.fetch(sql["tasks.cancel"], {"id": task_id, "now": transaction.now})
        return outcome

    patch.setattr(control, "cancel_one", eager)


WRONG = [
    claims_without_lock,
    no_claim_number,
    no_worker_in_the_fence,
    expiry_by_the_clients_clock,
    equality_begins,
    replay_without_comparing,
    replay_that_starts_again,
    cancel_that_forgets,
    cancel_that_lets_retry,
    cancel_of_the_finished,
    crash_that_burns_no_retry,
    reaping_of_the_living,
    claim_number_that_starts_anew,
    keys_that_nobody_holds,
    giving_back_that_burns_an_attempt,
    claim_that_starts_anything,
    lost_claim_that_burns_an_attempt,
    refusal_that_burns_an_attempt,
]


@pytest.mark.parametrize("wrong", WRONG)
def test_the_machine_catches(wrong: Callable[[Patch], None], monkeypatch: Patch) -> None:
    wrong(monkeypatch)
    with pytest.raises(Disagreement):
        run_broker_machine(opened, backend="trio", settings=SEARCH)
