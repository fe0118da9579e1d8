"""Tell whether two passes over a DataFrame saw the same rows: sums of the rows' hashes.

Driver; the hashes and sums are computed in Spark, and in its Python workers where rows pass through them anyway. Sums
of whole numbers are equal for the same rows in any order and division; other rows have equal ones once in 2^64 times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from sparkdl.spark.columns import column as named

if TYPE_CHECKING:
    from pyspark.sql import Column

__all__ = ["LIMBS", "NOTHING", "Seen", "Sums", "add", "hash_of", "hashable", "sums", "sums_in", "whole_rows"]

# The 16 bits of a hash from each of these places on are added up apart: no sum of so small numbers overflows.
LIMBS = (0, 16, 32, 48)

Sums = tuple[int, ...]
"""The sum of each limb of the hashes of some rows. Shape ``(limbs,)``."""

NOTHING: Sums = (0,) * len(LIMBS)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a pass saw.

    Attributes:
        what: what the pass was for, in the words of a message.
        names: the columns that it read.
        sums: of the hashes of these.
    """

    what: str
    names: tuple[str, ...]
    sums: Sums


def hashable(name: str, type_: str) -> list[Column]:
    """A column's values as Spark can hash them, and whether they are null: the hash passes over nulls."""
    from pyspark.sql import functions as F

    column = named(name)
    if type_.startswith("map<") and "map<" not in type_[1:]:
        return [F.array_sort(F.map_entries(column)), F.isnull(column)]
    if "map<" in type_:
        return [_text(column), F.isnull(column)]
    return [column, F.isnull(column)]


def hash_of(names: Sequence[str], types: Mapping[str, str]) -> Column:
    """A row's hash over some columns.

    Args:
        types: Spark type (DDL) of each of them.
    """
    from pyspark.sql import functions as F

    return F.xxhash64(*[value for name in sorted(set(names)) for value in hashable(name, types[name])])


def whole_rows(order: str, types: Mapping[str, str]) -> Column:
    """A row's hash that tells all rows apart that are not equal: what names rows by their content.

    Spark's hash passes over nulls inside of arrays and structs, does not tell where an array ends, takes [[1], [2]] and
    [[1, 2]] for one, and words that a collation takes for one too: where there may be such, they are hashed beside it.

    Args:
        order: the column with the row's hash over all columns.
        types: Spark type (DDL) of each column of the dataset.
    """
    from pyspark.sql import functions as F

    beside = [value for name in sorted(types) for value in _inside(named(name), name, types[name])]
    return F.xxhash64(named(order), *beside) if beside else named(order)


def _inside(column: Column, name: str, type_: str) -> list[Column]:

    if type_.startswith("array<") and not any(kind in type_ for kind in ("struct<", "map<", "collate")):
        return _of_array(column, type_)
    if "<" in type_ or type_ == "vector":
        # Structs, maps and what holds them come as kept columns and images: their text tells all.
        return [] if type_ == "vector" else [_text(column)]
    return [column.cast("binary")] if "collate" in type_ else []


def _of_array(column: Column, type_: str) -> list[Column]:
    """The lengths of the array and of inner ones, and the whole array as text where it holds a null."""
    from pyspark.sql import functions as F

    flat, sizes = column, [F.size(column)]
    for _ in range(type_.count("array<") - 1):
        sizes.append(F.transform(flat, F.size))
        flat = F.flatten(flat)
    has_null = F.isnull(flat) | F.exists(flat, F.isnull)
    return [*sizes, F.when(has_null, _text(column))]


def _text(column: Column) -> Column:
    """All that is in a column, as text: to the microsecond, and alike in every session's time zone."""
    from pyspark.sql import functions as F

    seconds = "yyyy-MM-dd'T'HH:mm:ss.SSSSSS"
    formats = {"timestampFormat": f"{seconds}XXX", "timestampNTZFormat": seconds}
    return F.to_json(F.struct(column), {"ignoreNullFields": "false", "timeZone": "UTC", **formats})


def sums(hashes: str) -> Column:
    """Adds up the hashes of a group, limb by limb: an array, as `Sums`."""
    from pyspark.sql import functions as F

    bits = F.lit(0xFFFF).cast("long")
    return F.array(*[F.sum(F.shiftrightunsigned(named(hashes), limb).bitwiseAND(bits)) for limb in LIMBS])


def sums_in(hashes: pa.Array) -> Sums:
    """The same of a column of a batch, whole numbers of 64 bits."""
    values = hashes.to_numpy(zero_copy_only=False)
    # (rows,) of 64 bits -> (rows, limbs) of 16, the lowest first
    return tuple(int(total) for total in values.view("<u2").reshape(-1, len(LIMBS)).sum(axis=0, dtype=np.int64))


def add(one: Sums, other: Sums) -> Sums:
    """The sums of both together."""
    return tuple(a + b for a, b in zip(one, other, strict=True))
