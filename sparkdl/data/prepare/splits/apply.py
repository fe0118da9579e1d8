"""Apply a split's rule to the rows of a DataFrame.

Runs on the driver; the rule becomes a Spark expression over the row's own values, so that the same rows and seed give
the same splits on any cluster, in any partitioning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING

from sparkdl.data.dataset import Dataset
from sparkdl.data.prepare.columns import side_by_side, types_side_by_side
from sparkdl.data.split import Split
from sparkdl.errors import SchemaError, shown
from sparkdl.spark.columns import column as named
from sparkdl.spark.columns import require_columns

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = [
    "LEFT_OUT",
    "POSITIONS",
    "class_of",
    "hashed_columns",
    "same_values",
    "split",
    "position_in_class",
    "split_index",
]

# The split index of a row that a time split leaves out; a row for which the rule gives nothing has null.
LEFT_OUT = -1

# 53 bits of a hash make a double in [0, 1) without rounding.
_MANTISSA_BITS = 53
POSITIONS = 1 << _MANTISSA_BITS

# The columns that stand for the given ones, as a struct, and for their split, while it is computed.
_GIVEN, _INDEX = "__given__", "__index__"

# Spark hashes 7 as int and 7 as bigint to different values; a table read again may come with another width.
_WIDER = {"tinyint": "bigint", "smallint": "bigint", "int": "bigint", "float": "double"}
_NARROW = re.compile("((?:array<)*)(tinyint|smallint|int|float)(>*)")

_NUMBERS = re.compile(r"tinyint|smallint|int|bigint|float|double|decimal\(.*\)")


def split(df: DataFrame, dataset: Dataset, *, column: str = "split") -> DataFrame:
    """Add a column that names the split of each raw row, to score the held-out rows, for instance.

    Args:
        df: raw rows as they were prepared: the columns that the split reads, or all columns of the dataset if it is
            divided by fractions without a key.
        column: the name of the new column; null for rows that are in no split.

    Raises:
        SchemaError: a column that the rule reads is missing, ambiguous or of another type than in the prepared rows, or
            `column` is already there.
    """
    from pyspark.sql import functions as F

    # To Spark, names that differ in case alone are one name.
    if column.lower() in [name.lower() for name in df.columns]:
        raise SchemaError(f"the DataFrame already has a column {column!r}; choose another: split(df, ds, column=…)")
    if dataset.rule is None:
        return df.select("*", F.lit("train").alias(column))
    raw = {name: dataset.raw_types[name] for name in dataset.rule.reads} if dataset.rule.columns else dataset.raw_types
    raw = {name: type_ for name, type_ in raw.items() if name in dataset.rule.reads or _is_hashed(type_)}
    found = df.select(*require_columns(df, list(raw)))
    for (name, before), field in zip(raw.items(), found.schema, strict=True):
        now = field.dataType.simpleString()
        if not same_values(before, now):
            raise SchemaError(
                f"the split is computed from column {name!r}, which was {shown(before)} when it was prepared and is "
                f"{shown(now)} now; give the column as it was: cast what is wider, read again what has lost digits"
            )
    names = F.array(*[F.lit(name) for name in dataset.rule.names])
    features = (*dataset.encoders, *dataset.label_encoders)
    several = {} if dataset.rule.columns else side_by_side(features, raw)
    if several:
        others = [name for name in (dataset.weight, *dataset.keep, *dataset.rule.reads) if name in raw]
        types = types_side_by_side(features, others, raw)
        # Apart from the given columns, which may have the names of inputs of several columns.
        rows = df.select(F.struct("*").alias(_GIVEN), *require_columns(df, list(raw)))
        hashed = [several.get(name, named(name)).alias(name) for name in types]
        divided = rows.select(_GIVEN, *hashed).select(_GIVEN, split_index(dataset.rule, types).alias(_INDEX))
        return divided.select(f"{_GIVEN}.*", F.get(names, named(_INDEX)).alias(column))
    # Fields of structs become columns, which the rule reads by their names.
    known = {name.lower() for name in df.columns}
    fields = require_columns(df, [name for name in raw if name.lower() not in known])
    rows = df.select("*", *fields) if fields else df
    divided = rows.select("*", F.get(names, split_index(dataset.rule, raw)).alias(column))
    return divided.select(*map(named, df.columns), named(column)) if fields else divided


def hashed_columns(types: Mapping[str, str]) -> list[str]:
    """Return the columns that decide a row's split without a key: all but those with maps, which Spark cannot hash."""
    return sorted(name for name, type_ in types.items() if _is_hashed(type_))


def _is_hashed(type_: str) -> bool:
    return "map<" not in type_


def split_index(rule: Split, types: Mapping[str, str]) -> Column:
    """Compute each row's index in `rule.names`, int; `LEFT_OUT`, or null if a column that the rule reads fits no split.

    Args:
        types: Spark type (DDL), when the rows were prepared, of each column that the rule reads, or of all columns of
            the dataset if the rule has no columns.

    Raises SchemaError for a column of a type that the rule cannot read.
    """
    from pyspark.sql import functions as F

    if rule.kind == "column":
        said = named(rule.columns[0]).cast("string")
        return F.coalesce(*[F.when(said == name, F.lit(index)) for index, name in enumerate(rule.names)])
    if rule.kind == "fraction":
        return _by_hash(rule, types)
    indices = [_by_time(rule, name, types[name]) for name in rule.columns]
    if len(indices) == 1:
        return indices[0]
    first, last = indices
    known = first.isNotNull() & last.isNotNull()
    return F.when(known, F.when(first == last, first).otherwise(F.lit(LEFT_OUT)))


def class_of(name: str, type_: str) -> Column:
    """Return a column's value as the string by which a stratified rule names its class; null stays null.

    Args:
        type_: the type when the rows were prepared; a double that was a float then is rounded to float first.
    """
    return (named(name).cast(type_) if type_ == "float" else named(name)).cast("string")


def position_in_class(rule: Split, types: Mapping[str, str]) -> Column:
    """Return the position of a row among all, by its hash: bigint in [0, POSITIONS), as in `split_index`."""
    from pyspark.sql import functions as F

    columns = rule.columns or hashed_columns(types)
    for name in columns:
        if "map<" in types[name]:
            raise SchemaError(f"column {name!r} cannot be the key of a split: Spark cannot hash {shown(types[name])}")
    values = [_as_prepared(name, types[name]) for name in columns]
    hashed = F.xxhash64(F.lit(rule.seed), *values)
    return F.shiftrightunsigned(hashed, 64 - _MANTISSA_BITS)


def _by_hash(rule: Split, types: Mapping[str, str]) -> Column:
    from pyspark.sql import functions as F

    position = position_in_class(rule, types)
    # The last share also takes what rounding leaves.
    last = len(rule.names) - 1
    by_share = _first_end_above(position / F.lit(float(POSITIONS)), accumulate(rule.fractions[:-1]), beyond=last)
    if rule.stratify is None or not rule.ends:
        return by_share
    class_ = class_of(rule.stratify, types[rule.stratify])
    index = by_share
    ends = dict(rule.ends)
    known = [part for name in ends if name is not None for part in (F.lit(name), _longs(ends[name]))]
    if known:
        own = F.try_element_at(F.create_map(*known), class_)
        passed = [F.when(position >= F.get(own, F.lit(place)), 1).otherwise(0) for place in range(last)]
        index = F.when(own.isNotNull(), sum(passed, F.lit(0))).otherwise(by_share)
    if None in ends:
        index = F.when(class_.isNull(), _first_end_above(position, ends[None], beyond=last)).otherwise(index)
    return index


def _longs(values: Iterable[int]) -> Column:
    from pyspark.sql import functions as F

    return F.array(*[F.lit(value).cast("bigint") for value in values])


def _by_time(rule: Split, name: str, type_: str) -> Column:
    """Compute the index of the first split that ends after the column's time; null for a null time, and for NaN."""
    from pyspark.sql import functions as F

    column = named(name).cast(type_) if type_ == "float" else named(name)
    finite = [end for end in rule.until if end is not None]
    endless = len(finite) < len(rule.until)
    if type_ in ("timestamp", "timestamp_ntz", "date"):
        if not all(isinstance(end, str) for end in finite):
            raise SchemaError(f"column {name!r} is {type_}, and Split.time ends its splits at numbers: {shown(finite)}")
        # A text with its offset, and a text cast without a zone, mean the same in every session's time zone.
        if type_ == "timestamp":
            ends = [F.lit(f"{end}Z").cast("timestamp") for end in finite]
        else:
            column = column.cast("timestamp_ntz")
            ends = [F.lit(end).cast("timestamp_ntz") for end in finite]
    elif _NUMBERS.fullmatch(type_):
        if any(isinstance(end, str) for end in finite):
            raise SchemaError(f"column {name!r} is {type_}, and Split.time ends its splits at times: {shown(finite)}")
        ends = [F.lit(end) for end in finite]
    else:
        raise SchemaError(f"column {name!r} is {shown(type_)}; Split.time needs timestamps, dates or numbers: cast it")
    index = _first_end_above(column, ends, beyond=len(finite) if endless else LEFT_OUT)
    known = column.isNotNull()
    if type_ in ("float", "double"):
        known &= ~F.isnan(column)  # to Spark, NaN is later than all times
    return F.when(known, index)


def _first_end_above(value: Column, ends: Iterable[Column | float], *, beyond: int) -> Column:
    """Compute the index of the first end that is greater than the value, or `beyond`."""
    from pyspark.sql import functions as F

    indices = [F.when(value < end, F.lit(index)) for index, end in enumerate(ends)]
    return F.coalesce(*indices, F.lit(beyond))


def _as_prepared(name: str, type_: str) -> Column:
    """Cast a column to the type that its values are hashed in, from the prepared type or a wider one.

    Args:
        type_: the type when the rows were prepared. A double that was a float then is rounded to float first: the
            further digits come from a table or a text that stores the same rows with more digits.
    """
    hashed_as = _hashed_as(type_)
    if hashed_as == type_:
        return named(name)
    return named(name).cast(type_).cast(hashed_as) if "float" in type_ else named(name).cast(hashed_as)


def same_values(before: str, now: str) -> bool:
    """Tell whether values of the type `now` determine those of the type `before`: no digits were lost."""
    return before == now or (_hashed_as(before) == _hashed_as(now) and not ("double" in before and "float" in now))


def _hashed_as(type_: str) -> str:
    """Return the type that a value is hashed in: whole numbers as bigint, fractions as double, also inside arrays."""
    narrow = _NARROW.fullmatch(type_)
    return narrow[1] + _WIDER[narrow[2]] + narrow[3] if narrow else type_
