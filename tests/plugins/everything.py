"""Every thing that a runtime does, for roles that are given little or have strange defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import anyio
import psycopg
from psycopg.conninfo import conninfo_to_dict

from horsies import (
    AppConfig,
    CancelOutcome,
    Every,
    Horsies,
    NodeRef,
    Ok,
    RecoveryConfig,
    ResilienceConfig,
    Runtime,
    TaskSendOptions,
    WorkflowBuilder,
)
from horsies.plugins.postgres.queries import read_sql
from horsies.plugins.postgres.schema import migrations, record_sql

OLD = 4
"""The version of the schema that `make_old` makes."""
RESILIENCE = ResilienceConfig(poll_interval=0.5, retry_initial=0.1, retry_max=0.5)


def uri(conninfo: dict[str, Any], **changes: str) -> str:
    """A postgresql:// URL for libpq's parameters, on sockets as well."""
    query = "&".join(f"{key}={quote(str(value))}" for key, value in {**conninfo, **changes}.items() if value)
    return f"postgresql://?{query}"


@contextmanager
def role(postgres_url: str, *settings: str) -> Iterator[str]:
    """The server's URL for a role of its own, which `settings` alter."""
    name = f"role_{token_hex(4)}"
    with closing(psycopg.connect(postgres_url, autocommit=True)) as owner:
        database = owner.info.dbname
        owner.execute(f"CREATE ROLE {name} LOGIN".encode())
        owner.execute(f'GRANT CREATE ON DATABASE "{database}" TO {name}'.encode())
        for setting in settings:
            owner.execute(f"ALTER ROLE {name} {setting}".encode())
        try:
            yield uri(conninfo_to_dict(postgres_url), user=name)
        finally:
            with closing(psycopg.connect(postgres_url, autocommit=True)) as owner:
                query = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s"
                owner.execute(query, (name,))
                owner.execute(f"DROP OWNED BY {name} CASCADE".encode())
                owner.execute(f"DROP ROLE {name}".encode())


def make_old(url: str, schema: str) -> None:
    """The schema as an earlier release has left it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        connection.execute(
            f"CREATE TABLE {schema}.migrations"
            " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp())".encode()
        )
        for number in range(1, OLD + 1):
            connection.execute(read_sql(f"migrations/{migrations()[number]}", schema).encode())
            connection.execute(record_sql(number, schema).encode())


def config_for(url: str, schema: str, **fields: Any) -> AppConfig:
    recovery = RecoveryConfig(heartbeat_interval=0.5, dead_after=10.0)
    return AppConfig(url=url, schema=schema, resilience=RESILIENCE, recovery=recovery, **fields)


async def use_everything(config: AppConfig) -> None:
    """Each thing that a runtime does, some of them at once."""
    app = Horsies(config)
    ran: list[int] = []

    @app.task
    async def double(n: int) -> int:
        ran.append(n)
        return 2 * n

    @app.task
    def halve(n: int) -> int:
        return n // 2

    @app.task
    async def sleep() -> None:
        ran.append(-1)
        await anyio.sleep_forever()

    @app.workflow("sum")
    def total(wf: WorkflowBuilder, n: int) -> NodeRef[int]:
        return wf.task(double.node(wf.task(double.node(n))))

    app.schedule("often", double, Every(timedelta(seconds=1)), args=(7,))
    async with Runtime(app) as rt:
        worker = rt.start_worker()

        async def send(n: int) -> None:
            assert await (await double.handle(rt).send(n)).unwrap().get(timeout=60) == Ok(2 * n)

        async def start(n: int) -> None:
            assert await (await total.handle(rt).start(n)).unwrap().get(timeout=60) == Ok(4 * n)

        async def transact(n: int) -> None:
            async with rt.transaction() as connection:
                handle = (await halve.handle(rt).using(connection).send(n)).unwrap()
                other = (await halve.handle(rt).send(n)).unwrap()
            assert await handle.get(timeout=60) == Ok(n // 2)
            assert await other.get(timeout=60) == Ok(n // 2)

        async def look(n: int) -> None:
            handle = (await double.handle(rt).schedule(3600, n)).unwrap()
            info = (await handle.info()).unwrap()
            assert info is not None
            assert (await rt.queues()).is_ok()
            assert (await handle.cancel()).unwrap() is CancelOutcome.CANCELLED

        async with anyio.create_task_group() as group:
            calls: tuple[Callable[[int], Any], ...] = (send, start, transact, look)
            for n in range(3):
                for call in calls:
                    group.start_soon(call, n)
        keyed = double.handle(rt).with_options(TaskSendOptions(unique_key="k"))
        assert await (await keyed.send(8)).unwrap().get(timeout=60) == Ok(16)
        handles = [answer.unwrap() for answer in await double.handle(rt).send_many([(n,) for n in range(100, 150)])]
        async with rt.as_completed(handles) as done:
            assert len([handle async for handle in done]) == 50
        running = (await sleep.handle(rt).send()).unwrap()
        with anyio.fail_after(60):
            while -1 not in ran or 7 not in ran:
                await anyio.sleep(0.01)
        assert (await running.cancel()).unwrap() is CancelOutcome.REQUESTED
        assert (await running.get(timeout=60)).unwrap_err().code == "TASK_CANCELLED"
        assert worker.statistics().lost == 0
