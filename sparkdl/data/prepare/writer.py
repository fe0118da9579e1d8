"""Encode raw rows and write them as Parquet parts.

Runs in Spark workers, inside prepare's `mapInArrow`; holds one Arrow batch and one row group at a time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.data.features import Encoder
from sparkdl.data.features.column_types import unit_of
from sparkdl.data.features.feature import BytesEncoder
from sparkdl.data.generations import lease_file
from sparkdl.data.layout import RecordLayout
from sparkdl.data.prepare.row_sums import NOTHING, Sums, add, sums_in
from sparkdl.errors import DatasetError, SchemaError

__all__ = ["PartPlan", "encode_columns", "sample_weights", "write_parts"]

SPLIT_COLUMN = "__split__"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """Hold all that a task needs to write its parts."""

    folder: str
    generation: str
    layout: RecordLayout
    encoders: Mapping[str, Encoder]
    """Encoders by field key of the layout."""
    weight: str | None
    keep: tuple[str, ...]
    splits: tuple[str, ...]
    row_group_rows: tuple[int, ...]
    """The number of rows of a full row group, per split."""
    hashes: tuple[str, ...] = ()
    """Columns of hashes; the description of a part holds their sums (`row_sums`) over its rows."""


def encode_columns(batch: pa.RecordBatch, plan: PartPlan) -> list[pa.Array]:
    """Encode the rows of a batch into the columns that the feed reads (`RecordLayout.columns`).

    Raises SchemaError that names column and row.
    """
    values: dict[str, np.ndarray] = {}
    stored_as_bytes: list[pa.Array] = []
    for field_ in plan.layout.fields:
        column = batch.column(batch.schema.get_field_index(field_.name))
        if field_.role == "weight":
            values[field_.key] = sample_weights(column, field_.name)
        elif field_.stored == "bytes":
            stored_as_bytes.append(cast(BytesEncoder, plan.encoders[field_.key]).to_bytes(column))
        else:
            values[field_.key] = plan.encoders[field_.key].encode(column)
    return [plan.layout.to_arrow(plan.layout.pack(values, rows=batch.num_rows)), *stored_as_bytes]


def sample_weights(column: pa.Array, name: str) -> np.ndarray:
    """Convert a column of weights to float32, shape ``(rows,)``. Raises SchemaError for values that are not weights."""
    from sparkdl.data.features.columns import first_bad, to_numpy

    if unit_of(column.type) != "number":
        raise SchemaError(f"column {name!r}: values of type {column.type!s:.80} are not sample weights; give numbers")
    given = to_numpy(column, name=name, shape=())
    with np.errstate(over="ignore", under="ignore"):
        weights = given.astype(np.float32)
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        raise first_bad(name, column, bad, "sample weight is not a finite number of at least 0")
    lost = (weights == 0) & (given != 0)
    if lost.any():
        raise first_bad(name, column, lost, "sample weight would become 0 as float32 (scale the weights)")
    return weights


@dataclass(slots=True)
class _OpenPart:
    """Hold the part being written: rows wait here until they fill a row group."""

    file_name: str
    split: int
    handle: Any
    writer: pq.ParquetWriter
    rows_per_group: int
    waiting: list[pa.Table] = field(default_factory=list)
    waiting_rows: int = 0
    row_groups: list[int] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=dict)

    def count(self, rows: pa.RecordBatch, hashes: Sequence[str]) -> None:
        for name in hashes:
            more = sums_in(rows.column(rows.schema.get_field_index(name)))
            self.sums[name] = add(self.sums.get(name, NOTHING), more)

    def add(self, table: pa.Table) -> None:
        while len(table):
            piece = table.slice(0, self.rows_per_group - self.waiting_rows)
            self.waiting.append(piece)
            self.waiting_rows += len(piece)
            table = table.slice(len(piece))
            if self.waiting_rows == self.rows_per_group:
                self.flush()

    def flush(self) -> None:
        if self.waiting_rows:
            self.writer.write_table(pa.concat_tables(self.waiting), row_group_size=self.waiting_rows)
            self.row_groups.append(self.waiting_rows)
            self.waiting, self.waiting_rows = [], 0

    def close(self) -> int:
        """Complete the file and return its size in bytes."""
        self.writer.close()
        size = self.handle.tell()
        self.handle.close()
        return int(size)


def write_parts(batches: Iterable[pa.RecordBatch], plan: PartPlan, partition: int) -> Iterator[dict[str, Any]]:
    """Write one task's rows, sorted by split, as one part a split; yield a description of each finished part.

    A file's name holds the attempt: if Spark runs a task twice, the driver lists only one attempt's files.
    """
    attempt = uuid.uuid4().hex[:12]
    part: _OpenPart | None = None
    try:
        for batch in batches:
            for split, rows in _by_split(batch):
                table = _stored(rows, plan)
                if part is not None and part.split != split:
                    yield _finish(part, plan)
                    part = None
                if part is None:
                    part = _open(plan, split, partition, attempt, table.schema)
                part.add(table)
                part.count(rows, plan.hashes)
        if part is not None:
            yield _finish(part, plan)
            part = None
    finally:
        if part is not None:
            _abandon(part, plan)


def _by_split(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cut a batch where the split changes; its rows are sorted by split."""
    splits = batch.column(batch.schema.get_field_index(SPLIT_COLUMN)).to_numpy(zero_copy_only=False)
    borders = np.flatnonzero(np.diff(splits)) + 1
    for start, stop in zip([0, *borders], [*borders, len(splits)], strict=True):
        if stop > start:
            yield int(splits[start]), batch.slice(int(start), int(stop - start))


def _stored(batch: pa.RecordBatch, plan: PartPlan) -> pa.Table:
    """Make the columns of a part: those that the feed reads, then the kept columns as they are."""
    columns = encode_columns(batch, plan)
    columns += [batch.column(batch.schema.get_field_index(name)) for name in plan.keep]
    return pa.table(columns, names=[*plan.layout.columns, *plan.keep])


def _check_wanted(plan: PartPlan) -> None:
    """Raise DatasetError if the prepare that this task belongs to has ended and deleted its files.

    When one task fails, Spark lets the others run on for a while; nothing would delete the files that they write.
    """
    if not storage.exists(storage.join(plan.folder, lease_file(plan.generation))):
        raise DatasetError(f"{plan.folder}: the prepare that this task belongs to has ended")


def _open(plan: PartPlan, split: int, partition: int, attempt: str, schema: pa.Schema) -> _OpenPart:
    _check_wanted(plan)
    name = f"{plan.generation}/{plan.splits[split]}-{partition:05d}-{attempt}.parquet"
    fs, path = storage.filesystem(storage.join(plan.folder, name))
    fs.makedirs(fs._parent(path), exist_ok=True)
    handle = fs.open(path, "wb")
    # Records neither compress nor repeat; a dictionary would only double the work (docs/decisions/0002).
    compression = dict.fromkeys(plan.keep, "snappy") | dict.fromkeys(plan.layout.columns, "none")
    try:
        writer = pq.ParquetWriter(
            handle, schema, compression=compression, use_dictionary=list(plan.keep), write_statistics=list(plan.keep)
        )
    except pa.ArrowNotImplementedError as error:
        handle.close()
        raise SchemaError(f"a column of keep={list(plan.keep)} cannot be stored in Parquet: {error}") from error
    return _OpenPart(name, split, handle, writer, plan.row_group_rows[split])


def _finish(part: _OpenPart, plan: PartPlan) -> dict[str, Any]:
    part.flush()
    size = part.close()
    try:
        _check_wanted(plan)
    except DatasetError:
        storage.delete(storage.join(plan.folder, part.file_name))
        raise
    return {
        "file": part.file_name,
        "split": plan.splits[part.split],
        "row_groups": part.row_groups,
        "bytes": size,
        "sums": part.sums,
    }


def _abandon(part: _OpenPart, plan: PartPlan) -> None:
    """Delete a part that will not be finished, because a row was bad or Spark stops the task."""
    try:
        part.writer.close()
    finally:
        storage.discard(part.handle, storage.join(plan.folder, part.file_name))


def descriptions(parts: Iterator[dict[str, Any]], partition: int) -> Iterator[pa.RecordBatch]:
    """Yield descriptions of parts as the rows, of two columns, that travel back to the driver."""
    for part in parts:
        yield pa.RecordBatch.from_arrays(
            [pa.array([partition]), pa.array([json.dumps(part)])], names=["partition", "part"]
        )
