"""The named queries of `sql/*.sql`: a line `-- name: something` opens each."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_FILES = ("tasks.sql", "workers.sql", "queues.sql", "schedules.sql", "workflows.sql")
_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


def read_sql(path: str, schema: str) -> str:
    """A file of this package, for `schema`. The name was checked by `AppConfig`: nothing in it needs quoting."""
    text = resources.files(__package__).joinpath(path).read_text(encoding="utf-8")
    return text.replace("{schema}", schema)


@cache
def named_queries(schema: str) -> dict[str, str]:
    """Every query by its name, on one line and without comments: above 4,096 bytes psycopg would parse it each time."""
    queries: dict[str, str] = {}
    for file in _FILES:
        _, *parts = _NAME.split(read_sql(f"sql/{file}", schema))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in queries:
                raise ValueError(f"sql/{file}: there are two queries called {name}")
            queries[name] = " ".join(line.strip() for line in _COMMENT.sub("", text).splitlines()).strip()
    return queries
