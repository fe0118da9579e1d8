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
        counted = _counted(rows, _must_be_there(config))
        if not counted:
            raise
        raise SchemaError(f"{error}. Missing values without a policy are in {counted}") from error


def _must_be_there(config: PrepareConfig) -> dict[str, bool]:
    """Return the columns that may not hold nulls, and whether NaN counts as null in each."""
    features = (*config.features, *config.labels)
    filled = {f.name for f in features if fills(f)}
    wanted = {f.name: isinstance(f, Numeric) and f.name not in filled for f in features if not fills(f)}
    return wanted | ({config.weight: True} if config.weight else {})


def _counted(rows: DataFrame, wanted: dict[str, bool]) -> str:
    """Count missing values; list the columns that hold any, those with most first, or return ""."""
    from pyspark.sql import functions as F

    counts: list[Column] = []
    for name, nan in wanted.items():
        value, is_float = column(name), rows.schema[name].dataType.simpleString() in ("float", "double")
        missing = value.isNull() | F.isnan(value) if nan and is_float else value.isNull()
        counts.append(F.count_if(missing).alias(str(len(counts))))
    total, *found = rows.agg(F.count(F.lit(1)), *counts).collect()[0]
    some = sorted(((-count, name) for name, count in zip(wanted, found, strict=True) if count))
    listed = [f"column {name!r} ({-count} of {total} rows)" for count, name in some]
    more = f" and {len(listed) - NAMED_COLUMNS} more" if len(listed) > NAMED_COLUMNS else ""
    return ", ".join(listed[:NAMED_COLUMNS]) + more
