"""Cut time series into windows: many rows become one, with the past and the horizon as arrays.

Called on the driver, before `prepare` and before scoring; `cut_windows` does the work in Spark's Python workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sparkdl.checks import is_whole, require_whole
from sparkdl.data.windows.cut import WindowPlan, cut_windows
from sparkdl.errors import ConfigError, SchemaError, shown
from sparkdl.spark.columns import column as named
from sparkdl.spark.columns import map_in_arrow, require_column

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import DataType, StructType

__all__ = ["windows"]

# Spark's types of numbers, and the dtype of each; a decimal becomes a double.
_DTYPES = {
    "boolean": "bool",
    "tinyint": "int8",
    "smallint": "int16",
    "int": "int32",
    "bigint": "int64",
    "float": "float32",
    "double": "float64",
    "decimal": "float64",
}
# The unit that the times of a column are counted in; whole numbers are taken as they are.
_TICKS = {
    "timestamp": (timedelta(microseconds=1), "microseconds"),
    "timestamp_ntz": (timedelta(microseconds=1), "microseconds"),
    "date": (timedelta(days=1), "whole days"),
}
_TIMES = (*_TICKS, "tinyint", "smallint", "int", "bigint")
_KEYS = (*_TIMES, "string", "boolean", "binary", "decimal")


def windows(
    df: DataFrame,
    key: str | Sequence[str] | None,
    time: str,
    columns: str | Sequence[str],
    past: int,
    horizon: int,
    *,
    target: str | Sequence[str] | None = None,
    every: timedelta | int | None = None,
) -> DataFrame:
    """Cut every window of `past` + `horizon` consecutive rows of each series: one row a window.

    Columns of the result: the key; `<time>` and `<time>_last`, the times of the horizon's first and last step; `past`,
    an array of shape (past, columns); `horizon`, an array of shape (horizon, targets). One column given by its bare
    name, not in a list, makes arrays of shape (past,) and (horizon,).

    With `horizon=0`, to score where the future is not known yet, the result has the key, `<time>`, which is then the
    time of the last step of the past, and `past`. Every step that has a past gives a window: filter `df` to the newest
    `past` rows of each series, or the result by `<time>`, to score only the newest.

    `Split.time(time, until=…, last="<time>_last")` divides windows by their horizons; the past may reach back into the
    split before. One series is read by one task, in memory that does not grow with its length. Each action computes the
    result anew, and raises the errors of bad rows. Where clocks change, a local time comes twice and a day has 23 or 25
    hours, so that `every` leaves out windows: give local times as TIMESTAMP_NTZ, and others in UTC.

    Args:
        key: the column(s) that distinguish the series; None or () if all rows are one series.
        time: timestamps, dates or whole numbers that order the rows of a series; each time once in a series.
        columns: the numbers of the past. The arrays have the type that holds all these columns, double for decimals.
        past, horizon: steps, at least 1 and at least 0.
        target: the numbers of the horizon; None: the same as `columns`.
        every: the distance of two steps, in the unit of `time` if `time` is a whole number: windows with a missing
            step are left out. None: the next row is the next step.

    A null in a column of fractions is NaN in the arrays.

    Raises:
        ConfigError: `past`, `horizon` or `every` is out of range.
        SchemaError: a column is missing, ambiguous, of a type that cannot be numbers (a key, a time), or named as a
            column of the result. When the result is computed: a null key or time, a time that comes twice in a series,
            or a null in a column of whole numbers.
    """
    for option, value, least in (("past", past, 1), ("horizon", horizon, 0)):
        require_whole(f"windows: {option}", value, least)
    target = columns if target is None else target
    keys, inputs, targets = _names("key", key or ()), _names("columns", columns), _names("target", target)
    if not inputs or not targets:
        raise ConfigError(f"windows: columns={shown(inputs)}, target={shown(targets)}: name at least one of each")
    kept = (*keys, time)
    used = list(dict.fromkeys((*kept, *inputs, *targets)))
    df = df.select(*[require_column(df, name) for name in used])
    types = {name: df.schema[name].dataType for name in used}
    schema = {name: type_.simpleString() for name, type_ in types.items()}
    _check_types(schema, keys, _KEYS, "not keys of a series; use strings, whole numbers, dates or timestamps")
    _check_types(schema, (time,), _TIMES, "not times; cast the column to timestamp, date or a whole number")
    _check_types(schema, (*inputs, *targets), tuple(_DTYPES), "not numbers")
    _check_results(keys, time, horizon)
    plan = WindowPlan(
        key=keys,
        time=time,
        columns=inputs,
        columns_dtype=np.result_type(*[_DTYPES[_family(schema[name])] for name in inputs]),
        columns_bare=isinstance(columns, str),
        targets=targets,
        targets_dtype=np.result_type(*[_DTYPES[_family(schema[name])] for name in targets]),
        targets_bare=isinstance(target, str),
        past=past,
        horizon=horizon,
        every=_distance(every, schema[time]),
    )
    # Doubles where Arrow would hand over decimals; the key and the time keep their types in the result.
    decimals = {name for name in used if name not in kept and _family(schema[name]) == "decimal"}
    rows = df.select(*[named(n).cast("double").alias(n) if n in decimals else named(n) for n in used])
    spread = rows.repartition(*map(named, keys)) if keys else rows.repartition(1)
    in_order = spread.sortWithinPartitions(*map(named, kept))

    def cut(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return cut_windows(batches, plan)

    return map_in_arrow(in_order, cut, _schema(plan, types))


def _names(option: str, names: str | Sequence[str]) -> tuple[str, ...]:
    listed = (names,) if isinstance(names, str) else tuple(names)
    if not all(isinstance(name, str) for name in listed) or len(set(listed)) < len(listed):
        raise ConfigError(f"windows: {option}={shown(names)} must be column names, each once")
    return listed


def _family(type_: str) -> str:
    """Strip a type's parameters: "decimal" for decimal(10,2)."""
    return type_.split("(")[0]


def _check_types(schema: dict[str, str], names: Sequence[str], allowed: Sequence[str], problem: str) -> None:
    for name in names:
        if _family(schema[name]) not in allowed:
            raise SchemaError(f"column {name!r}: values of type {shown(schema[name])} are {problem}")


def _check_results(keys: Sequence[str], time: str, horizon: int) -> None:
    """Raise SchemaError if two columns of the result would have one name; Spark ignores case in names."""
    made = [*keys, time, "past", *([f"{time}_last", "horizon"] if horizon else [])]
    lower = [name.lower() for name in made]
    for name in made:
        if lower.count(name.lower()) > 1:
            raise SchemaError(f"two columns of the windows would be named {name!r}: rename the key or the time column")


def _distance(every: timedelta | int | None, time_type: str) -> int | None:
    """Return `every` in the unit of `WindowPlan.every`. Raises ConfigError for another type, or a value not above 0."""
    if every is None:
        return None
    if time_type in _TICKS:
        tick, unit = _TICKS[time_type]
        if isinstance(every, timedelta) and every > timedelta(0) and every % tick == timedelta(0):
            return every // tick
        kind = f"a timedelta of {unit} above 0"
    else:
        if is_whole(every, 1):
            return every
        kind = "a whole number above 0"
    raise ConfigError(f"windows: every={shown(every)} must be {kind}, for a time of type {time_type}")


def _schema(plan: WindowPlan, types: dict[str, DataType]) -> StructType:
    """Return the schema of the result."""
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import ArrayType, StructField, StructType

    def array(dtype: np.dtype, bare: bool) -> DataType:
        element: DataType = from_arrow_type(pa.from_numpy_dtype(dtype))
        return ArrayType(element if bare else ArrayType(element, False), False)

    fields = [StructField(name, types[name], False) for name in (*plan.key, plan.time)]
    fields += [StructField(f"{plan.time}_last", types[plan.time], False)] if plan.horizon else []
    fields += [StructField("past", array(plan.columns_dtype, plan.columns_bare), False)]
    fields += [StructField("horizon", array(plan.targets_dtype, plan.targets_bare), False)] if plan.horizon else []
    return StructType(fields)
