"""What a launch keeps on S3: moto's server on loopback."""

import hashlib
import os
import threading
import time

import pytest

from sparkdl import storage
from sparkdl.launch.protocol.mailbox.file import Pace
from sparkdl.launch.protocol.mailbox.folder import mailbox_name
from sparkdl.launch.protocol.mailbox.link import MailboxLink
from sparkdl.launch.protocol.mailbox.server import MailboxServer
from sparkdl.launch.protocol.messages import Finish, Message, Value
from sparkdl.launch.worker import rank_log_file

pytestmark = pytest.mark.timeout(120)
LIMIT_S = 60
PACE = Pace(first_poll_s=0.05, remote_poll_s=0.05, beat_s=0.2, silence_s=LIMIT_S, end_s=LIMIT_S)


def test_a_driver_and_two_ranks_speak_through_a_bucket(bucket):
    folder = f"s3://{bucket}/runs/{mailbox_name('1a2b')}"
    got: dict[int, list[str]] = {0: [], 1: []}
    lost: list[int] = []

    def keep(rank, message):
        got[rank].append(hashlib.sha256(message.content).hexdigest())

    bodies = [os.urandom(1 << 20) for _ in range(20)]
    answers: dict[int, list[Message | None]] = {}

    def run_rank(rank):
        link = MailboxLink(folder, rank=rank, key=b"secret", pace=PACE)
        for body in bodies:
            link.send(Value(content=body))
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
        server.tell_all(Finish())
    for thread in threads:
        thread.join(LIMIT_S)
    assert got[0] == got[1] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert answers == {0: [Finish(), None], 1: [Finish(), None]}
    assert lost == []
    assert storage.listing(f"s3://{bucket}/runs") == []


def test_a_ranks_log_is_replaced_whole_while_it_grows(bucket, monkeypatch):
    monkeypatch.setattr(rank_log_file, "UPLOAD_EVERY_S", 0.05)
    monkeypatch.setattr(rank_log_file, "UPLOAD_PAUSES", 0)
    path = rank_log_file.rank_log_path(f"s3://{bucket}/logs", 3, 8)
    line = "x" * 99_999
    with rank_log_file.RankLog(path, header="head") as lines:
        for _ in range(200):  # 20 MB: more than one part of an upload
            lines.write(line)
        for _ in range(LIMIT_S * 10):
            if storage.exists(path) and line in storage.read_bytes(path).decode():
                break
            time.sleep(0.1)
        lines.write("last")
        partial = storage.read_bytes(path).decode()
        assert partial.startswith("head\n") and set(partial.splitlines()[1:]) <= {line, "last"}
    assert storage.read_bytes(path).decode().splitlines() == ["head", *[line] * 200, "last"]


def test_a_log_for_a_bucket_that_is_not_there_is_one_warning(s3_environment, caplog):
    with rank_log_file.RankLog("s3://no-such-bucket/logs/rank-0000.log", header="head") as lines:
        lines.write("x")
    assert sum("cannot be uploaded" in record.getMessage() for record in caplog.records) == 1
