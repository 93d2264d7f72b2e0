"""With fewer connections than a worker wants everything works, slower: sessions take turns, and idle ones close."""

from __future__ import annotations

import pytest
from everything import config_for, role, use_everything
from pgbouncer import BINARY, open_pgbouncer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LEAST = 2


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
