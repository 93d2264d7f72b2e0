"""The SQL files of this package, filled in for a schema."""

from __future__ import annotations

import re
from functools import cache, partial

from .._sql.files import read_file, read_named, read_queries

_PART = re.compile(r"\{([a-z_]+)(?:: ([^{}]+))?\}")
"""In the text of a query: a part of `sql/parts.sql`, and the rows that it is about."""
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
    return fill_in(read_file(__package__, path), schema)


@cache
def named_queries(schema: str) -> dict[str, str]:
    """Every query by its name, on one line: above 4,096 bytes psycopg would parse it each time."""
    read = partial(read_file, __package__)
    parts = dict(read_named(read("sql/parts.sql")))

    def part(found: re.Match[str]) -> str:
        return parts[found[1]].replace("{rows}", found[2] or "") if found[1] in parts else found[0]

    return {
        name: " ".join(line.strip() for line in fill_in(_PART.sub(part, text), schema).splitlines())
        for name, text in read_queries(read).items()
    }
