"""Count the rows of each split, and add up their hashes: one pass, before anything is fitted or written.

Runs on the driver.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkdl.data.prepare.row_sums import NOTHING, Sums, sums
from sparkdl.data.prepare.shuffle import ORDER_COLUMN, different_rows, repeats
from sparkdl.data.prepare.splits.apply import LEFT_OUT
from sparkdl.data.prepare.writer import SPLIT_COLUMN
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import DatasetError, shown
from sparkdl.spark.columns import column as named

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["CONTENT_COLUMN", "Counted", "count_rows", "split_names"]

log = logging.getLogger(__name__)

# The column with the hash that identifies rows by their content, if nothing else does.
CONTENT_COLUMN = "__content__"


@dataclass(frozen=True, slots=True)
class Counted:
    """Hold the count and the sums of each split, in the order of `split_names`.

    Attributes:
        rows: the number of rows.
        order: the sums of ORDER_COLUMN.
        content: the sums of CONTENT_COLUMN, NOTHING if the rows do not have this column.
        repeated: whether many rows repeat others.
    """

    rows: tuple[int, ...]
    order: tuple[Sums, ...]
    content: tuple[Sums, ...]
    repeated: bool


def split_names(config: PrepareConfig) -> tuple[str, ...]:
    """Return the names of the splits that a config divides rows into."""
    return ("train",) if config.splits is None else config.splits.names


def count_rows(rows: DataFrame, config: PrepareConfig) -> Counted:
    """Count rows that have SPLIT_COLUMN and ORDER_COLUMN.

    Raises DatasetError for a DataFrame without rows, an empty split, or rows without a split.
    """
    from pyspark.sql import functions as F

    by_content = CONTENT_COLUMN in rows.columns
    counts = [F.count(F.lit(1)).alias("rows"), different_rows().alias("different"), sums(ORDER_COLUMN).alias("order")]
    counts += [sums(CONTENT_COLUMN).alias("content")] if by_content else []
    found = {row[SPLIT_COLUMN]: row for row in rows.groupBy(SPLIT_COLUMN).agg(*counts).collect()}
    if not found:
        raise DatasetError("the DataFrame has no rows")
    if None in found:
        raise _no_split(rows.where(f"{SPLIT_COLUMN} is null"), config, found[None]["rows"])
    if LEFT_OUT in found:
        log.info("%d rows are in no split and are left out", found[LEFT_OUT]["rows"])
    names = split_names(config)
    indices = range(len(names))
    rows_of_split = tuple(found[index]["rows"] if index in found else 0 for index in indices)
    for name, count in zip(names, rows_of_split, strict=True):
        if count == 0:
            by_column = config.splits is not None and config.splits.kind == "column"
            way_out = "leave it out of names" if by_column else "give it a larger share, or drop it from splits"
            raise DatasetError(f"split {name!r} is empty ({sum(rows_of_split)} rows in all); {way_out}")
    return Counted(
        rows=rows_of_split,
        order=tuple(tuple(found[index]["order"]) for index in indices),
        content=tuple(tuple(found[index]["content"]) if by_content else NOTHING for index in indices),
        repeated=any(repeats(row["rows"], row["different"]) for row in found.values()),
    )


def _no_split(rows: DataFrame, config: PrepareConfig, count: int) -> DatasetError:
    """Build the error for rows to which the rule gives no split; its message shows one such row."""
    read = config.splits.columns if config.splits else ()
    one = rows.select(*[named(name) for name in read]).first()
    values = ", ".join(f"{name!r} is {shown(value)}" for name, value in zip(read, one or (), strict=False))
    need = f"one of {shown(split_names(config))}" if config.splits and config.splits.kind == "column" else "a time"
    return DatasetError(f"{count} rows have no split: in one of them column {values}, which must be {need}")
