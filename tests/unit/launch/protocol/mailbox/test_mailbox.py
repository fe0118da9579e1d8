"""The mailbox: a driver and ranks that speak through a folder, in one process."""

import dataclasses
import hashlib
import logging
import os
import queue
import threading
import time

import pytest

from processes import wait_until
from sparkdl import LaunchError, storage
from sparkdl.launch.protocol.mailbox import link as mailbox_link
from sparkdl.launch.protocol.mailbox.file import ALIVE, DRIVER, FRAMES, Name, Pace, pack, seal, unseal
from sparkdl.launch.protocol.mailbox.folder import mailbox_name, remove_leftovers
from sparkdl.launch.protocol.mailbox.link import MailboxLink
from sparkdl.launch.protocol.mailbox.server import MailboxServer
from sparkdl.launch.protocol.messages import Bye, Event, Finish, Line, Stop, Value, encode

pytestmark = pytest.mark.timeout(60)
KEY = b"secret"
LIMIT_S = 20
# Silence is as long as the tests' own limit: a machine under load must not end what is no test of silence.
QUICK = Pace(first_poll_s=0.02, poll_s=0.02, remote_poll_s=0.02, beat_s=0.05, silence_s=LIMIT_S)
IMPATIENT = Pace(first_poll_s=0.02, poll_s=0.02, remote_poll_s=0.02, beat_s=0.05, silence_s=0.5, end_s=0.1)
DAY_S = 24 * 3600


class Driver:
    """A server, and what it heard."""

    def __init__(self, folder, size=2, pace=QUICK, on_message=None):
        self.heard: queue.SimpleQueue = queue.SimpleQueue()
        self.lost: queue.SimpleQueue = queue.SimpleQueue()
        self.server = MailboxServer(
            folder, key=KEY, size=size, on_message=on_message or self._keep, on_lost=self.lost.put, pace=pace
        )

    def _keep(self, rank, message):
        self.heard.put((rank, message))

    def next(self):
        return self.heard.get(timeout=LIMIT_S)

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / mailbox_name("test"))


@pytest.fixture
def driver(folder):
    with Driver(folder) as driver:
        yield driver


@pytest.fixture
def link_of(folder):
    links = []

    def make(rank, pace=QUICK, key=KEY):
        links.append(MailboxLink(folder, rank=rank, key=key, pace=pace))
        return links[-1]

    yield make
    for link in links:
        link.close()


def put_file(folder, rank, number, messages, *, key=KEY, role=FRAMES):
    """Write a file as a rank does; its bytes."""
    sealed = seal(key, role, rank, number, pack([encode(message) for message in messages]))
    put_bytes(folder, rank, number, sealed, role=role)
    return sealed


def put_bytes(folder, rank, number, content, *, role=FRAMES):
    storage.write_atomic(storage.join(folder, str(Name(role=role, rank=rank, number=number))), content)


def put_driver(folder, number, messages, *, key=KEY):
    sealed = seal(key, DRIVER, 0, number, pack([encode(message) for message in messages]))
    storage.write_atomic(storage.join(folder, DRIVER), sealed)


def test_messages_and_values_reach_the_driver_with_their_rank(driver, link_of):
    link = link_of(1)
    link.send(Line(text="é"))
    link.send(Value(content=b"\x00body"))
    assert driver.next() == (1, Line(text="é"))
    assert driver.next() == (1, Value(content=b"\x00body"))
    link_of(0).send(Line(text="x"))
    assert driver.next() == (0, Line(text="x"))
    assert driver.server.ranks == {0, 1}


def test_a_rank_is_heard_before_it_says_anything(driver, link_of):
    assert driver.server.ranks == frozenset()
    link_of(1)
    wait_until(lambda: driver.server.ranks == {1})
    assert driver.heard.empty()


def test_what_the_driver_tells_reaches_every_rank_also_later_ones_in_order(driver, link_of):
    early = link_of(0)
    driver.server.tell_all(Line(text="a"))
    assert early.receive() == Line(text="a")
    driver.server.tell_all(Line(text="b"))
    late = link_of(1)
    assert [early.receive(), late.receive(), late.receive()] == [Line(text="b"), Line(text="a"), Line(text="b")]


def test_a_word_of_the_driver_does_not_wait_for_its_next_sign_of_life(folder, link_of):
    with Driver(folder, pace=dataclasses.replace(QUICK, beat_s=LIMIT_S * 10)) as driver:
        link = link_of(0)
        wait_until(lambda: driver.server.ranks == {0})
        driver.server.tell_all(Stop())
        assert link.receive() == Stop()


def test_order_is_kept_under_many_messages(driver, link_of):
    def talk(link):
        for number in range(3000):
            link.send(Value(content=number.to_bytes(2, "big") + bytes(number % 50)))
        link.close()

    threads = [threading.Thread(target=talk, args=(link_of(rank),)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    got = {0: [], 1: []}
    for _ in range(6000):
        rank, message = driver.next()
        got[rank].append(message.content)
    for thread in threads:
        thread.join(LIMIT_S)
    expected = [number.to_bytes(2, "big") + bytes(number % 50) for number in range(3000)]
    assert got == {0: expected, 1: expected}
    assert driver.heard.empty()


def test_64_mib_of_bodies_arrive_whole(folder, link_of):
    sums, sizes = {0: hashlib.sha256(), 1: hashlib.sha256()}, {0: 0, 1: 0}

    def add(rank, message):
        sums[rank].update(message.content)
        sizes[rank] += len(message.content)

    with Driver(folder, on_message=add) as driver:
        blocks = [os.urandom(1 << 20) for _ in range(4)]

        def talk(link):
            for number in range(64):
                link.send(Value(content=blocks[number % 4]))
            link.close()

        threads = [threading.Thread(target=talk, args=(link_of(rank),)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT_S)
        assert driver.server.catch_up(LIMIT_S)
        assert driver.lost.empty()
    expected = hashlib.sha256(b"".join(blocks) * 16).hexdigest()
    assert sizes == {0: 64 << 20, 1: 64 << 20}
    assert [sums[rank].hexdigest() for rank in (0, 1)] == [expected, expected]


def test_bodies_travel_in_few_files_of_limited_size(folder, link_of, monkeypatch):
    monkeypatch.setattr(mailbox_link, "FILE_BYTES", 100_000)
    put_driver(folder, 1, [])
    link = link_of(0)
    for _ in range(100):
        link.send(Value(content=bytes(9_000)))
    link.close()
    sizes = [size for name, size in storage.sizes(folder).items() if name.startswith(FRAMES)]
    assert max(sizes) < 101_000
    assert 10 <= len(sizes) <= 20


def test_a_closed_link_has_written_all_that_was_queued(folder, link_of, monkeypatch):
    monkeypatch.setattr(mailbox_link, "JOIN_S", 0)
    monkeypatch.setattr(mailbox_link, "FILE_BYTES", 1_000)
    write = storage.write_atomic

    def write_slowly(path, content, **options):
        time.sleep(0.02)
        write(path, content, **options)

    put_driver(folder, 1, [])
    monkeypatch.setattr(storage, "write_atomic", write_slowly)
    link = link_of(0)
    for _ in range(20):
        link.send(Value(content=bytes(1_000)))
    link.close()
    assert len([name for name in storage.listing(folder) if name.startswith(FRAMES)]) == 21  # with the bye


def test_after_a_link_was_closed_one_look_hears_all_of_it(folder, link_of):
    slow = Pace(first_poll_s=LIMIT_S, poll_s=LIMIT_S, beat_s=0.05)
    with Driver(folder, pace=slow) as driver:
        link = link_of(0)
        for number in range(10):
            link.send(Event(event={"number": number}))
        link.close()
        assert driver.server.catch_up(LIMIT_S)
        assert [driver.heard.get_nowait()[1].event["number"] for _ in range(10)] == list(range(10))


def test_files_that_were_read_are_deleted(driver, folder, link_of):
    link = link_of(0)
    link.send(Line(text="x"))
    link.close()
    driver.next()
    wait_until(lambda: storage.listing(folder) == [DRIVER])


def test_both_sides_show_that_they_live(folder, link_of):
    put_driver(folder, 1, [])
    link_of(0)
    wait_until(lambda: str(Name(role=ALIVE, rank=0, number=3)) in storage.listing(folder))
    with Driver(folder):
        wait_until(lambda: unseal(KEY, DRIVER, 0, storage.read_bytes(storage.join(folder, DRIVER)))[0] >= 4)


def test_a_silent_rank_is_lost_once_and_one_that_said_bye_is_not(folder, link_of):
    with Driver(folder, size=3, pace=IMPATIENT) as driver:
        put_file(folder, 0, 1, [Line(text="x"), Bye()])
        assert driver.next() == (0, Line(text="x"))
        put_file(folder, 1, 1, [Line(text="x")])
        assert driver.lost.get(timeout=LIMIT_S) == 1
        put_file(folder, 1, 2, [Line(text="too late")])
        put_file(folder, 2, 1, [Line(text="x")])
        assert driver.lost.get(timeout=LIMIT_S) == 2
        assert [driver.next() for _ in range(2)] == [(1, Line(text="x")), (2, Line(text="x"))]
        assert driver.heard.empty() and driver.lost.empty()


def test_a_rank_whose_message_the_driver_cannot_take_is_lost(folder, link_of, caplog):
    def fail(rank, message):
        raise KeyError("outcome")

    with Driver(folder, on_message=fail) as driver:
        link_of(1).send(Line(text="x"))
        assert driver.lost.get(timeout=LIMIT_S) == 1
    assert "cannot take a message of rank 1" in caplog.text


def test_a_task_whose_driver_is_silent_ends(folder, link_of, caplog):
    put_driver(folder, 1, [Line(text="last")])
    link = link_of(0, pace=IMPATIENT)
    assert link.receive() == Line(text="last")
    assert link.receive() is None
    link.send(Line(text="nobody"))
    link.close()
    assert [record.getMessage() for record in caplog.records] == [
        f"rank 0 heard nothing of the driver through {folder} for 0.5 s"
    ]


def test_a_sender_waits_for_room_and_not_for_ever(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(mailbox_link, "QUEUE_BYTES", 10_000)
    (tmp_path / "file").touch()
    begun = time.monotonic()
    link = MailboxLink(str(tmp_path / "file" / "box"), rank=0, key=KEY, pace=IMPATIENT)
    for _ in range(30):
        link.send(Value(content=bytes(1_000)))
    assert time.monotonic() - begun >= IMPATIENT.silence_s  # it waited; the driver was never heard
    link.close()
    assert sum("cannot write to" in record.getMessage() for record in caplog.records) == 1


def test_a_task_that_cannot_write_gives_up_even_if_the_driver_lives(tmp_path, link_of, folder, monkeypatch):
    pace = dataclasses.replace(QUICK, write_s=0.2)
    with Driver(folder, pace=dataclasses.replace(QUICK, end_s=0.1)):
        write = storage.write_atomic

        def refuse(path, content, **options):
            if FRAMES in path.rpartition("/")[2]:
                raise OSError("disk full")
            write(path, content, **options)

        monkeypatch.setattr(storage, "write_atomic", refuse)
        link = link_of(0, pace=pace)
        link.send(Line(text="x"))
        assert link.receive() is None


def test_a_file_that_could_not_be_written_is_written_later(driver, link_of, monkeypatch):
    write, failures = storage.write_atomic, iter(range(3))

    def fail_at_first(path, content, **options):
        if FRAMES in path.rpartition("/")[2] and next(failures, None) is not None:
            raise OSError("busy")
        write(path, content, **options)

    monkeypatch.setattr(storage, "write_atomic", fail_at_first)
    link = link_of(0)
    for number in range(5):
        link.send(Event(event={"number": number}))
    assert [driver.next()[1].event["number"] for _ in range(5)] == list(range(5))


def test_what_the_driver_cannot_read_or_delete_at_once_it_does_later_and_in_order(folder, monkeypatch):
    for number in range(1, 6):
        put_file(folder, 0, number, [Event(event={"number": number})])
    read, delete, failures = storage.read_bytes, storage.delete_file, iter(range(6))

    def fail_at_first(path):
        if path.endswith(("2", "4")) and next(failures, None) is not None:
            raise OSError("busy")

    def read_later(path):
        fail_at_first(path)
        return read(path)

    def delete_later(path):
        fail_at_first(path)
        delete(path)

    monkeypatch.setattr(storage, "read_bytes", read_later)
    monkeypatch.setattr(storage, "delete_file", delete_later)
    with Driver(folder, pace=dataclasses.replace(QUICK, end_s=0.1)) as driver:
        assert [driver.next()[1].event["number"] for _ in range(5)] == [1, 2, 3, 4, 5]
        wait_until(lambda: storage.listing(folder) == [DRIVER])
        assert driver.heard.empty()


def test_a_file_of_somebody_else_is_ignored_until_the_rank_writes_its_own(driver, folder, link_of, caplog):
    put_file(folder, 1, 1, [Line(text="forged")], key=b"wrong")
    put_file(folder, 1, 2, [Line(text="forged")], key=b"wrong")
    put_bytes(folder, 0, 1, b"")
    wait_until(lambda: "no rank of this run wrote it" in caplog.text)
    assert driver.server.ranks == frozenset()
    link_of(1).send(Line(text="true"))
    assert driver.next() == (1, Line(text="true"))
    assert driver.heard.empty()
    assert len(caplog.records) == 1


def test_a_file_that_is_played_again_is_not_taken(driver, folder, caplog):
    first = put_file(folder, 0, 1, [Line(text="first")])
    assert driver.next()[1] == Line(text="first")
    put_bytes(folder, 0, 1, first)  # as it was: it is swept
    put_bytes(folder, 0, 2, first)  # as the next
    put_bytes(folder, 1, 1, first)  # as another rank's
    put_bytes(folder, 0, 1, first, role=ALIVE)
    wait_until(lambda: caplog.records and "rank-00000-0000000001" not in storage.listing(folder))
    put_file(folder, 0, 2, [Line(text="second"), Bye()])
    assert driver.next()[1] == Line(text="second")
    assert driver.server.ranks == {0}
    assert len(caplog.records) == 1


def test_a_task_takes_no_forged_and_no_old_word_of_the_driver(folder, link_of, caplog):
    put_driver(folder, 2, [Line(text="a")])
    link = link_of(0)
    assert link.receive() == Line(text="a")
    put_driver(folder, 3, [Line(text="a"), Line(text="forged")], key=b"wrong")
    wait_until(lambda: "is not this run's" in caplog.text)
    put_driver(folder, 1, [Line(text="a"), Line(text="old")])
    beats = len(storage.listing(folder))
    wait_until(lambda: len(storage.listing(folder)) >= beats + 3)  # it looked several times meanwhile
    put_driver(folder, 3, [Line(text="a"), Line(text="b")])
    assert link.receive() == Line(text="b")
    assert len(caplog.records) == 1


def test_at_its_end_the_driver_lets_its_tasks_go_and_leaves_nothing(folder, tmp_path, link_of):
    with Driver(folder) as driver:
        links = [link_of(rank) for rank in (0, 1)]
        wait_until(lambda: driver.server.ranks == {0, 1})
        driver.server.tell_all(Finish())
    for link in links:
        assert link.receive() == Finish()
        assert link.receive() is None
        link.send(Line(text="nobody"))
        link.close()
    assert driver.lost.empty()
    assert os.listdir(tmp_path) == []
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("mailbox")])


def test_the_driver_ends_though_a_rank_does_not_answer(folder, tmp_path):
    with Driver(folder, pace=dataclasses.replace(QUICK, end_s=0.1)) as driver:
        put_file(folder, 0, 1, [Line(text="x")])
        driver.next()
    assert driver.lost.empty()
    assert os.listdir(tmp_path) == []


def test_closing_a_link_wakes_who_waits_for_the_driver(driver, link_of):
    link = link_of(0)
    got: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=lambda: got.put(link.receive()), daemon=True).start()
    link.close()
    assert got.get(timeout=LIMIT_S) is None


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(LaunchError, match=r"file/mailbox-x cannot be written: .*; name a folder"),
        Driver(str(tmp_path / "file" / mailbox_name("x"))),
    ):
        pass


def test_a_server_removes_what_killed_drivers_left_beside_it(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for token, age in (("dead", 2 * DAY_S), ("living", 0), ("orphan", 2 * DAY_S), ("empty", 2 * DAY_S)):
        path = tmp_path / mailbox_name(token)
        path.mkdir()
        if token != "empty":
            (path / (DRIVER if token != "orphan" else "alive-00000-0000000001")).write_bytes(b"x")
        for file in (*path.iterdir(), path):
            os.utime(file, (time.time() - age, time.time() - age))
    (tmp_path / "logs").mkdir()
    os.utime(tmp_path / "logs", (0, 0))
    with Driver(folder):
        wait_until(lambda: sorted(os.listdir(tmp_path)) == ["logs", "mailbox-living", "mailbox-test"])
    assert sorted(os.listdir(tmp_path)) == ["logs", "mailbox-living"]


def test_where_nothing_can_be_looked_for_nothing_is_removed(tmp_path):
    (tmp_path / mailbox_name("old")).mkdir()
    os.utime(tmp_path / mailbox_name("old"), (0, 0))
    remove_leftovers(str(tmp_path / mailbox_name("new")))
    remove_leftovers(str(tmp_path / "a folder of the user's"))
    assert os.listdir(tmp_path) == [mailbox_name("old")]
