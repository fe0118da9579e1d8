"""Name a DataFrame's columns so that dots, spaces and backticks in names do no harm.

Runs on the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkdl.errors import SchemaError, near_miss, shown
from sparkdl.spark.arrow_types import arrow_type_of
from sparkdl.spark.python_worker import drop_zip_importers

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType, StructType

__all__ = ["check_types", "column", "map_in_arrow", "quoted", "require_column", "require_columns"]


def column(name: str) -> Column:
    """Return the column of exactly this name; `F.col` would take `a.b` for field b of a."""
    from pyspark.sql import functions as F

    return F.col(quoted(name))


def quoted(name: str) -> str:
    """Return a name as Spark's SQL takes it for one column: dots and backticks in it mean nothing."""
    return "`" + name.replace("`", "``") + "`"


def require_column(df: DataFrame, name: str) -> Column:
    """Return the column that a name means, under this name: as Spark finds it, in any case, or a field of a struct.

    `user.age` is the column of this name or else field `age` of the struct `user`. Raises SchemaError
    unless exactly one column is meant, in Spark's eyes and in ours.
    """
    return _column_of(_found(df, [name])[0], name)


def require_columns(df: DataFrame, names: Sequence[str]) -> list[Column | str]:
    """Return the columns that names mean, as `require_column` does, for `DataFrame.select` and for UDFs.

    A column of the very name is given as its quoted name: for hundreds of columns that saves seconds of calls to the
    JVM.
    """
    found = _found(df, names)
    return [
        quoted(name) if parts == [name] else _column_of(parts, name) for parts, name in zip(found, names, strict=True)
    ]


def _column_of(parts: Sequence[str], name: str) -> Column:
    found = column(parts[0])
    for part in parts[1:]:
        found = found.getField(part)
    return found.alias(name)


def _found(df: DataFrame, names: Sequence[str]) -> list[list[str]]:
    """Return for each name the column that it means, and the fields inside of it, as they are spelt there."""
    columns = df.columns
    by_case = df.sparkSession.conf.get("spark.sql.caseSensitive") == "true"

    def key(name: str) -> str:
        return name if by_case else name.lower()

    spelt: dict[str, list[str]] = {}
    for column_name in columns:
        spelt.setdefault(key(column_name), []).append(column_name)
    found = []
    for name in map(str, names):
        same = spelt.get(key(name), [])
        if same.count(name) > 1:
            raise SchemaError(f"column {shown(name)} is {same.count(name)} times in the DataFrame; rename one")
        if len(same) > 1:
            first, second = sorted(same, key=lambda other: other != name)[:2]
            raise SchemaError(f"column {shown(first)} and {shown(second)} are one name to Spark; rename one")
        parts = same or _field(df.schema, name.split("."), by_case=by_case)
        if parts is None:
            raise SchemaError(f"column {shown(name)} is not in the DataFrame{near_miss(name, columns)}")
        found.append(parts)
    return found


def _field(struct: DataType, parts: Sequence[str], *, by_case: bool) -> list[str] | None:
    """Return the names of a field inside of structs, as they are spelt there; None if nothing matches."""
    fields = getattr(struct, "fields", None)
    if not parts:
        return []
    same = [f for f in fields or () if f.name == parts[0] or (not by_case and f.name.lower() == parts[0].lower())]
    if len(same) != 1:
        return None
    rest = _field(same[0].dataType, parts[1:], by_case=by_case)
    return None if rest is None else [same[0].name, *rest]


def check_types(schema: StructType, names: Iterable[str]) -> None:
    """Raise SchemaError for a column of a type that Spark cannot hand to Python as Arrow, or cannot hash."""
    from pyspark.errors import PySparkException

    for name in names:
        type_ = schema[name].dataType
        try:
            arrow_type_of(type_)
            readable = not any(type(part).__name__ == "VariantType" for part in _parts(type_))
        except PySparkException:
            readable = False
        if not readable:
            raise SchemaError(
                f"column {name!r}: values of type {type_.simpleString():.80} cannot be prepared: Spark does not hand "
                "them to Python; cast them before, to int, double or string"
            )


def _parts(type_: DataType) -> Iterator[DataType]:
    """Yield a type, and all types inside of it."""
    yield type_
    fields = getattr(type_, "fields", ())
    inner = [getattr(type_, name, None) for name in ("elementType", "keyType", "valueType")]
    for part in (*inner, *(field.dataType for field in fields)):
        if part is not None:
            yield from _parts(part)


def map_in_arrow(
    df: DataFrame, function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]], schema: StructType | str
) -> DataFrame:
    """Run `df.mapInArrow(function, schema)` for columns of any name; PySpark's looks `a.b` up as field b of a."""
    names = df.columns

    def named(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        drop_zip_importers()
        return function(pa.RecordBatch.from_arrays(batch.columns, names=names) for batch in batches)

    return df.toDF(*[f"column_{index}" for index in range(len(names))]).mapInArrow(named, schema)
