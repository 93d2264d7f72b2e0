"""The named queries of `sql/*.sql`: a line `-- name: something` opens each."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_FILES = ("tasks.sql", "workers.sql", "queues.sql", "schedules.sql", "workflows.sql")
_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)


_KEYWORD_BYTES = 31
"""No keyword of SQL is longer. A longer name stays unquoted, or the longest query would pass psycopg's 4,096 bytes."""


def quoted(schema: str) -> str:
    """`schema` as an identifier. `AppConfig` has checked its letters, so it can only be a reserved word."""
    return f'"{schema}"' if len(schema) <= _KEYWORD_BYTES else schema


def fill_in(text: str, schema: str) -> str:
    """`text` for `schema`: an identifier, except where it is the beginning of a channel's name."""
    return text.replace("{schema}_", f"{schema}_").replace("{schema}", quoted(schema))


def read_sql(path: str, schema: str) -> str:
    """A file of this package, for `schema`."""
    return fill_in(resources.files(__package__).joinpath(path).read_text(encoding="utf-8"), schema)


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
