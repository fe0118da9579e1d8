"""Connect the driver with its tasks through files in a shared folder: the driver's end of the mailbox.

Runs on the driver, for tasks whose host cannot reach the driver's port. The content of a file is read only after its
seal was checked, and nothing is unpickled.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from sparkdl import storage
from sparkdl.errors import LaunchError
from sparkdl.launch.protocol.deliver import OnMessage, deliver
from sparkdl.launch.protocol.mailbox.file import (
    DRIVER,
    FRAMES,
    PACE,
    Name,
    Pace,
    pack,
    plan_reading,
    seal,
    silent_ranks,
    unpack,
    unseal,
)
from sparkdl.launch.protocol.mailbox.folder import remove_leftovers
from sparkdl.launch.protocol.messages import Bye, Message, decode, encode
from sparkdl.launch.protocol.warn_once import WarnOnce

__all__ = ["MailboxServer"]

log = logging.getLogger(__name__)

# The number of files in the driver's memory at a time, and of requests under way.
READERS = 4
# The limit for a storage that does not answer.
JOIN_S = 10.0


class MailboxServer:
    """Read the files that ranks write into a folder, and send messages to all ranks.

    A context manager; it makes the folder, and removes the folder at its end. A folder that cannot be removed, or was
    left by a driver that was killed, is removed a day later by the next server in the same parent folder.

    Args:
        folder: local path or URL, named by `mailbox_name`, where the driver and all tasks can write.
        on_message: takes each message; one call at a time.
        on_lost: called once for a rank that wrote and then is silent without having ended, or that sends an invalid
            message.
    """

    def __init__(
        self,
        folder: str,
        *,
        key: bytes,
        size: int,
        on_message: OnMessage,
        on_lost: Callable[[int], None],
        pace: Pace = PACE,
    ) -> None:
        self._folder = folder
        self._key = key
        self._size = size
        self._on_message = on_message
        self._on_lost = on_lost
        self._pace = pace
        self._warn = WarnOnce(log)
        self._changed = threading.Condition()
        self._said: list[bytes] = []
        self._unsent = False
        self._number = 0
        self._taken: dict[tuple[str, int], int] = {}
        self._heard: dict[int, float] = {}
        self._ended: set[int] = set()
        self._looks_begun = 0
        self._looks_done = 0
        self._hurry = False
        self._closing = False
        self._limit = float("inf")

    def __enter__(self) -> MailboxServer:
        """Make the folder and start the threads. Raises LaunchError if the folder cannot be written."""
        try:
            self._write_messages(self._said)
        except Exception as error:  # any type: stores raise what they like
            way_out = "name a folder that the driver and all tasks can write to"
            raise LaunchError(f"the mailbox {self._folder} cannot be written: {error}; {way_out}") from error
        self._threads = [
            threading.Thread(target=target, name="mailbox", daemon=True)
            for target in (self._tell, self._look, partial(remove_leftovers, self._folder))
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with self._changed:
                self._closing = self._hurry = True
                self._limit = time.monotonic() + self._pace.end_s
                self._changed.notify_all()
            for thread in self._threads:
                thread.join(JOIN_S)
        finally:
            # What is left the next server in the same parent removes.
            with self._warn.about("remove", "the mailbox %s is left behind: %s", self._folder):
                storage.delete(self._folder)

    @property
    def ranks(self) -> frozenset[int]:
        """The ranks that have written to the mailbox."""
        with self._changed:
            return frozenset(self._heard)

    def tell_all(self, message: Message) -> None:
        """Queue a message to every rank, also to those that come later. Returns at once."""
        with self._changed:
            self._said.append(encode(message))
            self._unsent = True
            self._changed.notify_all()

    def catch_up(self, limit_s: float) -> bool:
        """Wait until all files that are in the folder now were passed on: True, or False if that takes longer."""
        with self._changed:
            aim = self._looks_begun + 1
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._looks_done >= aim, limit_s)

    def _write_messages(self, frames: Sequence[bytes]) -> None:
        self._number += 1  # also after a write that failed: the file may have arrived nevertheless
        sealed = seal(self._key, DRIVER, 0, self._number, pack(frames))
        storage.write_atomic(storage.join(self._folder, DRIVER), sealed, durable=False)

    def _tell(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent or self._closing, self._pace.beat_s)
                closing, self._unsent = self._closing, False
                frames = [*self._said, encode(Bye())] if closing else list(self._said)
            try:
                self._write_messages(frames)
            except Exception as error:  # any type: stores raise what they like; the next turn tries again
                self._warn("write", "the driver cannot write to %s: %s", self._folder, error)
                with self._changed:
                    self._unsent = True
                    self._changed.wait_for(lambda: self._closing, self._pace.poll_of(self._folder))
            if closing:
                return

    def _look(self) -> None:
        with ThreadPoolExecutor(READERS, thread_name_prefix="mailbox") as pool:
            while True:
                with self._changed:
                    closing, self._hurry = self._closing, False
                    self._looks_begun += 1
                self._look_once(pool)
                with self._changed:
                    self._looks_done += 1
                    self._changed.notify_all()
                    # Until a task knows that the driver ends, the task writes on and would make the folder anew.
                    if closing and (self._heard.keys() <= self._ended or time.monotonic() > self._limit):
                        return
                    wait_s = self._pace.poll_of(self._folder) if self._heard else self._pace.first_poll_s
                    self._changed.wait_for(lambda: self._hurry, wait_s)

    def _look_once(self, pool: ThreadPoolExecutor) -> None:
        listed_at = time.monotonic()
        names: list[str] = []
        with self._warn.about("list", "the driver cannot list %s: %s", self._folder):
            names = storage.listing(self._folder)  # where this fails, ranks that stay silent count as lost
        reading = plan_reading(names, self._taken, self._size)
        files = (*reading.alive, *reading.frames)
        for start in range(0, len(files), READERS):
            if time.monotonic() > self._limit:
                return
            batch = files[start : start + READERS]
            contents = pool.map(self._open, batch)
            taken = [
                name for name, content in zip(batch, contents, strict=True) if self._take(name, content, listed_at)
            ]
            list(pool.map(self._delete, taken))
        list(pool.map(self._delete, reading.spent))
        if not self._closing:
            for rank in silent_ranks(self._heard, self._ended, listed_at=listed_at, silence_s=self._pace.silence_s):
                self._lose(rank)

    def _open(self, name: Name) -> bytes | None:
        """Return a file's content, or None if the file cannot be read now or was not written by the rank."""
        try:
            sealed = storage.read_bytes(storage.join(self._folder, str(name)))
        except Exception as error:  # any type: stores raise what they like; the next turn tries again
            self._warn("read", "the driver cannot read %s of %s: %s", name, self._folder, error)
            return None
        opened = unseal(self._key, name.role, name.rank, sealed)
        if opened is None or opened[0] != name.number:
            self._warn("strange", "the driver ignores %s of %s: no rank of this run wrote it", name, self._folder)
            return None
        return opened[1]

    def _take(self, name: Name, content: bytes | None, listed_at: float) -> bool:
        """Take a file, unless this file or one before it could not be read."""
        before = self._taken.get((name.role, name.rank), 0)
        if content is None or (name.role == FRAMES and name.number != before + 1):
            return False
        self._taken[name.role, name.rank] = name.number
        with self._changed:
            self._heard[name.rank] = listed_at
        rank = name.rank
        if name.role != FRAMES or rank in self._ended:
            return True
        if not deliver(self._on_message, rank, self._messages_in(rank, content)):
            self._lose(rank)
        return True

    def _messages_in(self, rank: int, content: bytes) -> Iterator[Message]:
        for frame in unpack(content):
            message = decode(frame)
            if isinstance(message, Bye):
                self._ended.add(rank)
                return
            yield message

    def _lose(self, rank: int) -> None:
        self._ended.add(rank)
        self._on_lost(rank)

    def _delete(self, name: Name) -> None:
        with self._warn.about("delete", "the driver cannot delete %s of %s: %s", name, self._folder):
            storage.delete_file(storage.join(self._folder, str(name)))
