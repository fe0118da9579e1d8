"""The control channel between the driver and the tasks: JSON messages over authenticated sockets.

The server runs on the driver, the link in each task (Spark worker). Nothing that arrives is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

__all__ = ["ControlServer", "Link"]

MAX_MESSAGE_BYTES = 4 << 20
AUTHENTICATION_LIMIT_S = 10
# A host that vanished without closing its connections is noticed after about 30 s.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))


@contextlib.contextmanager
def _socket_of(connection: Connection) -> Any:
    with socket.socket(fileno=os.dup(connection.fileno())) as view:
        yield view


def _limit_receive(connection: Connection, seconds: int) -> None:
    with _socket_of(connection) as view:
        view.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def _keep_alive(connection: Connection) -> None:
    with _socket_of(connection) as view:
        view.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            view.setsockopt(socket.IPPROTO_TCP, option, value)


class Link:
    """One end of an authenticated connection: JSON objects in both directions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        _keep_alive(connection)

    @classmethod
    def to(cls, address: tuple[str, int], key: bytes) -> Link:
        """Connect to the driver. Raises OSError or multiprocessing.AuthenticationError."""
        return cls(Client(address, family="AF_INET", authkey=key))

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; nothing happens if the other end is gone (receiving tells)."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send_bytes(json.dumps(message).encode())

    def receive(self) -> dict[str, Any] | None:
        """Wait for the next message; None if the other end is gone or sends what is none."""
        try:
            message = json.loads(self._connection.recv_bytes(MAX_MESSAGE_BYTES))
        except (OSError, EOFError, ValueError):
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Close it; a thread that waits in `receive` gets None."""
        with contextlib.suppress(OSError), _socket_of(self._connection) as view:
            view.shutdown(socket.SHUT_RDWR)


class ControlServer:
    """The driver's side: accepts one link per rank, passes on what ranks say, tells all of them something.

    A context manager; at its end the listening socket and all links are closed.
    """

    def __init__(
        self,
        bind_address: str,
        *,
        key: bytes,
        size: int,
        on_message: Callable[[int, dict[str, Any]], None],
        on_lost: Callable[[int], None],
    ) -> None:
        self._bind_address = bind_address
        self._key = key
        self._size = size
        self._on_message = on_message
        self._on_lost = on_lost
        self._links: dict[int, Link] = {}
        self._last_word: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> ControlServer:
        # Without a key here: the secret is checked in each connection's own thread, so that a peer that fails it, or
        # says nothing, holds up nobody.
        self._listener = Listener((self._bind_address, 0), family="AF_INET", backlog=self._size + 16)
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        host, port = self._listener.address
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=1).close()  # wakes the thread in accept
        self._thread.join(timeout=2)
        self._listener.close()
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.close()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.address[1])

    def tell_all(self, message: dict[str, Any]) -> None:
        """Send a message to every rank, also to those that connect later."""
        with self._lock:
            self._last_word = message
            links = list(self._links.values())
        for link in links:
            link.send(message)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection = self._listener.accept()
            except OSError:
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        with connection:
            try:
                _limit_receive(connection, AUTHENTICATION_LIMIT_S)
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                link = Link(connection)
                hello = link.receive() or {}
                rank = int(hello["rank"])
                _limit_receive(connection, 0)
            except Exception:  # not one of ours: whatever it sent, it is turned away
                return
            self._follow(link, rank)

    def _follow(self, link: Link, rank: int) -> None:
        with self._lock:
            self._links[rank] = link
            last_word = self._last_word
        if last_word is not None:
            link.send(last_word)
        while (message := link.receive()) is not None:
            self._on_message(rank, message)
        if not self._closed:
            self._on_lost(rank)
