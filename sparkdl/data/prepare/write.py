"""Shuffle the rows, write them as parts, and check that they are the rows that were counted and fitted.

Runs on the driver; `writer` writes in Spark's Python workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkdl.data.dataset import Part
from sparkdl.data.prepare.count import Counted
from sparkdl.data.prepare.row_sums import NOTHING, Seen, Sums, add, hash_of
from sparkdl.data.prepare.shuffle import ORDER_COLUMN, shuffled
from sparkdl.data.prepare.splits.apply import LEFT_OUT
from sparkdl.data.prepare.writer import SPLIT_COLUMN, PartPlan, write_parts
from sparkdl.errors import DatasetError
from sparkdl.spark.columns import column as named
from sparkdl.spark.columns import map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["check_counts", "differing", "hash_columns", "write_rows"]

SHOWN_COLUMNS = 5


def hash_columns(seen: Sequence[Seen]) -> dict[str, tuple[str, ...]]:
    """Name a hash column for each set of columns that encoders were fitted on: name -> the set."""
    return {f"__hash_{number}__": names for number, names in enumerate(dict.fromkeys(saw.names for saw in seen))}


def write_rows(
    rows: DataFrame,
    plan: PartPlan,
    parts: int,
    hashes: Mapping[str, tuple[str, ...]],
    raw_types: Mapping[str, str],
    *,
    repeated: bool,
) -> tuple[list[Part], dict[str, dict[tuple[str, ...], Sums]]]:
    """Shuffle and write rows; a part for each task and split.

    Args:
        rows: with SPLIT_COLUMN and ORDER_COLUMN.
        parts: the number of tasks that write.
        hashes: from `hash_columns`.
        raw_types: Spark type (DDL) of each column of the dataset.
        repeated: whether many rows repeat others.

    Returns:
        The parts; and for each split the sums of its rows' hashes, by the columns that are hashed, or (ORDER_COLUMN,).
    """

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        task = TaskContext.get()
        partition = task.partitionId() if task else 0
        for part in write_parts(batches, plan, partition):
            yield pa.RecordBatch.from_pydict({"partition": [partition], "part": [json.dumps(part)]})

    columns = [*map(named, raw_types), named(SPLIT_COLUMN), named(ORDER_COLUMN)]
    stored = shuffled(rows.select(*columns).where(f"{SPLIT_COLUMN} != {LEFT_OUT}"), parts, repeated=repeated)
    # After the shuffle: these are the values that are written.
    stored = stored.select("*", *[hash_of(names, raw_types).alias(name) for name, names in hashes.items()])
    found = map_in_arrow(stored, write, "partition long, part string").collect()
    described = [json.loads(row["part"]) for row in sorted(found, key=lambda row: row["partition"])]
    sums: dict[str, dict[tuple[str, ...], Sums]] = {name: {} for name in plan.splits}
    for part in described:
        of_split = sums[part["split"]]
        for name, more in part["sums"].items():
            key = hashes.get(name, (ORDER_COLUMN,))
            of_split[key] = add(of_split.get(key, NOTHING), tuple(more))
    return [Part(part["file"], part["split"], tuple(part["row_groups"]), part["bytes"]) for part in described], sums


def differing(
    written: Mapping[str, Mapping[tuple[str, ...], Sums]], counted: Counted, names: Sequence[str], seen: Sequence[Seen]
) -> str:
    """Say which readings of the rows differ; "" if all are equal."""
    for name, order in zip(names, counted.order, strict=True):
        if written[name].get((ORDER_COLUMN,), NOTHING) != order:
            return f"rows of split {name!r} were others when they were written than when they were counted"
    for saw in seen:
        if written["train"].get(saw.names, NOTHING) != saw.sums:
            columns = ", ".join(map(repr, saw.names[:SHOWN_COLUMNS])) + (", …" if saw.names[SHOWN_COLUMNS:] else "")
            return f"values of {columns} were others when they were written than when {saw.what}"
    return ""


def check_counts(parts: Sequence[Part], names: Sequence[str], counts: Sequence[int]) -> None:
    """Raise DatasetError if another number of rows was written than counted: the input changed in between."""
    for name, count in zip(names, counts, strict=True):
        written = sum(sum(part.row_groups) for part in parts if part.split == name)
        if written != count:
            raise DatasetError(
                f"split {name!r} had {count} rows when it was counted and {written} when it was written; "
                "the input changes while it is read: write it to files first"
            )
