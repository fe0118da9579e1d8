"""Write one Parquet file of a dataset, or of predictions.

Runs in Spark workers; holds one row group at a time.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.errors import DatasetError, SchemaError

__all__ = ["PartWriter"]


class PartWriter:
    """Write a Parquet file, as a context manager: complete when the block ends, absent if the block raises.

    Raises DatasetError, also at the end, if the lease is gone: the driver has ended the job and deleted its files. When
    one task fails, Spark lets the others run on for a while; nothing would delete the files that they write.

    Attributes:
        row_groups: the rows of each row group that was written.
        bytes: the size of the finished file.
    """

    def __init__(
        self,
        path: str,
        schema: pa.Schema,
        *,
        lease: str,
        group_rows: int = sys.maxsize,
        group_bytes: int = sys.maxsize,
        **options: Any,
    ) -> None:
        """Prepare to write.

        Args:
            path, schema: of the file.
            lease: a file that exists while the driver waits for this one.
            group_rows: the rows of a full row group.
            group_bytes: the bytes in memory from which on a row group is full.
            options: of `pq.ParquetWriter`.
        """
        self._path, self._schema, self._lease, self._options = path, schema, lease, options
        self._group_rows, self._group_bytes = group_rows, group_bytes
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0
        self.row_groups: list[int] = []
        self.bytes = 0

    def __enter__(self) -> PartWriter:
        self._check_wanted()
        fs, inner = storage.filesystem(self._path)
        fs.makedirs(os.path.dirname(inner), exist_ok=True)
        self._handle = fs.open(inner, "wb")
        try:
            self._writer = pq.ParquetWriter(self._handle, self._schema, **self._options)
        except pa.ArrowNotImplementedError as error:
            storage.discard(self._handle, self._path)
            names = [field.name for field in self._schema if not _is_storable(field)]
            raise SchemaError(f"keep: columns {names} cannot be stored in Parquet: {error}; leave them out") from error
        return self

    def add(self, table: pa.Table) -> None:
        """Write more rows."""
        while len(table):
            piece = table.slice(0, self._group_rows - self._waiting_rows)
            self._waiting.append(piece)
            self._waiting_rows += len(piece)
            self._waiting_bytes += piece.nbytes
            table = table.slice(len(piece))
            if self._waiting_rows == self._group_rows or self._waiting_bytes >= self._group_bytes:
                self._flush()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):
                self._writer.close()
            storage.discard(self._handle, self._path)
            return
        try:
            self._flush()
            self._writer.close()
            self.bytes = int(self._handle.tell())
            self._handle.close()
        except BaseException:
            storage.discard(self._handle, self._path)
            raise
        try:
            self._check_wanted()
        except DatasetError:
            storage.delete(self._path)
            raise

    def _flush(self) -> None:
        if self._waiting_rows:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=self._waiting_rows)
            self.row_groups.append(self._waiting_rows)
            self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def _check_wanted(self) -> None:
        if not storage.exists(self._lease):
            raise DatasetError(f"{self._lease} is gone: the job that this task belongs to has ended")


def _is_storable(field: pa.Field) -> bool:
    try:
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
    except pa.ArrowNotImplementedError:
        return False
    return True
