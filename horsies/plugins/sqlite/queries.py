"""The SQL files of this package."""

from __future__ import annotations

from functools import cache, partial

from .._sql.files import read_file, read_queries

read_sql = partial(read_file, __package__)


@cache
def named_queries() -> dict[str, str]:
    """Every query by its name, without comments."""
    return read_queries(read_sql)
