"""Name the columns that a dataset reads, and put those side by side that are one input.

Runs on the driver; Spark puts the columns together, so that the passes of prepare read one array in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sparkdl.data.features import Encoder, Feature
from sparkdl.data.features.feature import raw_columns
from sparkdl.errors import SchemaError, shown
from sparkdl.spark.columns import quoted

if TYPE_CHECKING:
    from pyspark.sql import Column

__all__ = ["raw_names", "side_by_side", "types_side_by_side"]

_PLAIN_NUMBERS = re.compile(r"tinyint|smallint|int|bigint|float|double|decimal\(.*\)|boolean|void")
_SEVERAL = "array<double>"


def raw_names(features: Iterable[Feature | Encoder], others: Iterable[str]) -> list[str]:
    """Return the raw columns of features, labels among them, then other columns: once each, in this order."""
    return list(dict.fromkeys([*(name for feature in features for name in raw_columns(feature)), *others]))


def side_by_side(features: Iterable[Feature | Encoder], types: Mapping[str, str]) -> dict[str, Column]:
    """Return a column of arrays of doubles, NaN for null, for each feature of several columns, by the feature's name.

    Args:
        types: Spark type (DDL) of each raw column, when the rows were prepared. A double that was a float then is
            rounded to float first.

    Raises SchemaError for a column that is not of plain numbers or booleans.
    """
    from pyspark.sql import functions as F

    def double(name: str) -> str:
        if not _PLAIN_NUMBERS.fullmatch(types[name]):
            raise SchemaError(
                f"column {name!r} is {shown(types[name])}; an input of several columns takes plain numbers and booleans"
            )
        if "${" in name:
            raise SchemaError(f"column {name!r}: Spark would put a variable in place of ${{…}} in its name; rename it")
        value = f"cast({quoted(name)} as float)" if types[name] == "float" else quoted(name)
        # Spark's hash passes over nulls in arrays: rows that have it in other columns would be the same row to it.
        return f"coalesce(cast({value} as double), double('NaN'))"

    several = [feature for feature in features if getattr(feature, "columns", ())]
    # One expression in SQL: a call to the JVM for each column would take seconds for a thousand.
    return {feature.name: F.expr(f"array({', '.join(map(double, raw_columns(feature)))})") for feature in several}


def types_side_by_side(
    features: Iterable[Feature | Encoder], others: Iterable[str], types: Mapping[str, str]
) -> dict[str, str]:
    """Return the Spark type (DDL) of each feature's column, of arrays for several columns, then of other columns."""
    of_features = {f.name: _SEVERAL if getattr(f, "columns", ()) else types[f.name] for f in features}
    return of_features | {name: types[name] for name in others}
