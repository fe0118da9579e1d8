"""Connect the driver and the tasks by the control channel: frames over authenticated sockets.

The server runs on the driver, the link in each task (Spark worker). Nothing that arrives is unpickled here. Both sides
send signs of life, so that a host that vanished, or a process that is stopped, is noticed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from typing import Any

from sparkdl.errors import LaunchError
from sparkdl.launch.protocol.deliver import OnMessage, deliver
from sparkdl.launch.protocol.messages import MAX_FRAME_BYTES, Alive, Hello, Message, decode, encode

__all__ = ["ControlServer", "SocketLink"]

CONNECT_LIMIT_S = 5.0
AUTHENTICATION_LIMIT_S = 10.0
ALIVE_S = 1.0
# Only Python's own thread switches delay a task's sign of life.
TASK_SILENCE_S = 12.0
# The driver is the user's program: a library in it may hold the interpreter for some seconds, and the driver lives.
DRIVER_SILENCE_S = 30.0


@contextlib.contextmanager
def _socket_of(connection: Connection) -> Any:
    with socket.socket(fileno=os.dup(connection.fileno())) as view:
        yield view


def _limit_waits(connection: Connection, seconds: float) -> None:
    """Make sending and receiving fail where no byte moves for `seconds`."""
    whole = int(seconds)
    limit = struct.pack("ll", whole, int(1e6 * (seconds - whole)))
    with _socket_of(connection) as view:
        view.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        view.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


class SocketLink:
    """Hold one end of an authenticated connection."""

    def __init__(self, connection: Connection, silence_s: float) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._closed = threading.Event()
        _limit_waits(connection, silence_s)

    @classmethod
    def to(cls, address: tuple[str, int], key: bytes, rank: int, *, silence_s: float = DRIVER_SILENCE_S) -> SocketLink:
        """Connect to the driver as this rank.

        Raises OSError if the driver cannot be reached within five seconds, multiprocessing.AuthenticationError if the
        driver has another secret.
        """
        opened = socket.create_connection(address, timeout=CONNECT_LIMIT_S)
        opened.settimeout(None)
        connection = Connection(opened.detach())
        try:
            _limit_waits(connection, AUTHENTICATION_LIMIT_S)
            answer_challenge(connection, key)
            deliver_challenge(connection, key)
        except EOFError as error:
            connection.close()
            raise ConnectionError("it closed the connection at once") from error
        except BaseException:
            connection.close()
            raise
        link = cls(connection, silence_s)
        link.send(Hello(rank=rank))
        threading.Thread(target=link._stay_alive, daemon=True).start()
        return link

    def send(self, message: Message) -> None:
        """Send a message; nothing happens if the other end is gone (`receive` then returns None)."""
        frame = encode(message)
        try:
            with self._sending:
                self._connection.send_bytes(frame)
        except OSError:  # half a frame may be under way: no other frame can follow
            self.close()

    def receive(self) -> Message | None:
        """Wait for the next message; None if the other end is gone, silent for too long, or sends an invalid frame."""
        try:
            while isinstance(message := decode(self._connection.recv_bytes(MAX_FRAME_BYTES)), Alive):
                pass
            return message
        except (OSError, EOFError, ValueError):
            return None

    def close(self) -> None:
        """Close the connection; a thread that waits in `receive` gets None."""
        self._closed.set()
        with contextlib.suppress(OSError), _socket_of(self._connection) as view:
            view.shutdown(socket.SHUT_RDWR)

    def _stay_alive(self) -> None:
        while not self._closed.wait(ALIVE_S):
            self.send(Alive())


class ControlServer:
    """Serve the driver's side: accept one link per rank, pass on the ranks' messages, send messages to all ranks.

    A context manager; at its end the listening socket and all links are closed. Entering raises LaunchError where the
    port cannot be listened on; port 0 is any free port.
    """

    def __init__(
        self,
        bind_address: str,
        *,
        port: int = 0,
        key: bytes,
        size: int,
        on_message: OnMessage,
        on_lost: Callable[[int], None],
        silence_s: float = TASK_SILENCE_S,
    ) -> None:
        self._address = (bind_address, port)
        self._key = key
        self._size = size
        self._on_message = on_message
        self._on_lost = on_lost
        self._silence_s = silence_s
        self._links: dict[int, SocketLink] = {}
        self._said: list[Message] = []
        self._lock = threading.Lock()

    def __enter__(self) -> ControlServer:
        # Without a key here: the secret is checked in each connection's own thread, so that a peer that fails the
        # check, or sends nothing, blocks nobody.
        try:
            self._listener = Listener(self._address, family="AF_INET", backlog=self._size + 16)
        except OSError as error:
            host, port = self._address
            raise LaunchError(
                f"the driver cannot listen on {host}:{port} for its ranks: {error}"
                + ("; driver_port=0 takes any free port" if port else "")
            ) from error
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._accept, self._stay_alive)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        host, port = self._listener.address
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), timeout=1).close()  # wakes the thread in accept
        for thread in self._threads:
            thread.join(timeout=2)
        self._listener.close()
        for link in self._current_links():
            link.close()

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return int(self._listener.address[1])

    @property
    def is_complete(self) -> bool:
        """True once every rank has connected."""
        with self._lock:
            return len(self._links) == self._size

    def tell_all(self, message: Message) -> None:
        """Send a message to every rank, also to those that connect later."""
        with self._lock:
            if len(self._links) < self._size:
                self._said.append(message)
            links = list(self._links.values())
        for link in links:
            link.send(message)

    def _current_links(self) -> list[SocketLink]:
        with self._lock:
            return list(self._links.values())

    def _stay_alive(self) -> None:
        while not self._closed.wait(ALIVE_S):
            for link in self._current_links():
                link.send(Alive())

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection = self._listener.accept()
            except OSError:
                continue
            try:
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            except RuntimeError:  # the system allows no more threads now: the peer tries again, or is lost
                connection.close()

    def _serve(self, connection: Connection) -> None:
        with connection:
            try:
                _limit_waits(connection, AUTHENTICATION_LIMIT_S)
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                link = SocketLink(connection, self._silence_s)
                hello = link.receive()
            except (AuthenticationError, OSError, EOFError, ValueError, AssertionError):
                return  # not a rank of this run: refused, whatever it sent
            if isinstance(hello, Hello):
                self._follow(link, hello.rank)

    def _follow(self, link: SocketLink, rank: int) -> None:
        with self._lock:
            self._links[rank] = link
            said = list(self._said)
        for message in said:
            link.send(message)
        deliver(self._on_message, rank, iter(link.receive, None))
        if not self._closed.is_set():
            self._on_lost(rank)
