"""Find what a split's rule needs to know of the rows: the names in its column, or where its shares end in each class.

Runs on the driver, before rows are divided. What was found becomes a part of the rule, which then is a function of each
row alone: `sparkdl.split` divides other rows by the same ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from sparkdl.data.prepare.splits.apply import POSITIONS, class_of, position_in_class
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.data.split import Split
from sparkdl.errors import ConfigError, DatasetError, shown
from sparkdl.spark.columns import column as named

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["ends_in_class", "resolved_split"]

MAX_SPLITS = 20
MAX_CLASSES = 1000
# Rows are counted by the first bits of their hash, and only the buckets in which a share ends are looked at row by row.
BUCKETS = 1 << 12
_USUAL = ("train", "val", "test")


def resolved_split(config: PrepareConfig, used: DataFrame, types: Mapping[str, str]) -> PrepareConfig:
    """Return a config whose split is a function of each row alone; one or three passes over the rows, if any.

    Args:
        used: the raw rows, with the columns that the dataset reads.
        types: Spark type (DDL) of each of these columns.

    Raises:
        DatasetError: the column of the splits does not name "train", or names too many splits.
        ConfigError: a stratified split whose column has too many values, or whose keys have rows of several classes.
    """
    rule = config.splits
    if rule is None:
        return config
    if rule.kind == "column" and not rule.names:
        return dataclasses.replace(config, splits=_with_names(rule, used))
    if rule.stratify is not None:
        return dataclasses.replace(config, splits=_with_ends(rule, rule.stratify, used, types))
    return config


def _with_names(rule: Split, used: DataFrame) -> Split:
    name = rule.columns[0]
    rows = used.select(named(name).cast("string").alias("name")).distinct().limit(MAX_SPLITS + 2).collect()
    found = [row["name"] for row in rows if row["name"] is not None]
    if len(found) > MAX_SPLITS:
        raise DatasetError(f"column {name!r} names more than {MAX_SPLITS} splits, such as {shown(found[0])}")
    if "train" not in found:
        raise DatasetError(f"column {name!r} names the splits {shown(sorted(found))}; one must be 'train'")
    usual = [split for split in _USUAL if split in found]
    try:
        return Split.column(name, [*usual, *sorted(set(found) - set(usual))])
    except ConfigError as error:
        raise DatasetError(f"column {name!r}: {error}") from error


def _with_ends(rule: Split, stratify: str, used: DataFrame, types: Mapping[str, str]) -> Split:
    from pyspark.sql import functions as F

    if rule.columns:
        _check_keys(rule, stratify, used, types)
    rows = used.select(
        class_of(stratify, types[stratify]).alias("class"), position_in_class(rule, types).alias("position")
    )
    classes = rows.select("class").distinct().limit(MAX_CLASSES + 1).count()
    if classes > MAX_CLASSES:
        raise ConfigError(
            f"Split.fraction: stratify={stratify!r} has more than {MAX_CLASSES} values; name a column of classes"
        )
    bucket = F.floor(F.col("position") / F.lit(POSITIONS // BUCKETS)).cast("int").alias("bucket")
    counts: dict[str | None, np.ndarray] = {}
    for row in rows.groupBy("class", bucket).count().collect():
        counts.setdefault(row["class"], np.zeros(BUCKETS, np.int64))[row["bucket"]] = row["count"]
    shares = list(accumulate(rule.fractions[:-1]))
    wanted = {
        (class_, int(np.searchsorted(np.cumsum(counted), end, side="right")))
        for class_, counted in counts.items()
        for end in _row_counts(int(counted.sum()), shares)
        if end < counted.sum()
    }
    positions: dict[tuple[str | None, int], list[int]] = {key: [] for key in wanted}
    if wanted:
        for row in rows.select("*", bucket).where(_is_one_of(wanted)).select("class", "bucket", "position").collect():
            positions[row["class"], row["bucket"]].append(row["position"])
    ends = {class_: ends_in_class(counted, class_, positions, shares) for class_, counted in counts.items()}
    # A null class sorts before all others.
    ordered = sorted(ends.items(), key=lambda item: (item[0] is not None, item[0] or ""))
    return dataclasses.replace(rule, ends=tuple(ordered))


def _row_counts(rows: int, shares: Iterable[float]) -> list[int]:
    """Return the numbers of rows, of a class with `rows`, that lie before the end of each share but the last."""
    return [round(share * rows) for share in shares]


def ends_in_class(
    counted: np.ndarray,
    class_: str | None,
    positions: Mapping[tuple[str | None, int], Sequence[int]],
    shares: Sequence[float],
) -> tuple[int, ...]:
    """Return the position at which each share but the last ends: as many rows of the class lie before as it asks for.

    Args:
        counted: rows in each bucket, int64 of shape ``(BUCKETS,)``.
        positions: of all rows in the buckets in which a share ends, by class and bucket.
        shares: cumulative, without the last.
    """
    before = np.cumsum(counted) - counted
    ends = []
    for end in _row_counts(int(counted.sum()), shares):
        if end >= counted.sum():
            ends.append(POSITIONS)
            continue
        bucket = int(np.searchsorted(np.cumsum(counted), end, side="right"))
        ends.append(sorted(positions[class_, bucket])[end - int(before[bucket])])
    return tuple(ends)


def _is_one_of(wanted: Iterable[tuple[str | None, int]]) -> Column:
    """Match rows whose class and bucket are among these pairs."""
    from pyspark.sql import functions as F

    buckets: dict[str | None, set[int]] = {}
    for class_, bucket in wanted:
        buckets.setdefault(class_, set()).add(bucket)
    match = F.lit(False)
    for class_, some in buckets.items():
        match |= F.col("class").eqNullSafe(F.lit(class_)) & F.col("bucket").isin(*some)
    return match


def _check_keys(rule: Split, stratify: str, used: DataFrame, types: Mapping[str, str]) -> None:
    """Raise ConfigError if the rows of a key are of several classes: they could not all be in one split."""
    from pyspark.sql import functions as F

    keys = [named(name) for name in rule.columns]
    class_ = F.coalesce(F.concat(F.lit("="), class_of(stratify, types[stratify])), F.lit(""))
    mixed = used.groupBy(*keys).agg(F.min(class_).alias("first"), F.max(class_).alias("last")).where("first != last")
    one = mixed.first()
    if one is not None:
        key = one[0] if len(rule.columns) == 1 else tuple(one[: len(rule.columns)])
        raise ConfigError(
            f"Split.fraction: rows of one key, such as {shown(key)}, have several values of stratify={stratify!r}, so "
            "no split could hold them all; leave out key or stratify"
        )
