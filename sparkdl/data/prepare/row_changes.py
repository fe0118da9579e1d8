"""Find the columns of a DataFrame whose values change from one reading to the next, once rows are known to differ.

Runs on the driver. prepare reads its DataFrame several times; where the readings differ, what was fitted does not fit
what was written. Sums of floating point numbers, of averages for instance, may differ in their last digits by the order
in which a cluster adds up: such a difference is harmless, unless it decides a row's split.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkdl.data.prepare.row_sums import hash_of, sums
from sparkdl.data.prepare.sizing import BINARY_BATCH_ROWS
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import DatasetError
from sparkdl.spark.arrow_batches import arrow_batches
from sparkdl.spark.columns import column as named

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["Change", "blame", "check_rows_stay", "warn_of_chance"]

log = logging.getLogger(__name__)

# Relative difference of two sums that rounding alone explains; for float32, a unit in the last digit.
ROUNDING = 1e-9
FLOAT_ROUNDING = 2**-23

WAY_OUT = "cache it (df = df.cache()), or write it to Parquet and read that, before"


@dataclass(frozen=True, slots=True)
class Change:
    """Describe a column whose values differed in two readings.

    Attributes:
        rounded: whether only the last digits differ.
    """

    name: str
    rounded: bool


def warn_of_chance(df: DataFrame) -> None:
    """Warn of a plan whose values are random, before rows are read. Cached parts of a plan count as deterministic."""
    if not df._jdf.queryExecution().optimizedPlan().deterministic():
        log.warning(
            "the DataFrame's plan is not deterministic (random numbers, ids that depend on partitions, functions that "
            "say so): prepare reads it several times and fails if its rows change; %s",
            WAY_OUT,
        )


def check_rows_stay(df: DataFrame, config: PrepareConfig, differs: str, types: Mapping[str, str]) -> None:
    """Raise DatasetError that names the columns that change; only warn if the change is harmless rounding.

    Args:
        df: the used columns, which are read twice more.
        differs: text that says which readings were found to differ.
        types: Spark type (DDL) of each column.
    """
    problem = blame(_changes(df, types), config, differs)
    if problem:
        raise DatasetError(problem)
    log.warning("%s, by the last digits of fractions alone; to have the same each time, %s", differs, WAY_OUT)


def blame(changes: Sequence[Change], config: PrepareConfig, differs: str) -> str:
    """Build the error message, or return "" if all changes are harmless."""
    if not changes:
        return (
            f"{differs}: the input changed while it was read, or depends on how it is read; prepare it again, from "
            f"files or a table that stay. If that does not help, {WAY_OUT}"
        )
    rule = config.splits
    # Without a key, all columns of a row decide its split.
    decide = () if rule is None else (rule.reads if rule.columns else tuple(change.name for change in changes))
    harmful = [change.name for change in changes if not change.rounded or change.name in decide]
    if not harmful:
        return ""
    columns = ", ".join(f"column {name!r}" for name in harmful)
    return (
        f"{columns}: the values change each time the DataFrame is read, which prepare does several times ({differs}); "
        f"{WAY_OUT}"
    )


def _changes(df: DataFrame, types: Mapping[str, str]) -> list[Change]:
    """Read the rows twice now, and return the columns that differ.

    The passes of `prepare` hand rows to Python in batches of several sizes, and the results of a pandas UDF may depend
    on the size, if only by rounding: so these two readings use different sizes.
    """
    fractions = [
        name
        for name, type_ in types.items()
        if type_.replace("array<", "").rstrip(">") in ("float", "double", "vector")
    ]
    one = _read(df, types, fractions)
    with arrow_batches(df.sparkSession, BINARY_BATCH_ROWS):
        other = _read(df, types, fractions)
    found = []
    for index, name in enumerate(types):
        if one[f"hash_{index}"] != other[f"hash_{index}"]:
            unit = FLOAT_ROUNDING if "float" in types[name] else ROUNDING
            rounding = unit * one.get(f"size_{index}", 0.0)
            near = [abs(one[key] - other[key]) <= rounding for key in (f"sum_{index}", f"size_{index}") if key in one]
            found.append(Change(name, rounded=bool(near) and all(near)))
    return found


def _read(df: DataFrame, types: Mapping[str, str], fractions: Sequence[str]) -> dict[str, Any]:
    """Add up the hashes of each column, and of columns of fractions the values and their absolute values."""
    from pyspark.sql import functions as F

    names, columns, totals = list(types), [], []
    # Weighted by the rest of the row, so that values that swap rows do not pass for rounding.
    rest = [name for name in names if name not in fractions]
    weight = F.lit(1.0) + (F.pmod(hash_of(rest, types), F.lit(1024)) / 1024 if rest else F.lit(0.0))
    for index, name in enumerate(names):
        columns.append(hash_of([name], types).alias(f"h{index}"))
        totals.append(sums(f"h{index}").alias(f"hash_{index}"))
        if name in fractions:
            columns += [(_total(name, types[name], size) * weight).alias(f"{size}{index}") for size in (False, True)]
            totals += [F.sum(f"False{index}").alias(f"sum_{index}"), F.sum(f"True{index}").alias(f"size_{index}")]
    found: dict[str, Any] = df.select(*columns).agg(*totals).collect()[0].asDict()
    return found


def _total(name: str, type_: str, size: bool) -> Column:
    """Add up a row's fractions, or their absolute values (`size`); null, NaN and values from 1e300 on count as 0."""
    from pyspark.sql import functions as F

    values = named(name)
    if type_ == "vector":
        from pyspark.ml.functions import vector_to_array

        values, type_ = vector_to_array(values), "array<double>"
    elif not type_.startswith("array<"):
        values, type_ = F.array(values), "array<double>"
    for _ in range(type_.count("array<") - 1):
        values = F.flatten(values)

    def plain(value: Column) -> Column:
        number = F.nanvl(F.coalesce(value.cast("double"), F.lit(0.0)), F.lit(0.0))
        return F.when(F.abs(number) < F.lit(1e300), F.abs(number) if size else number).otherwise(F.lit(0.0))

    return F.coalesce(F.aggregate(values, F.lit(0.0), lambda total, value: total + plain(value)), F.lit(0.0))
