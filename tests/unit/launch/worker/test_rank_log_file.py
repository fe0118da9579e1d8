"""A rank's log in a file: local files, and fsspec's memory filesystem in place of a remote store."""

import logging
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from processes import wait_until
from sparkdl import storage
from sparkdl.launch.worker import rank_log_file
from sparkdl.launch.worker.rank_log_file import RankLog, launch_folder_name, rank_log_header, rank_log_path
from sparkdl.launch.world import World

pytestmark = pytest.mark.timeout(60)
LIMIT_S = 20
HEADER = "sparkdl: rank 0/1 host-a, 2026-11-21 10:30:00 UTC"


@pytest.fixture
def remote(tmp_path):
    path = f"memory://{tmp_path}/logs/rank-0000.log"
    yield path
    storage.delete(path)


def test_names_of_launches_sort_by_time_in_every_zone():
    moment = datetime(2026, 11, 21, 10, 30, tzinfo=timezone.utc)
    assert launch_folder_name(moment, "1a2b") == "20261121-103000-1a2b"
    assert launch_folder_name(moment.astimezone(timezone(timedelta(hours=9))), "1a2b") == "20261121-103000-1a2b"


@pytest.mark.parametrize(
    ("rank", "size", "name"),
    [(3, 8, "rank-0003.log"), (0, 1, "rank-0000.log"), (7, 10_000, "rank-0007.log"), (7, 10_001, "rank-00007.log")],
)
def test_a_logs_name_has_digits_enough_to_sort_by_rank(rank, size, name):
    assert rank_log_path("s3://bucket/logs", rank, size) == f"s3://bucket/logs/{name}"


def test_the_header_says_who_where_and_when():
    place = World(rank=0, size=1, host="host-a")
    assert rank_log_header(place, datetime(2026, 11, 21, 11, 30, tzinfo=timezone(timedelta(hours=1)))) == HEADER


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_log_has_each_line_at_once(tmp_path, scheme):
    path = tmp_path / "logs" / "rank-0000.log"
    with RankLog(f"{scheme}{path}", header=HEADER) as lines:
        assert path.read_text() == f"{HEADER}\n"
        lines.write("zwölf \udc80")
        assert path.read_text() == f"{HEADER}\nzwölf ?\n"
    lines.write("late")
    assert path.read_text() == f"{HEADER}\nzwölf ?\n"


def test_a_remote_log_is_there_at_the_end(remote):
    with RankLog(remote, header=HEADER) as lines:
        for number in range(1000):
            lines.write(str(number))
        assert not storage.exists(remote)  # not before its first interval
    assert storage.read_bytes(remote).decode().splitlines() == [HEADER, *map(str, range(1000))]


def test_a_remote_log_is_uploaded_meanwhile_only_if_something_came(remote, monkeypatch):
    monkeypatch.setattr(rank_log_file, "UPLOAD_EVERY_S", 0.02)
    uploads = []
    write_from = storage.write_from

    def count(path, source, size):
        uploads.append(size)
        write_from(path, source, size)

    monkeypatch.setattr(storage, "write_from", count)
    with RankLog(remote, header=HEADER) as lines:
        for text in ("one", "two", "three"):
            lines.write(text)
            wait_until(lambda: storage.exists(remote) and text in storage.read_bytes(remote).decode())  # noqa: B023
    assert storage.read_bytes(remote).decode().splitlines() == [HEADER, "one", "two", "three"]
    assert uploads == sorted(set(uploads))


def test_slow_uploads_come_seldom(remote, monkeypatch):
    monkeypatch.setattr(rank_log_file, "UPLOAD_EVERY_S", 0.01)
    monkeypatch.setattr(rank_log_file, "UPLOAD_PAUSES", 10_000)
    uploads = []

    def upload_slowly(path, source, size):
        uploads.append(size)
        time.sleep(0.05)

    monkeypatch.setattr(storage, "write_from", upload_slowly)
    with RankLog(remote, header=HEADER) as lines:
        wait_until(lambda: uploads)
        for _ in range(20):
            lines.write("more")
            time.sleep(0.01)
        assert len(uploads) == 1
    assert len(uploads) == 2


@pytest.mark.parametrize("local", [True, False])
def test_a_full_log_says_so_once_and_leaves_the_rest_out(tmp_path, remote, local):
    path = str(tmp_path / "log") if local else remote
    with RankLog(path, header="head", limit=20) as lines:
        for text in ("0123456789", "01234567890123456789", "x"):
            lines.write(text)
    expected = "head\n0123456789\nsparkdl: this log is full; the rest is left out\n"
    assert storage.read_bytes(path).decode() == expected


def test_a_log_that_cannot_be_opened_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    with RankLog(str(tmp_path / "file" / "log"), header=HEADER) as lines:
        lines.write("x")
        lines.write("y")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "file/log is not kept" in caplog.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_warning(caplog):
    with RankLog("/dev/full", header=HEADER) as lines:
        lines.write("x")
        lines.write("y")
    assert [record.getMessage() for record in caplog.records] == [
        "the log /dev/full lacks lines: [Errno 28] No space left on device"
    ]


def test_a_store_that_refuses_is_one_warning_and_is_tried_again(remote, monkeypatch, caplog):
    monkeypatch.setattr(rank_log_file, "UPLOAD_EVERY_S", 0.01)
    write_from, failures = storage.write_from, iter(range(3))

    def fail_at_first(path, source, size):
        if next(failures, None) is not None:
            raise PermissionError("not today")
        write_from(path, source, size)

    monkeypatch.setattr(storage, "write_from", fail_at_first)
    with RankLog(remote, header=HEADER) as lines:
        wait_until(lambda: storage.exists(remote))
        lines.write("x")
    assert storage.read_bytes(remote).decode().splitlines() == [HEADER, "x"]
    assert len(caplog.records) == 1 and "not today" in caplog.text


def test_a_store_that_does_not_answer_holds_up_neither_writing_nor_for_ever_the_end(remote, monkeypatch, caplog):
    monkeypatch.setattr(rank_log_file, "UPLOAD_EVERY_S", 0.01)
    monkeypatch.setattr(rank_log_file, "CLOSE_S", 0.1)
    begun, answered = threading.Event(), threading.Event()

    def hang(path, source, size):
        begun.set()
        answered.wait(LIMIT_S)

    monkeypatch.setattr(storage, "write_from", hang)
    with RankLog(remote, header=HEADER) as lines:
        assert begun.wait(LIMIT_S)
        lines.write("x")
    assert "may lack its last lines: its upload takes longer than 0.1 s" in caplog.text
    answered.set()
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "rank log"])
