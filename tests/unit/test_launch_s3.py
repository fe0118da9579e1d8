"""What a launch keeps on S3: moto's server on loopback."""

import hashlib
import os
import threading

import pytest

from sparkdl import storage
from sparkdl.launch.mailbox_file import Pace
from sparkdl.launch.mailbox_folder import mailbox_name
from sparkdl.launch.mailbox_link import MailboxLink
from sparkdl.launch.mailbox_server import MailboxServer

pytestmark = pytest.mark.timeout(120)
LIMIT_S = 60
PACE = Pace(first_poll_s=0.05, remote_poll_s=0.05, beat_s=0.2, silence_s=LIMIT_S, end_s=LIMIT_S)


def test_a_driver_and_two_ranks_speak_through_a_bucket(bucket):
    folder = f"s3://{bucket}/runs/{mailbox_name('1a2b')}"
    got: dict[int, list[tuple[int, str]]] = {0: [], 1: []}
    lost: list[int] = []

    def keep(rank, message, body):
        got[rank].append((message["number"], hashlib.sha256(body).hexdigest()))

    bodies = [os.urandom(1 << 20) for _ in range(20)]
    answers: dict[int, list[dict[str, str] | None]] = {}

    def run_rank(rank):
        link = MailboxLink(folder, rank=rank, key=b"secret", pace=PACE)
        for number, body in enumerate(bodies):
            link.send({"number": number}, body)
        answers[rank] = [link.receive(), link.receive()]
        link.close()

    with MailboxServer(folder, key=b"secret", size=2, on_message=keep, on_lost=lost.append, pace=PACE) as server:
        threads = [threading.Thread(target=run_rank, args=(rank,)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        all_there = threading.Event()
        for _ in range(600):
            if server.catch_up(LIMIT_S) and all(len(rows) == len(bodies) for rows in got.values()):
                all_there.set()
                break
        assert all_there.is_set()
        server.tell_all({"type": "finish"})
    for thread in threads:
        thread.join(LIMIT_S)
    assert got[0] == got[1] == [(number, hashlib.sha256(body).hexdigest()) for number, body in enumerate(bodies)]
    assert answers == {0: [{"type": "finish"}, None], 1: [{"type": "finish"}, None]}
    assert lost == []
    assert storage.listing(f"s3://{bucket}/runs") == []
