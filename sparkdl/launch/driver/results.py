"""Collect the pickled values that the ranks of one run return, until all ranks have returned.

Runs on the driver. Values may be large: files without a name hold them.
"""

from __future__ import annotations

import pickle
import shutil
import tempfile
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Any

__all__ = ["Values"]


class Values:
    """Hold one pickled value for each rank, as a context manager. One thread at a time adds to a rank's value."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> Values:
        with ExitStack() as stack:
            self._files: list[IO[bytes]] = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(self._size)]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def add(self, rank: int, content: bytes) -> None:
        """Add the next bytes of a rank's value."""
        self._files[rank].write(content)

    def copy(self, rank: int, content: IO[bytes]) -> None:
        """Add a file's rest to a rank's value."""
        shutil.copyfileobj(content, self._files[rank], 1 << 20)

    def load(self, rank: int) -> Any:
        """Unpickle a rank's value. Raises EOFError if the rank has no value, and whatever unpickling raises."""
        file = self._files[rank]
        file.seek(0)
        return pickle.load(file)
