"""Keep a rank's output in a file, on any fsspec path.

Runs in the task (Spark worker) of the rank, or on the driver for local ranks. A log that cannot be kept does not fail a
run: trouble is logged once, and the run goes on.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from datetime import datetime, timezone
from typing import IO

from sparkdl import storage
from sparkdl.launch.protocol.warn_once import WarnOnce
from sparkdl.launch.world import World

__all__ = ["RankLog", "launch_folder_name", "rank_log_header", "rank_log_path"]

log = logging.getLogger(__name__)

LIMIT_BYTES = 1 << 30
"""The limit of a log: a rank that prints without end must not fill the disk."""

UPLOAD_EVERY_S = 30.0
# Uploads may take a twentieth of the time: each replaces the whole object, however long the log has become.
UPLOAD_PAUSES = 20
# The limit for the last upload of a large log; a store that does not answer must not hold the task without limit.
CLOSE_S = 120.0


def launch_folder_name(now: datetime, token: str) -> str:
    """Return the name of the folder for one launch's logs, such as `20261121-103000-1a2b`.

    The time is UTC, so that names sort by time; the token distinguishes launches of the same second.
    """
    return f"{now.astimezone(timezone.utc):%Y%m%d-%H%M%S}-{token}"


def rank_log_path(folder: str, rank: int, size: int) -> str:
    """Return the path of a rank's log in a launch's folder, such as `…/rank-0003.log`."""
    digits = max(4, len(str(size - 1)))
    return storage.join(folder, f"rank-{rank:0{digits}d}.log")


def rank_log_header(world: World, now: datetime) -> str:
    """Return the first line of a rank's log: the rank, its host, and the time of its start (UTC)."""
    return f"sparkdl: {world.describe()}, {now.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


class RankLog:
    """Write a rank's log, as a context manager: takes lines from one thread at a time and never raises.

    A local file has each line at once. On remote storage the whole file is uploaded from time to time, and at the end.

    Args:
        path: local path or URL of the file. A local file that exists is continued.
        header: the first line of the log.
        limit: bytes; lines beyond them are left out, and a last line says so.
    """

    def __init__(self, path: str, *, header: str, limit: int = LIMIT_BYTES) -> None:
        self._path = path
        self._header = header
        self._room = limit
        self._file: IO[bytes] | _Upload | None = None
        self._warn = WarnOnce(log)

    @classmethod
    def of(cls, folder: str, world: World) -> RankLog:
        """Make the log of a rank that starts now, in a launch's folder."""
        header = rank_log_header(world, datetime.now(timezone.utc))
        return cls(rank_log_path(folder, world.rank, world.size), header=header)

    def __enter__(self) -> RankLog:
        with self._warn.about("write", "the log %s is not kept: %s", self._path):
            self._file = _local_file(self._path) if storage.is_local(self._path) else _Upload(self._path, self._warn)
        self.write(self._header)
        return self

    def __exit__(self, *_: object) -> None:
        file, self._file = self._file, None
        if file is not None:
            with self._warn.about("write", "the log %s may lack its last lines: %s", self._path):
                file.close()

    def write(self, text: str) -> None:
        """Add a line; nothing happens outside the context, or once the log is full."""
        if self._file is None or self._room <= 0:
            return
        line = f"{text}\n".encode(errors="replace")
        self._room -= len(line)
        if self._room < 0:
            line = b"sparkdl: this log is full; the rest is left out\n"
        with self._warn.about("write", "the log %s lacks lines: %s", self._path):
            self._file.write(line)  # where this fails, there may be room again for later lines


def _local_file(path: str) -> IO[bytes]:
    """Open a file that has each line at once: `tail -f` shows it, and a process that is killed loses no line."""
    _, inner = storage.filesystem(path)
    os.makedirs(os.path.dirname(inner), exist_ok=True)
    return open(inner, "ab", buffering=0)


class _Upload:
    """Collect the lines in a local file without a name, which a thread uploads."""

    def __init__(self, path: str, warn: WarnOnce) -> None:
        self._path = path
        self._warn = warn
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._size = 0
        self._uploaded = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rank log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        self._size += self._file.write(line)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            raise TimeoutError(f"its upload takes longer than {CLOSE_S:g} s")

    def _run(self) -> None:
        pause_s = UPLOAD_EVERY_S
        with self._file:
            while not self._closing.wait(pause_s):
                pause_s = max(UPLOAD_EVERY_S, UPLOAD_PAUSES * self._upload())
            self._upload()

    def _upload(self) -> float:
        """Upload the file if it grew since the last upload; return the seconds that the upload took."""
        begun, size = time.monotonic(), self._size
        if size > self._uploaded:
            with self._warn.about("write", "the log %s cannot be uploaded: %s", self._path):
                storage.write_from(self._path, self._file, size)
                self._uploaded = size
        return time.monotonic() - begun
