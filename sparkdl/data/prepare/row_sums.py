"""Compare the rows that two passes over a DataFrame saw, by sums of the rows' hashes.

Runs on the driver; Spark computes the hashes and sums, or its Python workers do if rows pass through them anyway. Sums
of whole numbers are equal for the same rows in any order and division; other rows have equal sums once in 2^64 times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sparkdl.spark.columns import column as named

if TYPE_CHECKING:
    from pyspark.sql import Column

__all__ = ["LIMBS", "NOTHING", "Seen", "Sums", "add", "hash_of", "sums", "sums_in", "whole_rows"]

# The 16 bits of a hash from each of these bits on are added up apart: sums of such small numbers do not overflow.
LIMBS = (0, 16, 32, 48)

Sums = tuple[int, ...]
"""The sum of each limb of the hashes of some rows. Shape ``(limbs,)``."""

NOTHING: Sums = (0,) * len(LIMBS)


@dataclass(frozen=True, slots=True)
class Seen:
    """Hold the sums of the rows that a pass saw.

    Attributes:
        what: the purpose of the pass, in the words of a message.
        names: the columns that the pass read.
        sums: of the hashes of these columns.
    """

    what: str
    names: tuple[str, ...]
    sums: Sums


def _hashable(name: str, type_: str) -> list[Column]:
    """Return a column in a form that Spark can hash, and whether it is null, because the hash ignores nulls."""
    from pyspark.sql import functions as F

    column = named(name)
    if type_.startswith("map<") and "map<" not in type_[1:]:
        return [F.array_sort(F.map_entries(column)), F.isnull(column)]
    if "map<" in type_:
        return [_text(column), F.isnull(column)]
    return [column, F.isnull(column)]


def hash_of(names: Iterable[str], types: Mapping[str, str], *before: Column) -> Column:
    """Hash each row over the values `before`, then over some columns, whose Spark types (DDL) are `types`."""
    from pyspark.sql import functions as F

    return F.xxhash64(*before, *[value for name in sorted(set(names)) for value in _hashable(name, types[name])])


def whole_rows(order: str, types: Mapping[str, str]) -> Column:
    """Hash each row so that all rows that are not equal differ, to identify rows by their content.

    Spark's hash ignores nulls inside of arrays and structs, and the ends of inner arrays: [[1], [2]] and [[1, 2]] have
    the same hash, and so have words that are equal under a collation. In columns that may hold such values, these
    details are hashed as well.

    Args:
        order: the column with the row's hash over all columns.
        types: Spark type (DDL) of each column of the dataset.
    """
    from pyspark.sql import functions as F

    beside = [value for name in sorted(types) for value in _inside(named(name), types[name])]
    return F.xxhash64(named(order), *beside) if beside else named(order)


def _inside(column: Column, type_: str) -> list[Column]:
    """Return the details of a column that Spark's hash ignores."""
    if type_.startswith("array<") and not any(kind in type_ for kind in ("struct<", "map<", "collate")):
        return _of_array(column, type_)
    if "<" in type_:
        # Structs, maps and arrays of these are kept columns and images: their text holds all that the hash ignores.
        return [_text(column)]
    return [column.cast("binary")] if "collate" in type_ else []


def _of_array(column: Column, type_: str) -> list[Column]:
    """Return the lengths of the array and of inner ones, and the whole array as text if it holds a null."""
    from pyspark.sql import functions as F

    flat, sizes = column, [F.size(column)]
    for _ in range(type_.count("array<") - 1):
        sizes.append(F.transform(flat, F.size))
        flat = F.flatten(flat)
    has_null = F.isnull(flat) | F.exists(flat, F.isnull)
    return [*sizes, F.when(has_null, _text(column))]


def _text(column: Column) -> Column:
    """Print all that a column holds: to the microsecond, and equally in every session's time zone."""
    from pyspark.sql import functions as F

    seconds = "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"
    formats = {"timestampFormat": f"{seconds}XXX", "timestampNTZFormat": seconds}
    return F.to_json(F.struct(column), {"ignoreNullFields": "false", "timeZone": "UTC", **formats})


def sums(hashes: str) -> Column:
    """Add up the hashes of a group in Spark, limb by limb: an array, as `Sums`."""
    from pyspark.sql import functions as F

    bits = F.lit(0xFFFF).cast("long")
    return F.array(*[F.sum(F.shiftrightunsigned(named(hashes), limb).bitwiseAND(bits)) for limb in LIMBS])


def sums_in(hashes: pa.Array) -> Sums:
    """Add up the hashes in a column of a batch, whole numbers of 64 bits, limb by limb."""
    values = hashes.to_numpy(zero_copy_only=False)
    # (rows,) of 64 bits -> (rows, limbs) of 16, the lowest first
    return tuple(int(total) for total in values.view("<u2").reshape(-1, len(LIMBS)).sum(axis=0, dtype=np.int64))


def add(one: Sums, other: Sums) -> Sums:
    """Add up two sums, limb by limb."""
    return tuple(a + b for a, b in zip(one, other, strict=True))
