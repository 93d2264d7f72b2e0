"""A TCP proxy before a Postgres server, whose network a test can break. It runs in an event loop of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import parse_qs, urlsplit

import anyio
import anyio.abc
import anyio.from_thread

CHUNK = 65_536


class Proxy:
    """Forwards connections to a server.

    Attributes:
        url: the database as it is reached through the proxy.
        refuses: new connections are closed at once.
        delay: seconds that each chunk takes on its way.
        cut_after: each connection is cut in the middle of a chunk once it has passed on so many bytes to the client.
    """

    def __init__(self, socket: str, path: str) -> None:
        self._socket = socket
        self._path = path
        self.url = ""
        self.refuses = False
        self.delay = 0.0
        self.cut_after: int | None = None
        self.accepted = 0
        self._connections: set[anyio.CancelScope] = set()

    def stall(self) -> None:
        """From now on nothing arrives, in either direction, and nobody is told."""
        self._portal.call(self._stall)

    def flow(self) -> None:
        """What was kept goes on."""
        self._portal.call(self._flows.set)

    def cut(self) -> int:
        """Close every connection; how many there were."""
        return self._portal.call(self._cut)

    async def serve(
        self,
        portal: anyio.from_thread.BlockingPortal,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        self._portal = portal
        self._flows = anyio.Event()
        self._flows.set()
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            self.url = f"postgresql://postgres@127.0.0.1:{port}{self._path}"
            task_status.started()
            await listener.serve(self._connect)

    async def _stall(self) -> None:
        self._flows = anyio.Event()

    async def _cut(self) -> int:
        scopes = list(self._connections)
        for scope in scopes:
            scope.cancel()
        return len(scopes)

    async def _connect(self, client: anyio.abc.SocketStream) -> None:
        self.accepted += 1
        async with client:
            if self.refuses:
                return
            with anyio.CancelScope() as scope:
                self._connections.add(scope)
                try:
                    async with await anyio.connect_unix(self._socket) as server, anyio.create_task_group() as group:
                        group.start_soon(self._forward, client, server, group.cancel_scope, False)
                        group.start_soon(self._forward, server, client, group.cancel_scope, True)
                finally:
                    self._connections.discard(scope)

    async def _forward(
        self,
        source: anyio.abc.SocketStream,
        target: anyio.abc.SocketStream,
        scope: anyio.CancelScope,
        to_client: bool,
    ) -> None:
        passed = 0
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            while True:
                chunk = await source.receive(CHUNK)
                await anyio.sleep(self.delay)
                await self._flows.wait()
                passed += len(chunk)
                if to_client and self.cut_after is not None and passed >= self.cut_after:
                    await target.send(chunk[: len(chunk) // 2])
                    break
                await target.send(chunk)
        scope.cancel()


@contextmanager
def open_proxy(url: str) -> Iterator[Proxy]:
    """A proxy before the server that `url` reaches through a Unix socket."""
    parts = urlsplit(url)
    (folder,) = parse_qs(parts.query)["host"]
    proxy = Proxy(f"{folder}/.s.PGSQL.5432", parts.path)
    with anyio.from_thread.start_blocking_portal("trio") as portal:
        served, _ = portal.start_task(proxy.serve, portal)
        try:
            yield proxy
        finally:
            served.cancel()
