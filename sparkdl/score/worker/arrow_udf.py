"""Give a pandas UDF Arrow instead of pandas: its columns as Spark sends them, its predictions as Spark takes them.

Runs in Spark workers, before PySpark 4.1, which has such UDFs itself (`arrow_udf`). In pandas nulls could not be
distinguished from NaN, nor the two timestamps of a clock time that occurs twice, and the conversion takes as long as a
small model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pandas as pd
import pyarrow as pa

from sparkdl.data.features.columns import as_array
from sparkdl.errors import LaunchError

__all__ = ["leave_arrow", "pieces_of", "to_pandas"]


def leave_arrow() -> None:
    """Make the pandas UDF that calls this get Arrow columns: to be called in its body, before the first batch.

    The serializer that would convert the columns to pandas is found among the callers. It belongs to this UDF alone
    and lives as long as the UDF's task. Raises LaunchError where PySpark's worker has another structure.
    """
    import pyspark
    from pyspark.sql.pandas import serializers

    kind: Any = vars(serializers).get("ArrowStreamPandasUDFSerializer", ())
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        serializer: Any = frame.f_locals.get("self")
        if isinstance(serializer, kind) and hasattr(serializer, "arrow_to_pandas"):
            serializer.arrow_to_pandas = as_array
            return
        frame = frame.f_back
    raise LaunchError(f"sparkdl cannot score in UDFs of PySpark {pyspark.__version__}; use one from 3.5 to 4.0")


def pieces_of(batches: Iterator[Any], *, rows: int) -> Iterator[tuple[None, list[pa.Array]]]:
    """Cut the batches of a pandas UDF into pieces of at most `rows` rows. Several columns come as a tuple."""
    for batch in batches:
        columns = list(batch) if isinstance(batch, tuple) else [batch]
        for start in range(0, max(len(columns[0]), 1), rows):
            yield None, [column.slice(start, rows) for column in columns]


class _ArrowSeries(pd.Series):
    """Hold Arrow in a Series. PySpark would convert each array to a list, by `apply`, which Arrow does not need."""

    def apply(self, *_: Any, **__: Any) -> _ArrowSeries:  # type: ignore[override]
        return self


class _ArrowFrame(pd.DataFrame):
    """Hold Arrow in a DataFrame of `_ArrowSeries`."""

    @property
    def _constructor_sliced(self) -> type[_ArrowSeries]:
        return _ArrowSeries


def to_pandas(column: pa.Array) -> pd.Series | pd.DataFrame:
    """Wrap predictions as PySpark requires, without a copy: a struct as a DataFrame whose fields are Series."""
    if pa.types.is_struct(column.type):
        # flatten() gives the fields of a null struct as nulls.
        fields = zip(column.type, column.flatten(), strict=True)
        return _ArrowFrame({field.name: pd.arrays.ArrowExtensionArray(values) for field, values in fields})
    return _ArrowSeries(pd.arrays.ArrowExtensionArray(column))
