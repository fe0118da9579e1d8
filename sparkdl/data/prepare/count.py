"""Count the rows of each split, and add up their hashes: one pass, before anything is fitted or written.

Driver.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkdl.data.prepare.apply_split import LEFT_OUT
from sparkdl.data.prepare.row_sums import NOTHING, Sums, sums
from sparkdl.data.prepare.shuffle import ORDER_COLUMN, different_rows, repeats
from sparkdl.data.prepare.writer import SPLIT_COLUMN
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import DatasetError, shown
from sparkdl.spark.columns import column as named

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["CONTENT_COLUMN", "Counted", "count_rows", "split_names"]

log = logging.getLogger(__name__)

# The column with the hash that names rows by their content, where nothing else does.
CONTENT_COLUMN = "__content__"


@dataclass(frozen=True, slots=True)
class Counted:
    """What there is of each split, in the order of their names.

    Attributes:
        rows: how many.
        order: the sums of ORDER_COLUMN.
        content: those of CONTENT_COLUMN, if the rows have one.
        repeated: many rows repeat others.
    """

    rows: tuple[int, ...]
    order: tuple[Sums, ...]
    content: tuple[Sums, ...]
    repeated: bool


def split_names(config: PrepareConfig) -> tuple[str, ...]:
    """The splits that a config divides rows into."""
    return ("train",) if config.splits is None else config.splits.names


def count_rows(rows: DataFrame, config: PrepareConfig) -> Counted:
    """Count rows that have SPLIT_COLUMN and ORDER_COLUMN.

    Raises DatasetError for no rows, an empty split, or rows that have none.
    """
    from pyspark.sql import functions as F

    by_content = CONTENT_COLUMN in rows.columns
    figures = [F.count(F.lit(1)).alias("rows"), different_rows().alias("different"), sums(ORDER_COLUMN).alias("order")]
    figures += [sums(CONTENT_COLUMN).alias("content")] if by_content else []
    found = {row[SPLIT_COLUMN]: row for row in rows.groupBy(SPLIT_COLUMN).agg(*figures).collect()}
    if not found:
        raise DatasetError("the DataFrame has no rows")
    if None in found:
        raise _no_split(rows.where(f"{SPLIT_COLUMN} is null"), config, found[None]["rows"])
    if LEFT_OUT in found:
        log.info("%d rows are in no split and are left out", found[LEFT_OUT]["rows"])
    names = split_names(config)
    places = range(len(names))
    counts = tuple(found[place]["rows"] if place in found else 0 for place in places)
    _check_not_empty(names, counts)
    return Counted(
        rows=counts,
        order=tuple(tuple(found[place]["order"]) for place in places),
        content=tuple(tuple(found[place]["content"]) if by_content else NOTHING for place in places),
        repeated=any(repeats(row["rows"], row["different"]) for row in found.values()),
    )


def _check_not_empty(names: Sequence[str], counts: Sequence[int]) -> None:
    for name, count in zip(names, counts, strict=True):
        if count == 0:
            raise DatasetError(
                f"split {name!r} is empty ({sum(counts)} rows in all); give it a larger share, or drop it from splits"
            )


def _no_split(rows: DataFrame, config: PrepareConfig, count: int) -> DatasetError:
    """The error for rows whose columns do not answer the split's rule; shows one of them."""
    read = config.splits.columns if config.splits else ()
    one = rows.select(*[named(name) for name in read]).first()
    values = ", ".join(f"{name!r} is {shown(value)}" for name, value in zip(read, one or (), strict=False))
    need = f"one of {shown(split_names(config))}" if config.splits and config.splits.kind == "column" else "a time"
    return DatasetError(f"{count} rows have no split: in one of them column {values}, which must be {need}")
