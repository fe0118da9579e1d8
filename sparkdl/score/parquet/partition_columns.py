"""Ask Spark for the columns that folders name: `day=2024-05-01/hour=7/part-0.parquet`.

Driver. Spark's own function reads the names, in Spark's types and the session's time zone: no job runs, and the JVM
need not see the folders, which may be in a store that Python alone can read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkdl.errors import SchemaError
from sparkdl.score.parquet.spark_types import arrow_type, is_set

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["FolderColumns", "Value", "folder_columns"]

# A value of a column that folders name, as Arrow takes it: days for dates, microseconds for timestamps.
Value = str | int | float | Decimal | None

# Any path: Spark gets the names of the folders below it.
_ROOT = "/folder"


@dataclass(frozen=True, slots=True)
class FolderColumns:
    """Hold the columns that folders name, `day=2024-05-01`.

    Attributes:
        fields: the JSON of each column's StructField.
        types: the Arrow types of the columns, in order.
        values: the columns' values by folder, in the order of `types`. Spark ignores the files of other folders.
    """

    fields: tuple[Mapping[str, Any], ...]
    types: pa.Schema
    values: Mapping[str, tuple[Value, ...]]


def folder_columns(spark: SparkSession, path: str, folders: Sequence[str]) -> FolderColumns:
    """Ask Spark for the columns in the names of the folders, relative to `path`, that hold the files.

    Raises SchemaError for folders that do not agree.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    by_path = {f"{_ROOT}/{folder}".rstrip("/"): folder for folder in folders}
    try:
        spec = _partition_spec(spark, list(by_path))
    except (PySparkException, Py4JError) as error:
        reason = " ".join(str(getattr(error, "java_exception", error)).split()).replace(_ROOT, path)
        raise SchemaError(f"{path}: Spark finds no columns in the names of the folders: {reason:.500}") from error
    fields = tuple(json.loads(spec.partitionColumns().json())["fields"])
    types = pa.schema([(field["name"], arrow_type(field)) for field in fields])
    # Without columns Spark reads the files in the folder itself, and no folders in it.
    values: dict[str, tuple[Value, ...]] = {} if fields else {folder: () for folder in folders if not folder}
    found = spec.partitions()
    for index in range(found.size()):
        one = found.apply(index)
        row = one.values()
        name = one.path().toString()
        # A name that Hadoop writes otherwise is left out here, which becomes an error later.
        if name in by_path:
            values[by_path[name]] = tuple(_value(row, number, type_) for number, type_ in enumerate(types.types))
    return FolderColumns(fields, types, values)


def _partition_spec(spark: SparkSession, paths: Iterable[str]) -> Any:
    """Call Spark's reader of folder names, with the session's settings and time zone."""
    jvm: Any = spark._jvm
    hadoop = jvm.org.apache.hadoop.fs.Path
    to_seq = jvm.org.apache.spark.api.python.PythonUtils.toSeq
    found, base = jvm.java.util.ArrayList(), jvm.java.util.ArrayList()
    for path in paths:
        found.add(hadoop(path))
    base.add(hadoop(_ROOT))
    utils = getattr(getattr(jvm, "org.apache.spark.sql.execution.datasources.PartitioningUtils$"), "MODULE$")
    arguments = [
        to_seq(found),
        is_set(spark, "spark.sql.sources.partitionColumnTypeInference.enabled"),
        to_seq(base).toSet(),
        getattr(getattr(jvm, "scala.None$"), "MODULE$"),  # no schema given by the user
        is_set(spark, "spark.sql.caseSensitive"),
        True,
        spark.conf.get("spark.sql.session.timeZone"),
    ]
    if int(spark.version.split(".")[0]) >= 4:
        arguments.append(is_set(spark, "spark.sql.files.ignoreInvalidPartitionPaths"))
    return utils.parsePartitions(*arguments)


def _value(row: Any, index: int, type_: pa.DataType) -> Value:
    """Return a value of one of Spark's internal rows, as Arrow takes it."""
    if row.isNullAt(index):
        return None
    types = pa.types
    if types.is_string(type_):
        return str(row.getUTF8String(index).toString())
    if types.is_decimal(type_):
        return Decimal(row.getDecimal(index, type_.precision, type_.scale).toString())
    if types.is_float64(type_):
        return float(row.getDouble(index))
    if types.is_int32(type_) or types.is_date32(type_):
        return int(row.getInt(index))
    return int(row.getLong(index))
