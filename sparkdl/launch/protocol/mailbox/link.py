"""Connect a task with the driver through files in a folder that all hosts see: the task's end of the mailbox.

Runs in each task (Spark worker) that cannot reach the driver's port. The driver sends its messages to all ranks, so one
file holds them; each rank writes separate files. Files are sealed with the run's secret; a file without a valid seal is
never taken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from sparkdl import storage
from sparkdl.launch.protocol.mailbox.file import ALIVE, DRIVER, FRAMES, PACE, Name, Pace, pack, seal, unpack, unseal
from sparkdl.launch.protocol.messages import Bye, Message, decode, encode
from sparkdl.launch.protocol.warn_once import WarnOnce

__all__ = ["MailboxLink"]

log = logging.getLogger(__name__)

FILE_BYTES = 16 << 20
# Includes the frames that are being written: a task must not hold its rank's whole value in memory.
QUEUE_BYTES = 32 << 20
JOIN_S = 1.0


class MailboxLink:
    """Exchange messages with the driver. One link for each rank of a run.

    The link has two threads: one writes the queued frames, the other reads the driver's messages and writes signs of
    life.
    """

    def __init__(self, folder: str, *, rank: int, key: bytes, pace: Pace = PACE) -> None:
        self._folder = folder
        self._rank = rank
        self._key = key
        self._pace = pace
        self._poll_s = pace.poll_of(folder)
        self._warn = WarnOnce(log)
        self._changed = threading.Condition()
        self._frames: deque[bytes] = deque()
        self._queued = 0  # bytes, including those that are being written
        self._received: deque[Message] = deque()
        self._received_count = 0
        self._driver_number = 0
        self._heard = time.monotonic()
        self._written = float("-inf")
        self._writing_since: float | None = None
        self._closing = False
        self._over = False
        self._threads = [
            threading.Thread(target=target, name=f"mailbox of rank {rank}", daemon=True)
            for target in (self._write_frames, self._follow_driver)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, message: Message) -> None:
        """Queue a message; wait while the queue is full. Does nothing if the driver is gone (as `receive` reports)."""
        frame = encode(message)
        with self._changed:
            while self._queued + len(frame) > QUEUE_BYTES and not self._closing and not self._is_over():
                self._changed.wait(self._poll_s)
            if not self._closing and not self._is_over():
                self._put(frame)

    def receive(self) -> Message | None:
        """Wait for the driver's next message; None if this link was closed, or the driver has ended or is silent."""
        with self._changed:
            while not self._received and not self._closing and not self._is_over():
                self._changed.wait(self._poll_s)
            return self._received.popleft() if self._received else None

    def close(self) -> None:
        """Write the queued frames, as long as files can be written and the driver lives; then end the threads."""
        with self._changed:
            if not self._closing:
                self._say_bye()
            while not self._is_over():
                self._changed.wait(self._poll_s)
        for thread in self._threads:
            thread.join(self._poll_s + JOIN_S)  # a thread that hangs in the storage is left behind

    def _put(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._queued += len(frame)
        self._changed.notify_all()

    def _say_bye(self) -> None:
        self._closing = True
        self._put(encode(Bye()))

    def _is_over(self) -> bool:
        """Tell whether the link has ended, for writing and reading; the caller holds `_changed`."""
        now, pace = time.monotonic(), self._pace
        if not self._over:
            if now - self._heard > pace.silence_s:
                self._end("rank %d heard nothing of the driver through %s for %g s", pace.silence_s)
            elif self._writing_since is not None and now - self._writing_since > pace.write_s:
                self._end("rank %d could write no file to %s for %g s", pace.write_s)
        return self._over

    def _end(self, reason: str, seconds: float) -> None:
        self._over = True
        self._changed.notify_all()
        self._warn("end", reason, self._rank, self._folder, seconds)

    def _write_frames(self) -> None:
        number = 0
        while frames := self._next_frames():
            number += 1
            content = pack(frames)
            while not self._write(FRAMES, number, content):
                with self._changed:
                    if self._changed.wait_for(self._is_over, self._poll_s):
                        return
            with self._changed:
                self._writing_since = None
                self._queued -= sum(map(len, frames))
                self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _next_frames(self) -> list[bytes]:
        """Wait for the frames of the next file: all that came since the last file was begun; nothing at the end."""
        with self._changed:
            while not self._is_over() and not (self._closing and not self._frames):
                wait_s = self._written + self._poll_s - time.monotonic()
                if self._frames and (wait_s <= 0 or self._closing or self._queued >= FILE_BYTES):
                    self._writing_since = time.monotonic()
                    return self._first_frames()
                self._changed.wait(wait_s if self._frames else self._poll_s)
            return []

    def _first_frames(self) -> list[bytes]:
        frames = [self._frames.popleft()]
        total = len(frames[0])
        while self._frames and total + len(self._frames[0]) <= FILE_BYTES:
            frames.append(self._frames.popleft())
            total += len(frames[-1])
        return frames

    def _write(self, role: str, number: int, content: bytes) -> bool:
        name = Name(role=role, rank=self._rank, number=number)
        sealed = seal(self._key, role, self._rank, number, content)
        with self._warn.about("write", "rank %d cannot write to %s: %s", self._rank, self._folder):
            storage.write_atomic(storage.join(self._folder, str(name)), sealed, durable=False)
            self._written = time.monotonic()
            return True
        return False

    def _follow_driver(self) -> None:
        number = 0
        while True:
            self._hear_driver()
            if time.monotonic() >= self._written + self._pace.beat_s and self._write(ALIVE, number + 1, b""):
                number += 1
            with self._changed:
                if self._changed.wait_for(self._is_over, self._poll_s):
                    return

    def _hear_driver(self) -> None:
        try:
            sealed = storage.read_bytes(storage.join(self._folder, DRIVER))
        except FileNotFoundError:  # HDFS has no file while it is replaced; a lost driver shows by its silence
            return
        except Exception as error:  # any type: stores raise what they like
            self._warn("read", "rank %d cannot read from %s: %s", self._rank, self._folder, error)
            return
        opened = unseal(self._key, DRIVER, 0, sealed)
        if opened is None or opened[0] < self._driver_number:
            self._warn("strange", "rank %d ignores a file in %s that is not this run's", self._rank, self._folder)
            return
        number, content = opened
        with self._changed:
            if number == self._driver_number:
                return
            self._driver_number = number
            self._heard = time.monotonic()
            messages = [decode(frame) for frame in unpack(content)]
            for message in messages[self._received_count :]:
                if not isinstance(message, Bye):
                    self._received.append(message)
                else:  # the driver would read no more frames
                    self._frames.clear()
                    self._say_bye()
            self._received_count = len(messages)
            self._changed.notify_all()
