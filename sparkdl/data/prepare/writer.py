"""Encode raw rows and write them as Parquet parts.

Runs in Spark workers, inside prepare's `mapInArrow`; holds one Arrow batch and one row group at a time.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from sparkdl import storage
from sparkdl.data.features import Encoder
from sparkdl.data.features.bad_values import refuse
from sparkdl.data.features.column_types import unit_of
from sparkdl.data.features.columns import to_numpy
from sparkdl.data.features.feature import BytesEncoder
from sparkdl.data.generations import lease_file
from sparkdl.data.layout import RecordLayout
from sparkdl.data.part_writer import PartWriter
from sparkdl.data.prepare.row_sums import NOTHING, Sums, add, sums_in
from sparkdl.errors import SchemaError

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
        column = batch.column(field_.name)
        if field_.role == "weight":
            values[field_.key] = sample_weights(column, field_.name)
        elif field_.stored == "bytes":
            stored_as_bytes.append(cast(BytesEncoder, plan.encoders[field_.key]).to_bytes(column))
        else:
            values[field_.key] = plan.encoders[field_.key].encode(column)
    return [plan.layout.to_arrow(plan.layout.pack(values, rows=batch.num_rows)), *stored_as_bytes]


def sample_weights(column: pa.Array, name: str) -> np.ndarray:
    """Convert a column of weights to float32, shape ``(rows,)``. Raises SchemaError for values that are not weights."""
    if unit_of(column.type) != "number":
        raise SchemaError(f"column {name!r}: values of type {column.type!s:.80} are not sample weights; give numbers")
    given = to_numpy(column, name=name, shape=())
    with np.errstate(over="ignore", under="ignore"):
        weights = given.astype(np.float32)
    refuse(name, column, ~(np.isfinite(weights) & (weights >= 0)), "sample weight is not a finite number of at least 0")
    lost = (weights == 0) & (given != 0)
    refuse(name, column, lost, "sample weight would become 0 as float32 (scale the weights)")
    return weights


def write_parts(batches: Iterable[pa.RecordBatch], plan: PartPlan, partition: int) -> Iterator[dict[str, Any]]:
    """Write one task's rows, sorted by split, as one part a split; yield a description of each finished part.

    A file's name holds the attempt: if Spark runs a task twice, the driver lists only one attempt's files.
    """
    attempt = uuid.uuid4().hex[:12]
    pieces = (piece for batch in batches for piece in _by_split(batch))
    for split, of_split in itertools.groupby(pieces, key=operator.itemgetter(0)):
        file = f"{plan.generation}/{plan.splits[split]}-{partition:05d}-{attempt}.parquet"
        yield _write_part((rows for _, rows in of_split), plan, split, file)


def _write_part(batches: Iterable[pa.RecordBatch], plan: PartPlan, split: int, file: str) -> dict[str, Any]:
    """Write the rows of at least one batch as a part; return its description."""
    sums: dict[str, Sums] = {}
    with contextlib.ExitStack() as stack:
        writer: PartWriter | None = None
        for rows in batches:
            columns = [*encode_columns(rows, plan), *map(rows.column, plan.keep)]
            table = pa.table(columns, names=[*plan.layout.columns, *plan.keep])
            writer = writer or stack.enter_context(_writer(plan, split, file, table.schema))
            writer.add(table)
            for name in plan.hashes:
                sums[name] = add(sums.get(name, NOTHING), sums_in(rows.column(name)))
    assert writer is not None
    done = {"row_groups": writer.row_groups, "bytes": writer.bytes, "sums": sums}
    return {"file": file, "split": plan.splits[split], **done}


def _writer(plan: PartPlan, split: int, file: str, schema: pa.Schema) -> PartWriter:
    kept = list(plan.keep)
    return PartWriter(
        storage.join(plan.folder, file),
        schema,
        lease=storage.join(plan.folder, lease_file(plan.generation)),
        group_rows=plan.row_group_rows[split],
        # Records neither compress nor repeat; a dictionary would only double the work (docs/decisions/0002).
        compression=dict.fromkeys(kept, "snappy") | dict.fromkeys(plan.layout.columns, "none"),
        use_dictionary=kept,
        write_statistics=kept,
    )


def _by_split(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cut a batch where the split changes; its rows are sorted by split."""
    splits = batch.column(SPLIT_COLUMN).to_numpy(zero_copy_only=False)
    borders = np.flatnonzero(np.diff(splits)) + 1
    for start, stop in zip([0, *borders], [*borders, len(splits)], strict=True):
        if stop > start:
            yield int(splits[start]), batch.slice(int(start), int(stop - start))
