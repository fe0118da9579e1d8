"""Name a DataFrame's columns so that dots, spaces and backticks in names do no harm.

Runs on the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import StructType

__all__ = ["column", "map_in_arrow"]


def column(name: str) -> Column:
    """The column of exactly this name; `F.col` would take `a.b` for field b of a."""
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def map_in_arrow(
    df: DataFrame, function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]], schema: StructType | str
) -> DataFrame:
    """`df.mapInArrow(function, schema)` for columns of any name; PySpark's own looks `a.b` up as field b of a."""
    names = df.columns

    def named(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return function(pa.RecordBatch.from_arrays(batch.columns, names=names) for batch in batches)

    return df.toDF(*[f"column_{place}" for place in range(len(names))]).mapInArrow(named, schema)
