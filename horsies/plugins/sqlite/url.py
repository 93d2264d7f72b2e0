"""Which database a URL means."""

from __future__ import annotations

from horsies import HorsiesError

MEMORY = ":memory:"


def database_path(url: str) -> str:
    """The path of the file, taken as it stands (no %XX), or `MEMORY`.

    Raises:
        HorsiesError: HRS-203, the URL names neither.
    """
    _, _, rest = url.partition("://")
    if rest == MEMORY:
        return MEMORY
    path = rest.removeprefix("/")
    # SQLite would take ":memory:" for its own word; "?" and "#" look like options, of which there are none.
    if not rest.startswith("/") or path in ("", MEMORY) or path.endswith("/") or set(path) & set("?#\0"):
        raise HorsiesError(
            "HRS-203",
            "url cannot be read as a SQLite URL",
            [
                "give sqlite:///relative.db, sqlite:////absolute.db or sqlite://:memory:",
                "a file is named as it stands: no host, no options after ?",
            ],
        )
    return path


def describe(path: str) -> str:
    """The database in words."""
    return "in memory" if path == MEMORY else f"file {path}"
