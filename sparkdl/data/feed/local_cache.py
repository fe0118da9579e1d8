"""Keep copies of row groups from remote storage on the local disk.

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
    """Keep byte strings by number in an unnamed file, which the system frees when the process ends, even by a crash.

    When the disk is full, the cache warns once and keeps no more; callers read missing contents from their source
    again.
    """

    def __init__(self) -> None:
        self._file, path = tempfile.mkstemp(prefix="sparkdl-cache-")
        os.unlink(path)
        self.close = weakref.finalize(self, os.close, self._file)
        """Free the disk. Python calls this when nobody holds the cache any more."""
        self._spans: dict[int, tuple[int, int]] = {}
        self._end = 0
        self._full = False
        self._lock = threading.Lock()

    def get(self, number: int) -> bytes | None:
        """Return the content that was put under a number, or None."""
        span = self._spans.get(number)
        return None if span is None else os.pread(self._file, span[1], span[0])

    def put(self, number: int, content: memoryview) -> None:
        """Keep a copy of a content, if the disk has room."""
        with self._lock:
            if self._full or number in self._spans:
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
        self._spans[number] = (start, len(content))
