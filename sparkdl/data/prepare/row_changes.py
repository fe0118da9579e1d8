"""Find which columns of a DataFrame change from one reading to the next, once it is known that rows did.

Driver. prepare reads its DataFrame several times; where the readings differ, what was fitted does not fit what was
written. Sums of floating point numbers, of averages for instance, may differ in their last digits by the order in which
a cluster adds them up: that does no harm, unless it decides a row's split.
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

# Relative difference of two sums that rounding alone explains; of float32, a unit in the last place.
ROUNDING = 1e-9
FLOAT_ROUNDING = 2**-23

WAY_OUT = "cache it (df = df.cache()), or write it to Parquet and read that, before"


@dataclass(frozen=True, slots=True)
class Change:
    """A column that was not the same in two readings.

    Attributes:
        rounded: the difference is one of the last digits.
    """

    name: str
    rounded: bool


def warn_of_chance(df: DataFrame) -> None:
    """Warn of a plan that draws its values by chance, before it is read. Caches count as what they hold."""
    if not df._jdf.queryExecution().optimizedPlan().deterministic():
        log.warning(
            "the DataFrame's plan is not deterministic (random numbers, ids that depend on partitions, functions that "
            "say so): prepare reads it several times and fails if its rows change; %s",
            WAY_OUT,
        )


def check_rows_stay(df: DataFrame, config: PrepareConfig, differs: str, types: Mapping[str, str]) -> None:
    """Raise DatasetError that names the columns that change; only warn where it is rounding that does no harm.

    Args:
        df: the used columns. It is read twice more.
        differs: which readings were found to differ, in words.
        types: Spark type (DDL) of each column.
    """
    problem = blame(_changes(df, types), config, differs)
    if problem:
        raise DatasetError(problem)
    log.warning("%s, by the last digits of fractions alone; to have the same each time, %s", differs, WAY_OUT)


def blame(changes: Sequence[Change], config: PrepareConfig, differs: str) -> str:
    """The message of the error; "" if there need not be one."""
    if not changes:
        return (
            f"{differs}: the input changed while it was read, or depends on how it is read; prepare it again, from "
            f"files or a table that stay. If that does not help, {WAY_OUT}"
        )
    rule = config.splits
    # Without a key, a row's split is told by all of its columns.
    decide = () if rule is None else (rule.columns or tuple(change.name for change in changes))
    harmful = [change.name for change in changes if not change.rounded or change.name in decide]
    if not harmful:
        return ""
    columns = ", ".join(f"column {name!r}" for name in harmful)
    return (
        f"{columns}: the values change each time the DataFrame is read, which prepare does several times ({differs}); "
        f"{WAY_OUT}"
    )


def _changes(df: DataFrame, types: Mapping[str, str]) -> list[Change]:
    """The columns that differ in two readings of now.

    The passes of `prepare` hand rows to Python in batches of several sizes, and what a pandas UDF gives may depend on
    them, be it by rounding alone: so do these readings.
    """
    fractions = [name for name, type_ in types.items() if _is_fraction(type_)]
    one = _read(df, types, fractions)
    with arrow_batches(df.sparkSession, BINARY_BATCH_ROWS):
        other = _read(df, types, fractions)
    found = []
    for place, name in enumerate(types):
        if one[f"hash_{place}"] != other[f"hash_{place}"]:
            unit = FLOAT_ROUNDING if "float" in types[name] else ROUNDING
            rounding = unit * one.get(f"size_{place}", 0.0)
            near = [abs(one[key] - other[key]) <= rounding for key in (f"sum_{place}", f"size_{place}") if key in one]
            found.append(Change(name, rounded=bool(near) and all(near)))
    return found


def _read(df: DataFrame, types: Mapping[str, str], fractions: Sequence[str]) -> dict[str, Any]:
    """Sums of each column: of its hashes; for fractions, of its values and of their sizes too."""
    from pyspark.sql import functions as F

    names, columns, figures = list(types), [], []
    # Weighed by the rest of the row, so that values that change places are no rounding.
    rest = [name for name in names if name not in fractions]
    weight = F.lit(1.0) + (F.pmod(hash_of(rest, types), F.lit(1024)) / 1024 if rest else F.lit(0.0))
    for place, name in enumerate(names):
        columns.append(hash_of([name], types).alias(f"h{place}"))
        figures.append(sums(f"h{place}").alias(f"hash_{place}"))
        if name in fractions:
            columns += [(_total(name, types[name], size) * weight).alias(f"{size}{place}") for size in (False, True)]
            figures += [F.sum(f"False{place}").alias(f"sum_{place}"), F.sum(f"True{place}").alias(f"size_{place}")]
    found: dict[str, Any] = df.select(*columns).agg(*figures).collect()[0].asDict()
    return found


def _is_fraction(type_: str) -> bool:
    """Whether a column is of floating point numbers, or arrays or vectors of them."""
    return type_.replace("array<", "").rstrip(">") in ("float", "double", "vector")


def _total(name: str, type_: str, size: bool) -> Column:
    """The sum of a row's fractions, or of their sizes; what is not a number counts as none."""
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
