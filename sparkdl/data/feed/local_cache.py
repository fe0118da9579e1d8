"""Keep a copy of what was read from remote storage on the local disk.

Runs in rank processes; called by the reader's threads.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import weakref

__all__ = ["LocalCache"]

log = logging.getLogger(__name__)


class LocalCache:
    """Byte strings by number, in a file without a name: the system frees it when the process ends, however it ends.

    When the disk is full nothing more is kept, and said so once; what is missing is read from its source again.
    """

    def __init__(self) -> None:
        self._file, path = tempfile.mkstemp(prefix="sparkdl-cache-")
        os.unlink(path)
        self.close = weakref.finalize(self, os.close, self._file)
        """Free the disk. Happens by itself when nobody holds the cache any more."""
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0
        self._full = False
        self._lock = threading.Lock()

    def get(self, number: int) -> bytes | None:
        """What was put there, or None."""
        place = self._places.get(number)
        return None if place is None else os.pread(self._file, place[1], place[0])

    def put(self, number: int, content: memoryview) -> None:
        """Keep a copy, if there is room for it."""
        with self._lock:
            if self._full or number in self._places:
                return
            start, self._end = self._end, self._end + len(content)
        try:
            written = 0
            while written < len(content):
                written += os.pwrite(self._file, content[written:], start + written)
        except OSError as error:
            self._full = True
            log.warning("no more is cached on the local disk (%s); the rest is read from its source each epoch", error)
            return
        self._places[number] = (start, len(content))
