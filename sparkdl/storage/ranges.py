"""Read parts of Parquet files in a store by exact ranges.

Called in ranks and in Spark workers. fsspec's own files read ahead by tens of MiB, of which a row group needs one.
"""

from __future__ import annotations

import io
from typing import Any

from sparkdl import storage

__all__ = ["RangeFile"]


class RangeFile(io.RawIOBase):
    """Read a file of a store, one request for each read, which moves the bytes that are read and no others.

    Args:
        path: a URL.
        size: the file's size in bytes; None asks the store.

    `read` raises OSError if the file ends before `size`, and FileNotFoundError if it is gone.
    """

    def __init__(self, path: str, size: int | None = None) -> None:
        super().__init__()
        self._fs, self._inner = storage.filesystem(path)
        self._size = int(self._fs.info(self._inner)["size"]) if size is None else size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        content: Any = self._fs.cat_file(self._inner, start=self._at, end=end)
        if len(content) != end - self._at:
            raise OSError(f"{self._inner} has {self._at + len(content)} bytes and no more, where {end} were expected")
        self._at = end
        return bytes(content)
