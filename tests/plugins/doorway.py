"""A TCP address that leads to one server now and to another later, as a service name does around a failover."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from psycopg.conninfo import conninfo_to_dict


def _connect_to(url: str) -> socket.socket:
    parameters = conninfo_to_dict(url)
    host, port = str(parameters["host"]), int(parameters.get("port") or 5432)
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


class Doorway:
    """Hands connections on to the server at `leads_to`, which the test changes.

    Attributes:
        url: the database as it is reached through it.
    """

    def __init__(self, leads_to: str) -> None:
        parameters = conninfo_to_dict(leads_to)
        self.leads_to = leads_to
        self._front = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.port = self._front.getsockname()[1]
        user, database = parameters.get("user") or "postgres", parameters.get("dbname") or "postgres"
        self.url = f"postgresql://{user}@127.0.0.1:{self.port}/{database}?sslmode=disable&gssencmode=disable"
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def cut(self) -> None:
        """End every connection through it."""
        for pair in list(self._pairs):
            _end(*pair)

    def close(self) -> None:
        _end(self._front)
        self._threads[0].join(10)
        self._front.close()
        self.cut()
        for thread in self._threads[1:]:
            thread.join(10)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._front.accept()
                try:
                    pair = client, _connect_to(self.leads_to)
                except OSError:
                    client.close()
                    continue
                self._pairs.append(pair)
                self._threads.append(threading.Thread(target=self._join, args=(pair,)))
                self._threads[-1].start()

    def _join(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with pair[0], pair[1], suppress(OSError):
            other = {pair[0]: pair[1], pair[1]: pair[0]}
            while True:
                for end in select.select(pair, (), ())[0]:
                    if not (data := end.recv(65536)):
                        _end(*pair)
                        self._pairs.remove(pair)
                        return
                    other[end].sendall(data)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def doorway(leads_to: str) -> Iterator[Doorway]:
    """A doorway that is open for the length of the block."""
    with closing(Doorway(leads_to)) as door:
        yield door


@contextmanager
def silent_address() -> Iterator[str]:
    """An address on loopback whose packets are dropped: neither an answer nor a refusal comes."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        waiting = []
        for _ in range(4):  # its queue is full from then on
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(hole.getsockname())
            waiting.append(one)
        try:
            yield f"127.0.0.1:{hole.getsockname()[1]}"
        finally:
            for one in waiting:
                one.close()
