"""The order in which rows are stored: shuffled by their own values and the seed, the same on any cluster.

Driver; it becomes Spark expressions over the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparkdl.data.prepare.row_sums import hashable
from sparkdl.data.prepare.writer import SPLIT_COLUMN

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["ORDER_COLUMN", "PLACE_COLUMN", "different_rows", "order_key", "repeats", "shuffled"]

ORDER_COLUMN = "__order__"
# What the rows are sorted by where many of them have one order.
PLACE_COLUMN = "__place__"

# Rows of which more than this share repeat others are told apart before they are shuffled. Below it, repeated rows that
# lie side by side change what a batch holds by less than chance does.
MOST_REPEATS = 0.02
# Different rows are counted in a HyperLogLog sketch of 2 to this power registers, 16 KB for each split. Its relative
# error is 1.04 / sqrt(registers) = 0.8 %, below the share that matters (Apache DataSketches, "HLL Sketch Accuracy").
SKETCH_LOG_REGISTERS = 14
COUNTING_ERROR = 0.01


def order_key(seed: int, types: Mapping[str, str]) -> Column:
    """A row's place in the stored order: a hash of its values.

    Args:
        types: Spark type (DDL) of each column of the dataset.
    """
    from pyspark.sql import functions as F

    values = [value for name in sorted(types) for value in hashable(name, types[name])]
    return F.xxhash64(F.lit(seed), F.lit("order"), *values)


def different_rows() -> Column:
    """Counts the different rows of a group, about.

    Not `approx_count_distinct`: its registers are 1,639 columns at this error, for which Spark compiles code for 3 s;
    and each row takes it twice as long.
    """
    from pyspark.sql import functions as F

    return F.hll_sketch_estimate(F.hll_sketch_agg(ORDER_COLUMN, SKETCH_LOG_REGISTERS))


def repeats(rows: int, different: int) -> bool:
    """Whether so many of the rows repeat others that equal ones must be told apart."""
    return different < (1 - MOST_REPEATS - COUNTING_ERROR) * rows


def shuffled(rows: DataFrame, parts: int, *, repeated: bool) -> DataFrame:
    """The rows in their stored order within each of `parts` partitions, sorted by split first.

    Args:
        rows: with SPLIT_COLUMN and ORDER_COLUMN.
        repeated: equal rows get a number, and a place by it; else they would lie side by side, and in one part. Which
            of them gets which number is all the same.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    place = ORDER_COLUMN
    if repeated:
        place = PLACE_COLUMN
        number = F.row_number().over(Window.partitionBy(ORDER_COLUMN).orderBy(ORDER_COLUMN))
        rows = rows.select("*", F.xxhash64(ORDER_COLUMN, number).alias(place))
    return rows.repartition(parts, place).sortWithinPartitions(SPLIT_COLUMN, place).drop(PLACE_COLUMN)
