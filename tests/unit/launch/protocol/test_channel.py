"""The control channel: messages both ways, and peers that are none of ours."""

import queue
import socket
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge

import pytest

from sparkdl.launch.protocol.channel import ControlServer, SocketLink
from sparkdl.launch.protocol.messages import Line, Stop, Value

pytestmark = pytest.mark.timeout(30)
KEY = b"secret"


@pytest.fixture
def heard():
    return queue.SimpleQueue()


@pytest.fixture
def server(heard):
    with ControlServer(
        "127.0.0.1",
        key=KEY,
        size=2,
        on_message=lambda rank, message: heard.put((rank, message)),
        on_lost=lambda rank: heard.put((rank, "lost")),
        silence_s=3,
    ) as server:
        yield server


def connect(server, rank):
    return SocketLink.to(("127.0.0.1", server.port), KEY, rank)


def test_a_message_reaches_the_driver_with_its_rank(server, heard):
    connect(server, 1).send(Line(text="é"))
    assert heard.get(timeout=10) == (1, Line(text="é"))


def test_values_arrive_in_the_order_sent(server, heard):
    link = connect(server, 0)
    for number in range(50):
        link.send(Value(content=bytes([number]) * 100_000))
    for number in range(50):
        assert heard.get(timeout=10) == (0, Value(content=bytes([number]) * 100_000))


def test_a_rank_that_falls_silent_is_lost_and_one_that_lives_is_not(server, heard):
    alive = connect(server, 0)
    frozen = connect(server, 1)
    frozen._closed.set()  # as if its process were stopped: no more signs of life
    assert heard.get(timeout=10) == (1, "lost")
    alive.send(Line(text="x"))
    assert heard.get(timeout=10) == (0, Line(text="x"))


def test_a_driver_that_falls_silent_ends_the_link():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mute = threading.Thread(target=serve_hello_and_fall_silent, args=(listener,))
        mute.start()
        link = SocketLink.to(listener.getsockname(), KEY, 0, silence_s=1)
        assert link.receive() is None
        link.close()
        mute.join(10)


def serve_hello_and_fall_silent(listener):
    connection = Connection(listener.accept()[0].detach())
    with connection:
        deliver_challenge(connection, KEY)
        answer_challenge(connection, KEY)
        while connection.poll(5):
            try:
                connection.recv_bytes()
            except EOFError:
                return


def test_a_driver_that_cannot_be_reached_is_an_os_error():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(OSError):
        SocketLink.to(address, KEY, 0)


def test_the_server_knows_when_every_rank_has_connected(server, heard):
    connect(server, 0).send(Line(text="x"))
    assert heard.get(timeout=10) == (0, Line(text="x")) and not server.is_complete
    connect(server, 1).send(Line(text="x"))
    assert heard.get(timeout=10) == (1, Line(text="x")) and server.is_complete


def test_a_word_to_all_also_reaches_ranks_that_connect_later(server, heard):
    server.tell_all(Stop())
    assert connect(server, 0).receive() == Stop()


def test_a_broken_link_is_reported(server, heard):
    connect(server, 1).close()
    assert heard.get(timeout=10) == (1, "lost")


def test_a_peer_with_a_wrong_key_is_refused_and_the_next_rank_is_served(server, heard):
    with pytest.raises(AuthenticationError):
        SocketLink.to(("127.0.0.1", server.port), b"wrong", 0)
    connect(server, 0).send(Line(text="x"))
    assert heard.get(timeout=10) == (0, Line(text="x"))


def test_a_peer_that_says_nothing_or_nonsense_holds_up_nobody(server, heard):
    with (
        socket.create_connection(("127.0.0.1", server.port)),
        socket.create_connection(("127.0.0.1", server.port)) as second,
    ):
        second.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connect(server, 0).send(Line(text="x"))
        assert heard.get(timeout=5) == (0, Line(text="x"))


def test_after_its_block_the_server_listens_no_more(heard):
    with ControlServer("127.0.0.1", key=KEY, size=1, on_message=print, on_lost=print) as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
