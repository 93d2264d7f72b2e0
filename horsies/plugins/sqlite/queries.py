"""The named queries of `sql/*.sql`: a line `-- name: something` opens each."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_FILES = ("tasks.sql", "workers.sql", "queues.sql", "schedules.sql", "workflows.sql")
_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


def read_sql(path: str) -> str:
    """A file of this package."""
    return resources.files(__package__).joinpath(path).read_text(encoding="utf-8")


@cache
def named_queries() -> dict[str, str]:
    """Every query by its name, without comments."""
    queries: dict[str, str] = {}
    for file in _FILES:
        _, *parts = _NAME.split(read_sql(f"sql/{file}"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in queries:
                raise ValueError(f"sql/{file}: there are two queries called {name}")
            queries[name] = _COMMENT.sub("", text).strip()
    return queries
