"""Shuffle rows into their stored order, by their values and the seed: the same order on any cluster.

Runs on the driver; the order becomes Spark expressions over the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparkdl.data.prepare.row_sums import hash_of
from sparkdl.data.prepare.writer import SPLIT_COLUMN

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["ORDER_COLUMN", "PLACE_COLUMN", "different_rows", "order_key", "repeats", "shuffled"]

ORDER_COLUMN = "__order__"
# The column that rows are sorted by if many rows repeat others and so have one order key.
PLACE_COLUMN = "__place__"

# If more than this share of the rows repeat others, equal rows are numbered before the shuffle. Below this share,
# repeated rows that lie side by side change what a batch holds by less than chance does.
MOST_REPEATS = 0.02
# Different rows are counted in a HyperLogLog sketch of 2 to this power registers, 16 KB for each split. Its relative
# error is 1.04 / sqrt(registers) = 0.8 %, below the share that matters (Apache DataSketches, "HLL Sketch Accuracy").
SKETCH_LOG_REGISTERS = 14
COUNTING_ERROR = 0.01


def order_key(seed: int, types: Mapping[str, str]) -> Column:
    """Compute a row's order key, by which rows are sorted: a hash of the seed and of all columns of the dataset."""
    from pyspark.sql import functions as F

    return hash_of(types, types, F.lit(seed), F.lit("order"))


def different_rows() -> Column:
    """Count the different rows of a group, approximately.

    Not `approx_count_distinct`: its registers are 1,639 columns at this error, for which Spark compiles code for 3 s;
    and each row takes twice as long.
    """
    from pyspark.sql import functions as F

    return F.hll_sketch_estimate(F.hll_sketch_agg(ORDER_COLUMN, SKETCH_LOG_REGISTERS))


def repeats(rows: int, different: int) -> bool:
    """Tell whether enough rows repeat others that equal rows must be numbered before the shuffle."""
    return different < (1 - MOST_REPEATS - COUNTING_ERROR) * rows


def shuffled(rows: DataFrame, parts: int, *, repeated: bool) -> DataFrame:
    """Divide rows into `parts` partitions, and sort each by split, then by the stored order.

    Args:
        rows: with SPLIT_COLUMN and ORDER_COLUMN.
        repeated: number equal rows, and sort by a hash of the number; else equal rows would lie side by side, and in
            one part. It does not matter which of the equal rows gets which number.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    key = ORDER_COLUMN
    if repeated:
        key = PLACE_COLUMN
        number = F.row_number().over(Window.partitionBy(ORDER_COLUMN).orderBy(ORDER_COLUMN))
        rows = rows.select("*", F.xxhash64(ORDER_COLUMN, number).alias(key))
    return rows.repartition(parts, key).sortWithinPartitions(SPLIT_COLUMN, key).drop(PLACE_COLUMN)
