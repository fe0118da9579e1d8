"""Read one row group into the feed's memory.

Runs in the threads of a rank's `reader`, as the worker of Petastorm's `Reader`: it copies rows once, keeps file handles
and footers open, and keeps a local copy if the source is remote.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.data.features.columns import as_array
from sparkdl.data.feed.local_cache import LocalCache
from sparkdl.data.feed.petastorm_names import EmptyResultError, WorkerBase
from sparkdl.data.feed.row_memory import RowMemory
from sparkdl.data.generations import fate
from sparkdl.data.layout import RECORD_COLUMN, RecordLayout
from sparkdl.errors import DatasetError
from sparkdl.storage.ranges import RangeFile

__all__ = ["RowGroup", "RowGroupWorker"]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Locate a row group: its file, the file's size in bytes, its index in the file, and its number of rows."""

    path: str
    file_bytes: int
    index: int
    rows: int


class _Results:
    """Give Petastorm's Reader the next result."""

    batched_output = True

    def read_next(self, pool: Any, schema: Any, ngram: Any) -> tuple[int, int]:
        try:
            return pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


class RowGroupWorker(WorkerBase):  # type: ignore[misc]
    """Read row groups; called from several threads at once, each with separate file handles."""

    def __init__(self, layout: RecordLayout, memory: RowMemory, cache: LocalCache | None) -> None:
        super().__init__(0, None, None)
        self._layout = layout
        self._memory = memory
        self._cache = cache
        self._of_thread = threading.local()
        self._footers: dict[str, pq.FileMetaData] = {}
        self._opening: dict[str, threading.Lock] = {}

    @staticmethod
    def new_results_queue_reader() -> _Results:
        return _Results()

    def process(self, number: int, row_group: RowGroup, start: int) -> tuple[int, int]:
        """Read a row group into the memory from the row `start` on; return its number and `start`.

        Raises DatasetError if the file does not hold what the manifest says.
        """
        table = self._table(number, row_group)
        records = self._layout.from_arrow(table.column(RECORD_COLUMN))
        if len(records) != row_group.rows:
            raise DatasetError(
                f"{row_group.path}, row group {row_group.index} has {len(records)} rows, the manifest says "
                f"{row_group.rows}; prepare the dataset again"
            )
        encoded = {f.key: as_array(table.column(f.key)) for f in self._layout.stored_as_bytes}
        self._memory.put(start, records, encoded)
        return number, start

    def _table(self, number: int, row_group: RowGroup) -> pa.Table:
        copy = self._cache.get(number) if self._cache else None
        if copy is not None:
            return pa.ipc.open_stream(copy).read_all()
        try:
            file = self._file(row_group.path, row_group.file_bytes)
            table = file.read_row_group(row_group.index, columns=list(self._layout.columns), use_threads=False)
        except (OSError, ValueError, IndexError, KeyError) as error:
            path, generation, _ = row_group.path.rsplit("/", 2)
            raise DatasetError(
                f"{row_group.path}, row group {row_group.index} cannot be read: {error}; {fate(path, generation)}"
            ) from error
        if self._cache:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            self._cache.put(number, memoryview(sink.getvalue()))
        return table

    def _file(self, path: str, size: int) -> pq.ParquetFile:
        """Open a file; the first thread that does so reads its footer for all."""
        if storage.is_local(path):
            files: dict[str, pq.ParquetFile] = self._of_thread.__dict__.setdefault("files", {})
            if path not in files:
                inner = storage.filesystem(path)[1]
                files[path] = pq.ParquetFile(inner, metadata=self._footers.get(path), memory_map=True)
                self._footers[path] = files[path].metadata
            return files[path]
        if path not in self._footers:
            with self._opening.setdefault(path, threading.Lock()):  # atomic: the threads have one lock a file
                if path not in self._footers:
                    self._footers[path] = pq.ParquetFile(RangeFile(path, size)).metadata
        # pre_buffer: columns that lie side by side come by one request. The file holds them as long as it is open, and
        # opening it again costs no request.
        return pq.ParquetFile(RangeFile(path, size), metadata=self._footers[path], pre_buffer=True)
