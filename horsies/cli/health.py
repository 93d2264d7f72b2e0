"""Health of a worker process over HTTP, for probes: `GET /livez` and `GET /readyz`.

The server lives on the worker's own event loop, so that an answer proves that the loop turns. It is no web server: one
request a connection, answered from memory, bounded in size, time and number, and nothing that a client sends or fails
to send ends more than its own connection. Clients that connect and say nothing keep no probe out: at the bound the
oldest connection makes room for the newest.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import anyio
import anyio.abc

from horsies import HorsiesError, Worker

logger = logging.getLogger("horsies.health")

LONGEST_REQUEST = 8192
"""Bytes of a request's head."""
PATIENCE = 5.0
"""Seconds for one connection, from its first byte to its last."""
MOST_CONNECTIONS = 64
"""Connections at once; a further one closes the oldest, because a probe is answered as soon as it has asked."""
LINGER, MOST_UNREAD = 1.0, 1024 * 1024
"""Seconds and bytes for which an answered client may go on sending. To close a socket with bytes of the client unread
resets the connection, and the client can lose the answer."""
ACCEPT_PAUSE = 1.0
"""Seconds before the next connection is accepted after one could not be, for want of file descriptors say."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Health:
    """What probes are told: whether the process is to be left alone, and whether it takes tasks."""

    live: bool
    ready: bool
    body: dict[str, object]


def health_of(worker: Worker | None, *, stopped: bool) -> Health:
    """The health of a process whose worker is `worker`; None while the runtime is still being opened."""
    if worker is None:
        return Health(not stopped, False, {"worker_id": None, "state": "stopped" if stopped else "starting"})
    if stopped:
        state = "stopped"
    elif worker.is_draining:
        state = "draining"
    else:
        state = "ready" if worker.is_ready and not worker.held else "not ready"
    counts = asdict(worker.statistics())
    worker_id = counts.pop("worker_id")
    body = {"worker_id": worker_id, "state": state, "counts": counts}
    return Health(not stopped, state == "ready", body | ({"held": worker.held} if worker.held else {}))


def response(head: bytes, health: Callable[[], Health]) -> bytes:
    """The answer to a request, of which `head` is everything up to the empty line."""
    method, target, version, *more = [*head.partition(b"\r\n")[0].split(b" "), b"", b""]
    if not version.startswith(b"HTTP/1.") or more != [b"", b""]:
        return _answer(400, {"error": "this is no HTTP/1 request"})
    path, with_body = target.partition(b"?")[0], method != b"HEAD"
    if path not in (b"/livez", b"/readyz"):
        return _answer(404, {"error": "there are /livez and /readyz"}, with_body=with_body)
    if method not in (b"GET", b"HEAD"):
        return _answer(405, {"error": "use GET or HEAD"}, "Allow: GET, HEAD")
    try:
        now = health()
        fine = now.live if path == b"/livez" else now.ready
        return _answer(200 if fine else 503, now.body, with_body=with_body)
    except Exception:  # a probe must not end the worker that it asks about
        logger.exception("the health of this worker cannot be told")
        return _answer(500, {"error": "the health of this worker cannot be told; see its log"}, with_body=with_body)


def _answer(status: int, body: dict[str, object], *headers: str, with_body: bool = True) -> bytes:
    content = json.dumps(body).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Cache-Control: no-store",
        "Connection: close",
        *headers,
        "\r\n",
    )
    return "\r\n".join(head).encode() + (content if with_body else b"")


@asynccontextmanager
async def serving(host: str, port: int, health: Callable[[], Health]) -> AsyncGenerator[None]:
    """Answer probes at `host` and `port` for as long as the block lasts.

    Raises:
        HorsiesError: HRS-206: nobody can listen there.
    """
    try:
        listeners = await anyio.create_tcp_listener(local_host=host, local_port=port)
    except (OSError, OverflowError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise HorsiesError(
            "HRS-206",
            f"cannot listen for health probes at {host}, port {port}: {cause}",
            [
                "--health-port takes a free port (with --processes N, the first of N free ones in a row)",
                "--health-host takes an address of this machine",
            ],
        ) from None
    async with listeners, anyio.create_task_group() as group:
        server = _Server(health, group)
        for listener in listeners.listeners:
            group.start_soon(server.listen, listener)
        try:
            yield
        finally:
            group.cancel_scope.cancel()


class _Server:
    def __init__(self, health: Callable[[], Health], group: anyio.abc.TaskGroup) -> None:
        self._health = health
        self._group = group
        self._open: dict[anyio.CancelScope, None] = {}  # the oldest first

    async def listen(self, listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        while True:
            try:
                await listener.serve(self.serve, self._group)
            except (OSError, anyio.BrokenResourceError) as error:
                logger.warning("cannot accept a health probe, trying again: %s", error.__cause__ or error)
                self._close_oldest()  # it may be what holds the last file descriptor
                await anyio.sleep(ACCEPT_PAUSE)

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Answer one connection and close it."""
        if len(self._open) >= MOST_CONNECTIONS:
            self._close_oldest()
        scope = anyio.move_on_after(PATIENCE)
        self._open[scope] = None
        try:
            async with stream:
                with scope:
                    await stream.send(response(await _head(stream), self._health))
                    await _see_it_off(stream)
        except (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # the client has gone
        finally:
            self._open.pop(scope, None)

    def _close_oldest(self) -> None:
        for oldest in self._open:
            del self._open[oldest]
            oldest.cancel()
            return


async def _see_it_off(stream: anyio.abc.SocketStream) -> None:
    """Let the client read the answer to its end, and throw away what it still sends."""
    await stream.send_eof()
    unread = 0
    with anyio.move_on_after(LINGER):
        while unread < MOST_UNREAD:
            unread += len(await stream.receive(LONGEST_REQUEST))


async def _head(stream: anyio.abc.SocketStream) -> bytes:
    """What the client sends before the empty line; of one that sends too much, nothing."""
    received = b""
    while b"\r\n\r\n" not in received:
        if len(received) >= LONGEST_REQUEST:
            return b""
        received += await stream.receive(LONGEST_REQUEST)
    return received
