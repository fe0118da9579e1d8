"""A pandas UDF without pandas: its columns as the Arrow that Spark sends, its predictions as Arrow that Spark takes.

Runs in Spark workers. From pandas nulls could not be told from NaN, nor moments from clock times that come twice, and
making it takes as long as a small model. PySpark has such UDFs itself from 4.1 on (`arrow_udf`), which needs a newer
pyarrow than Petastorm bears.
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
    """Let the pandas UDF that calls this get Arrow columns: to be called in its body, before the first batch.

    The object that would make pandas of them is found among the callers. It is this UDF's alone and lives as long as
    its task. Raises LaunchError where PySpark's worker is made in another way.
    """
    import pyspark
    from pyspark.sql.pandas.serializers import ArrowStreamPandasUDFSerializer

    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        serializer: Any = frame.f_locals.get("self")
        if isinstance(serializer, ArrowStreamPandasUDFSerializer) and hasattr(serializer, "arrow_to_pandas"):
            serializer.arrow_to_pandas = as_array  # type: ignore[method-assign]
            return
        frame = frame.f_back
    raise LaunchError(f"sparkdl cannot score in UDFs of PySpark {pyspark.__version__}; use one from 3.5 to 4.0")


def pieces_of(batches: Iterator[Any], *, rows: int) -> Iterator[tuple[None, list[pa.Array]]]:
    """The batches of such a UDF in pieces of at most so many rows. One column comes as such, several as a tuple."""
    for batch in batches:
        columns = list(batch) if isinstance(batch, tuple) else [batch]
        for start in range(0, max(len(columns[0]), 1), rows):
            yield None, [column.slice(start, rows) for column in columns]


class _ArrowSeries(pd.Series):
    """A Series that holds Arrow. PySpark would make lists of its arrays, one by one, by `apply`: it needs none."""

    def apply(self, *_: Any, **__: Any) -> _ArrowSeries:  # type: ignore[override]
        return self


class _ArrowFrame(pd.DataFrame):
    """A DataFrame of such Series."""

    @property
    def _constructor_sliced(self) -> type[_ArrowSeries]:
        return _ArrowSeries


def to_pandas(column: pa.Array) -> pd.Series | pd.DataFrame:
    """Predictions in the wrapping that PySpark asks for, without a copy: a struct is a DataFrame, its fields Series."""
    if pa.types.is_struct(column.type):
        # flatten() gives the fields of a null struct as nulls.
        fields = zip(column.type, column.flatten(), strict=True)
        return _ArrowFrame({field.name: pd.arrays.ArrowExtensionArray(values) for field, values in fields})
    return _ArrowSeries(pd.arrays.ArrowExtensionArray(column))
