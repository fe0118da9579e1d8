"""Name every column that holds nulls without a policy, when a null has ended a prepare.

Runs on the driver. A worker stops at the first such column; without this list, users would find the others one by one,
by a run each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sparkdl.data.features import Numeric
from sparkdl.data.features.feature import fills
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import SchemaError
from sparkdl.spark.columns import column
from sparkdl.spark.errors import errors_from_workers

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["all_nulls_named"]

NAMED_COLUMNS = 20


@contextmanager
def all_nulls_named(rows: DataFrame, config: PrepareConfig) -> Iterator[None]:
    """Extend an error about a missing value in the block to one that counts missing values of all columns.

    Args:
        rows: the used columns of the DataFrame that is prepared, read once more only after such an error.
    """
    try:
        with errors_from_workers():
            yield
    except SchemaError as error:
        if "null" not in str(error) and "NaN" not in str(error):
            raise
        counted = _counted(rows, _missing(rows, config))
        if not counted:
            raise
        raise SchemaError(f"{error}. Missing values without a policy are in {counted}") from error


def _missing(rows: DataFrame, config: PrepareConfig) -> dict[str, Column]:
    """Return, for each raw column that must have all values, whether a row's is missing; NaN counts where it does."""
    from pyspark.sql import functions as F

    features = (*config.features, *config.labels)
    filled = {f.name for f in features if fills(f)}
    missing: dict[str, Column] = {}

    def count(name: str, value: Column, *, nan: bool) -> None:
        missing[name] = value.isNull() | F.isnan(value) if nan else value.isNull()

    def holds_floats(name: str) -> bool:
        return rows.schema[name].dataType.simpleString() in ("float", "double")

    for f in features:
        if f.name in filled:
            continue
        several = getattr(f, "columns", ())
        for place, name in enumerate(several):
            count(name, F.get(column(f.name), F.lit(place)), nan=True)
        if not several:
            count(f.name, column(f.name), nan=isinstance(f, Numeric) and holds_floats(f.name))
    if config.weight:
        count(config.weight, column(config.weight), nan=holds_floats(config.weight))
    return missing


def _counted(rows: DataFrame, missing: dict[str, Column]) -> str:
    """Count missing values; list the columns that hold any, those with most first, or return ""."""
    from pyspark.sql import functions as F

    counts = [F.count_if(is_missing).alias(str(place)) for place, is_missing in enumerate(missing.values())]
    total, *found = rows.agg(F.count(F.lit(1)), *counts).collect()[0]
    some = sorted(((-count, name) for name, count in zip(missing, found, strict=True) if count))
    listed = [f"column {name!r} ({-count} of {total} rows)" for count, name in some]
    more = f" and {len(listed) - NAMED_COLUMNS} more" if len(listed) > NAMED_COLUMNS else ""
    return ", ".join(listed[:NAMED_COLUMNS]) + more
