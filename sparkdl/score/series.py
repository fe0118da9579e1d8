"""The columns of a pandas UDF as the Arrow columns that they came from, and predictions as pandas that Spark reads.

Runs in Spark workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from sparkdl.data.column_types import is_list
from sparkdl.data.columns import first_bad
from sparkdl.data.features import Encoder
from sparkdl.score.encode import ColumnEncoder
from sparkdl.score.scoring import piece_rows
from sparkdl.score.task import ScoreTask

__all__ = ["clock_encoders", "pieces_of_series", "to_pandas"]


def pieces_of_series(batches: Iterator[Any], task: ScoreTask) -> Iterator[tuple[None, list[pa.Array]]]:
    """The batches of a pandas UDF as pieces for `score_batches`. One column comes as such, several as a tuple."""
    rows = piece_rows(task)
    for batch in batches:
        columns = [_to_arrow(series) for series in (batch if isinstance(batch, tuple) else (batch,))]
        for start in range(0, max(len(columns[0]), 1), rows):
            yield None, [column.slice(start, rows) for column in columns]


# The structs that features take, ML vectors and Spark's images: pandas makes fractions of whole numbers beside a null,
# and has no type for nulls alone.
_STRUCT_FIELDS = {
    "type": pa.int8(),
    "size": pa.int32(),
    "indices": pa.list_(pa.int32()),
    "values": pa.list_(pa.float64()),
    "origin": pa.string(),
    "height": pa.int32(),
    "width": pa.int32(),
    "nChannels": pa.int32(),
    "mode": pa.int32(),
    "data": pa.binary(),
}


def _to_arrow(series: Any) -> pa.Array:
    """A UDF argument as an Arrow column; a struct (an ML vector) comes as a DataFrame."""
    if isinstance(series, pd.DataFrame):
        fields = [pa.array(series[name], type=_STRUCT_FIELDS.get(name), from_pandas=True) for name in series.columns]
        # A null struct comes as nulls in all of its fields.
        missing = np.logical_and.reduce([np.asarray(field.is_null()) for field in fields])
        return pa.StructArray.from_arrays(fields, names=list(series.columns), mask=pa.array(missing))
    if series.dtype == object:
        return _objects_to_arrow(series.to_numpy())
    # In a column of numbers pandas has nothing but NaN for null.
    return pa.array(series, from_pandas=True)


def _objects_to_arrow(values: np.ndarray) -> pa.Array:
    """Python objects as Arrow; arrays without a null between them axis by axis, ten times faster than one by one."""
    if not len(values) or not all(type(value) is np.ndarray for value in values):
        # Inside arrays NaN is a value.
        return pa.array(values, from_pandas=False)
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _objects_to_arrow(np.concatenate(values)))


def clock_encoders(encoders: Sequence[Encoder], task: ScoreTask) -> list[ColumnEncoder]:
    """The encoders, told that moments come as the clock of the session's time zone, as Spark gives them to pandas."""
    from pyspark import TaskContext

    # Spark tells its tasks what is set in the session; else it is the machine's.
    context = TaskContext.get()
    zone = (context.getLocalProperty("spark.sql.session.timeZone") if context else None) or task.time_zone
    return [ClockEncoder(e, zone) if getattr(e, "unit", None) == "seconds" else e for e in encoders]


@dataclass(frozen=True, slots=True)
class ClockEncoder:
    """An encoder of moments that takes the clock of a time zone.

    A clock time that comes twice, where the zone sets its clocks back, is a bad row: which of the two it was is lost.
    """

    encoder: ColumnEncoder
    zone: str

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def dtype(self) -> np.dtype:
        return self.encoder.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.encoder.shape

    def encode(self, column: pa.Array) -> np.ndarray:
        """As the encoder does, for (nested arrays of) clock times."""
        moments, lost = self._moments(column)
        if lost.any():
            problem = (
                f"a clock time that comes twice in time zone {self.zone}; use transform, or set "
                "spark.sql.session.timeZone to UTC"
            )
            raise first_bad(self.encoder.name, column, lost, problem)
        return self.encoder.encode(moments)

    def _moments(self, column: pa.Array) -> tuple[pa.Array, np.ndarray]:
        """The column with a time zone, and in which rows one is lost: bool, shape ``(rows,)``."""
        if is_list(column.type):
            moments, lost = self._moments(column.values)
            offsets = column.offsets.to_numpy()
            before = np.concatenate([[0], np.cumsum(lost)])
            missing = column.is_null() if column.null_count else None
            # Made anew: with nulls, Arrow takes no offsets of a slice.
            moments = pa.ListArray.from_arrays(pa.array(offsets), moments, mask=missing)
            return moments, before[offsets[1:]] > before[offsets[:-1]]
        if not pa.types.is_timestamp(column.type) or column.type.tz:
            return column, np.zeros(len(column), dtype=bool)
        clock = column.to_pandas()
        moments = clock.dt.tz_localize(self.zone, ambiguous="NaT", nonexistent="raise")
        return pa.array(moments), np.asarray(moments.isna() & clock.notna())


class _ArrowSeries(pd.Series):
    """A Series that holds Arrow data. Spark makes lists of arrays, one by one, by `apply`: these need it not."""

    def apply(self, *_: Any, **__: Any) -> _ArrowSeries:  # type: ignore[override]
        return self


class _ArrowFrame(pd.DataFrame):
    """A DataFrame whose columns are such Series."""

    @property
    def _constructor_sliced(self) -> type[_ArrowSeries]:
        return _ArrowSeries


def to_pandas(column: pa.Array) -> pd.Series | pd.DataFrame:
    """Predictions as Spark takes them from a pandas UDF: a struct is a DataFrame, its fields the outputs."""
    if pa.types.is_struct(column.type):
        # flatten() gives the fields of a null struct as nulls.
        fields = zip(column.type, column.flatten(), strict=True)
        return _ArrowFrame({field.name: pd.arrays.ArrowExtensionArray(values) for field, values in fields})
    return _ArrowSeries(pd.arrays.ArrowExtensionArray(column))
