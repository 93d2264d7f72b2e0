"""With fewer connections than a worker wants everything works, slower: sessions take turns, and idle ones close."""

from __future__ import annotations

from contextlib import closing

import anyio
import psycopg
import pytest
from everything import OLD, config_for, make_old, role, use_everything
from pgbouncer import BINARY, open_pgbouncer

from horsies.plugins.postgres.schema import newest_version
from horsies.plugins.postgres.schema_commands import migrate_database

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LEAST = 2
VERSION = "SELECT max(version) FROM {}.migrations"


@pytest.mark.parametrize("limit", [LEAST, 3, 4, 5, 7])
async def test_everything_works_with_a_role_that_is_limited(postgres_url: str, schema: str, limit: int) -> None:
    with role(postgres_url, f"CONNECTION LIMIT {limit}") as url:
        for _ in range(2):  # one runtime closes, and the next one finds the schema
            await use_everything(config_for(url, schema))


@pytest.mark.skipif(BINARY is None, reason="PgBouncer is not installed here")
@pytest.mark.parametrize("limit", [3, 5])
async def test_everything_works_with_a_pooler_that_is_limited(postgres_url: str, schema: str, limit: int) -> None:
    with open_pgbouncer(postgres_url, clients=limit) as pgbouncer:
        await use_everything(config_for(pgbouncer.url, schema))


@pytest.mark.parametrize("limit", [LEAST, 3])
async def test_an_old_schema_is_upgraded_with_a_role_that_is_limited(
    postgres_url: str, schema: str, limit: int
) -> None:
    with role(postgres_url, f"CONNECTION LIMIT {limit}") as url:
        make_old(url, schema)
        await use_everything(config_for(url, schema))


async def test_an_upgrade_waits_for_its_second_connection(postgres_url: str, schema: str) -> None:
    with role(postgres_url, f"CONNECTION LIMIT {LEAST}") as url:
        make_old(url, schema)
        said: list[str] = []
        with closing(psycopg.connect(url)) as holder:
            async with anyio.create_task_group() as group:
                group.start_soon(migrate_database, config_for(url, schema), said.append)
                await anyio.sleep(1)
                with closing(psycopg.connect(postgres_url)) as owner:
                    assert owner.execute(VERSION.format(schema).encode()).fetchone() == (OLD,)
                holder.close()
        with closing(psycopg.connect(url)) as owner:
            assert owner.execute(VERSION.format(schema).encode()).fetchone() == (newest_version(),)


async def test_a_schema_that_is_up_to_date_opens_over_one_connection(postgres_url: str, schema: str) -> None:
    with role(postgres_url, "CONNECTION LIMIT 1") as url:
        await migrate_database(config_for(url, schema), print)
        await migrate_database(config_for(url, schema), print)
