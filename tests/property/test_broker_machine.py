"""The shipped brokers against the model, on both loops. HORSIES_DEEP=1 runs hundreds of examples, and longer ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, closing
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import psycopg
import pytest
from hypothesis import settings

from horsies import AppConfig, Horsies, Runtime
from horsies._core.status import TRANSITIONS
from horsies.abc import Broker, Claim, Lease
from horsies.plugins.sqlite.consumer import SqliteConsumer
from horsies.testing.broker import CHANGES, T0
from horsies.testing.driver import Which
from horsies.testing.state_machine import BrokerMachine, open_roles, run_broker_machine

DEEP = os.environ.get("HORSIES_DEEP") == "1"
MINUTES = 60

pytestmark = pytest.mark.timeout(60 * MINUTES if DEEP else 60)


def profile(short: int, deep: int) -> settings:
    """So many examples; the deep ones are longer, too."""
    return settings(
        deadline=None,
        print_blob=True,
        max_examples=deep if DEEP else short,
        stateful_step_count=60 if DEEP else 30,
    )


def opened(config: AppConfig) -> AbstractAsyncContextManager[Broker]:
    return Runtime(Horsies(config)).broker_factory().open(config, clock=lambda: T0)


def test_sqlite_in_memory(anyio_backend: Any) -> None:
    backend, options = anyio_backend
    config = AppConfig(url="sqlite://:memory:")
    run_broker_machine(partial(opened, config), backend=backend, backend_options=options, settings=profile(30, 800))


def test_sqlite_in_a_file(anyio_backend: Any, tmp_path: Path) -> None:
    backend, options = anyio_backend
    files = (tmp_path / f"{number}.db" for number in count())

    def open_next() -> AbstractAsyncContextManager[Broker]:
        return opened(AppConfig(url=f"sqlite:///{next(files)}"))

    run_broker_machine(open_next, backend=backend, backend_options=options, settings=profile(10, 250))


def test_postgres(anyio_backend: Any, postgres_url: str, schema: str) -> None:
    backend, options = anyio_backend
    config = AppConfig(url=postgres_url, schema=schema)
    with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:

        async def empty() -> None:
            # Not TRUNCATE: after that the server would plan every prepared statement anew.
            free = f"UPDATE {schema}.leases SET holder = NULL, expires_at = '-infinity'"
            await anyio.to_thread.run_sync(
                connection.execute, f"DELETE FROM {schema}.tasks; DELETE FROM {schema}.workers; {free}"
            )

        run_broker_machine(
            partial(opened, config),
            backend=backend,
            backend_options=options,
            empty=empty,
            settings=profile(15, 400),
        )


@pytest.mark.parametrize("caller", [0, 1])
def test_nobody_gives_back_what_a_claim_under_way_has_just_taken(
    anyio_backend: Any, monkeypatch: pytest.MonkeyPatch, caller: int
) -> None:
    """Found on Postgres, whose claim takes a second statement where the first met tasks past their deadline.

    Two workers go on to be played at once.
    """
    claim, give_back = SqliteConsumer.claim, SqliteConsumer.give_back_unknown
    claiming, taken, giving_back, given_back = (anyio.Event() for _ in range(4))
    at_once: list[bool] = []

    async def claim_twice(
        self: SqliteConsumer,
        limit: int,
        *,
        startable: Collection[str] = (),
        without: Collection[str] = (),
        now: datetime | None = None,
    ) -> Claim:
        claiming.set()
        first = await claim(self, limit, startable=startable, without=without, now=now)
        taken.set()
        await anyio.wait_all_tasks_blocked()  # what is played beside it has begun
        at_once.append(giving_back.is_set())
        if giving_back.is_set():
            await given_back.wait()
        second = await claim(self, limit - len(first.tasks), startable=startable, without=without, now=now)
        return Claim((*first.tasks, *second.tasks), first.expired + second.expired)

    async def give_back_aloud(self: SqliteConsumer, known: Sequence[Lease], **given: datetime | None) -> int:
        giving_back.set()
        await anyio.wait_all_tasks_blocked()
        if claiming.is_set():
            await taken.wait()
        returned = await give_back(self, known, **given)
        given_back.set()
        return returned

    monkeypatch.setattr(SqliteConsumer, "claim", claim_twice)
    monkeypatch.setattr(SqliteConsumer, "give_back_unknown", give_back_aloud)
    backend, options = anyio_backend
    task = {"number": 3, "queue": "fast", "priority": 50, "delay": 0.0, "good_for": None, "name": "a_task"}
    one = ("claim", {"worker": 0, "limit": 2, "startable": frozenset[str]()})
    other = ("give_back_unknown", {"leases": [(0, Which.FITTING)], "caller": caller, "heard": None})
    with anyio.from_thread.start_blocking_portal(backend, options) as portal:
        machine = BrokerMachine(portal, partial(open_roles, partial(opened, AppConfig(url="sqlite://:memory:"))))
        try:
            machine.populate(tasks=[{**task, "key": None, "changed": False}])
            machine.side_by_side(one=one, other=other)
            assert at_once == [caller == 1]
        finally:
            machine.teardown()


@pytest.mark.parametrize("is_first", [True, False])
def test_two_claims_of_one_worker_at_once_pass_over_each_their_own(
    anyio_backend: Any, tmp_path: Path, is_first: bool
) -> None:
    """Found on SQLite, whose consumer kept the names to pass over from one call to the next."""
    backend, options = anyio_backend
    task = {"number": 1, "queue": "fast", "priority": 50, "delay": 0.0, "good_for": None, "name": "a_task"}
    open_broker = partial(opened, AppConfig(url=f"sqlite:///{tmp_path / 'one.db'}"))
    claims = [
        {"worker": 1, "limit": 1, "startable": frozenset[str](), "without": frozenset(names)}
        for names in ([], ["a_task"])
    ]
    with anyio.from_thread.start_blocking_portal(backend, options) as portal:
        machine = BrokerMachine(portal, partial(open_roles, open_broker))
        try:
            machine.populate(tasks=[{**task, "key": None, "changed": False}])
            machine.rival_claims(*(claims if is_first else reversed(claims)))
        finally:
            machine.teardown()


def test_the_laws_are_those_of_the_core() -> None:
    assert {(before, after) for before, found in TRANSITIONS.items() for after in found} == CHANGES
