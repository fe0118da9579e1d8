"""The control channel: messages both ways, and peers that are none of ours."""

import queue
import socket
from multiprocessing import AuthenticationError

import pytest

from sparkdl.launch.channel import ControlServer, Link

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
    ) as server:
        yield server


def connect(server, rank):
    link = Link.to(("127.0.0.1", server.port), KEY)
    link.send({"type": "hello", "rank": rank})
    return link


def test_a_message_reaches_the_driver_with_its_rank(server, heard):
    connect(server, 1).send({"type": "line", "text": "é"})
    assert heard.get(timeout=10) == (1, {"type": "line", "text": "é"})


def test_a_word_to_all_also_reaches_ranks_that_connect_later(server, heard):
    server.tell_all({"type": "stop"})
    assert connect(server, 0).receive() == {"type": "stop"}


def test_a_broken_link_is_reported(server, heard):
    connect(server, 1).close()
    assert heard.get(timeout=10) == (1, "lost")


def test_a_peer_with_a_wrong_key_is_refused_and_the_next_rank_is_served(server, heard):
    with pytest.raises(AuthenticationError):
        Link.to(("127.0.0.1", server.port), b"wrong")
    connect(server, 0).send({"type": "x"})
    assert heard.get(timeout=10) == (0, {"type": "x"})


def test_a_peer_that_says_nothing_or_nonsense_holds_up_nobody(server, heard):
    with (
        socket.create_connection(("127.0.0.1", server.port)),
        socket.create_connection(("127.0.0.1", server.port)) as second,
    ):
        second.sendall(b"GET / HTTP/1.1\r\n\r\n")
        connect(server, 0).send({"type": "x"})
        assert heard.get(timeout=5) == (0, {"type": "x"})


def test_after_its_block_the_server_listens_no_more(heard):
    with ControlServer("127.0.0.1", key=KEY, size=1, on_message=print, on_lost=print) as server:
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
