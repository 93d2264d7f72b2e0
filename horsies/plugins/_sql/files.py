"""The SQL files of a broker: queries, of which a line `-- name: something` opens each, and numbered migrations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import resources

_TABLES = ("tasks", "workers", "queues", "schedules", "workflows")
_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)
_COMMENT = re.compile(r"^--.*\n?", re.MULTILINE)
_MIGRATION = re.compile(r"(\d{3})_[a-z_]+\.sql")
_READABLE_FROM = re.compile(r"^-- readable_from: (\d+)$", re.MULTILINE)


def without_comments(sql: str) -> str:
    return _COMMENT.sub("", sql).strip()


def read_file(package: str, path: str) -> str:
    """A file of `package`."""
    return resources.files(package).joinpath(path).read_text(encoding="utf-8")


def read_queries(read: Callable[[str], str]) -> dict[str, str]:
    """Every query of `sql/*.sql`, without comments, by the names of its file and its own: `tasks.claim`.

    Args:
        read: gives the text of the file at a path.
    """
    return {f"{table}.{name}": text for table in _TABLES for name, text in read_named(read(f"sql/{table}.sql"))}


def read_named(text: str) -> Iterator[tuple[str, str]]:
    """What each line `-- name: something` opens, without comments, and its name."""
    _, *parts = _NAME.split(text)
    for name, part in zip(parts[::2], parts[1::2], strict=True):
        yield name, without_comments(part)


def migrations_of(package: str) -> dict[int, str]:
    """The file in `migrations/` of each version, in order. Versions count from 1 without a gap."""
    names = sorted(entry.name for entry in resources.files(package).joinpath("migrations").iterdir())
    found = {int(match[1]): name for name in names if (match := _MIGRATION.fullmatch(name))}
    if list(found) != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations are not numbered from 1 without a gap: {', '.join(found.values())}")
    return found


def readable_from(migration: str) -> int | None:
    """Which version's code can still use the schema once `migration` is applied, where its text says so."""
    found = _READABLE_FROM.search(migration)
    return None if found is None else int(found[1])
