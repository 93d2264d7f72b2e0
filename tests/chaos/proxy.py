"""A TCP proxy before a Postgres server, whose network a test can break. It runs in threads, beside any event loop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs, urlsplit

CHUNK = 65_536


class Proxy:
    """Forwards connections to a server.

    Attributes:
        url: the database as it is reached through the proxy.
        refuses: new connections are closed at once.
        delay: seconds that each chunk takes on its way.
        cut_after: each connection is cut in the middle of a chunk once it has passed on so many bytes to the client.
    """

    def __init__(self, upstream: str, path: str) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"postgresql://postgres@127.0.0.1:{self._listener.getsockname()[1]}{path}"
        self.refuses = False
        self.delay = 0.0
        self.cut_after: int | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self) -> None:
        """From now on nothing arrives, in either direction, and nobody is told."""
        self._flows.clear()

    def flow(self) -> None:
        """What was kept goes on."""
        self._flows.set()

    def cut(self) -> int:
        """Close every connection; how many there were."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _shut(*pair)
        return len(pairs)

    def cut_with(self, code: str) -> int:
        """As `cut`, after a farewell as a pooler says it: FATAL, with this SQLSTATE."""
        fields = f"SFATAL\0VFATAL\0C{code}\0Mthe pooler has had enough\0\0".encode()
        for client, _ in self._pairs:
            with suppress(OSError):
                client.sendall(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        return self.cut()

    def close(self) -> None:
        _shut(self._listener)
        self.cut()
        self.flow()

    def _accept(self) -> None:
        with suppress(OSError), self._listener:
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    if self.refuses:
                        raise ConnectionRefusedError
                    server.connect(self._upstream)
                except OSError:
                    client.close()
                    server.close()
                    continue
                self._pairs.append((client, server))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(source, target, source is server), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, to_client: bool) -> None:
        passed = 0
        with suppress(OSError), source:  # each socket is the source of one of two threads
            while chunk := source.recv(CHUNK):
                time.sleep(self.delay)
                self._flows.wait()
                passed += len(chunk)
                if to_client and self.cut_after is not None and passed >= self.cut_after:
                    target.sendall(chunk[: len(chunk) // 2])
                    break
                target.sendall(chunk)
        _shut(target)


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def open_proxy(url: str) -> Iterator[Proxy]:
    """A proxy before the server that `url` reaches through a Unix socket."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    proxy = Proxy(f"{folder}/.s.PGSQL.5432", parts.path)
    try:
        yield proxy
    finally:
        proxy.close()
