"""A PgBouncer before a Postgres server, as Debian installs it, which a test can kill and start again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

BINARY = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))

_SETTINGS = """\
[databases]
* = {server}
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
unix_socket_mode = 0777
auth_type = any
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = {clients}
server_login_retry = 1
"""


class PgBouncer:
    """A running PgBouncer; `open_pgbouncer` makes it.

    Attributes:
        url: the database as it is reached through it.
    """

    def __init__(self, url: str, folder: Path, *, mode: str, pool_size: int, clients: int) -> None:
        server = {key: str(value) for key, value in conninfo_to_dict(url).items() if value}
        database = server.pop("dbname", "postgres")
        server.setdefault("user", "postgres")
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # as which it refuses to run
            data = Path(server["host"])
            owner = data.stat().st_uid if data.is_dir() else 0
            self._user = {"user": owner or "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, owner or "nobody")
        settings = _SETTINGS.format(
            folder=folder,
            mode=mode,
            pool_size=pool_size,
            clients=clients,
            server=" ".join(f"{key}={value}" for key, value in server.items() if key in _KNOWN),
        )
        if _version() >= (1, 21):
            settings += "max_prepared_statements = 0\n"
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(settings)
        self._log = folder / "log"
        self.url = f"postgresql://{server['user']}@/{database}?host={quote(str(folder))}&port=6432"
        self.start()

    def start(self) -> None:
        """Start it, and wait until the database answers through it."""
        assert BINARY is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [BINARY, str(self._settings)], stdout=log, stderr=log, start_new_session=True, **self._user
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.Error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PgBouncer does not run: {self._log.read_text()}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, with every connection in either direction."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def log(self) -> str:
        """What it has written so far."""
        return self._log.read_text()


_KNOWN = {"host", "port", "user", "password"}


def _version() -> tuple[int, ...]:
    assert BINARY is not None
    text = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+)\.(\d+)", text)
    assert match is not None
    return tuple(map(int, match.groups()))


@contextmanager
def open_pgbouncer(
    url: str, *, mode: str = "transaction", pool_size: int = 20, clients: int = 500
) -> Iterator[PgBouncer]:
    """A PgBouncer before the server at `url`."""
    with TemporaryDirectory(prefix="horsies-pgb-") as folder:
        pgbouncer = PgBouncer(url, Path(folder), mode=mode, pool_size=pool_size, clients=clients)
        try:
            yield pgbouncer
        finally:
            pgbouncer.kill()
