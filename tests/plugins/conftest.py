"""A pooler before the one server, for whoever asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pgbouncer import BINARY, PgBouncer, open_pgbouncer


@pytest.fixture(scope="session")
def pgbouncer(postgres_url: str) -> Iterator[PgBouncer]:
    """PgBouncer in transaction mode."""
    if BINARY is None:
        pytest.skip("PgBouncer is not installed here")
    with open_pgbouncer(postgres_url) as pgbouncer:
        yield pgbouncer
