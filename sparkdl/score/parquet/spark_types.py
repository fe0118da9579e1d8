"""Ask Spark for the types of the columns of Parquet files, and convert them to Arrow types.

Driver. Spark's own function converts a footer's bytes: no job runs, and the JVM need not see the files, which may be
in a store that Python alone can read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkdl.data.features.column_types import is_list
from sparkdl.errors import SchemaError
from sparkdl.spark.arrow_types import arrow_type_of

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "SPARK_ROW",
    "SPARK_VERSION",
    "UnknownType",
    "arrow_type",
    "fits",
    "is_set",
    "name_of_type",
    "spark_fields",
    "spark_keys",
    "widest",
]

# The key under which Spark keeps a file's schema beside Parquet's own (JSON of a StructType).
SPARK_ROW = b"org.apache.spark.sql.parquet.row.metadata"
SPARK_VERSION = b"org.apache.spark.version"

_DECIMAL = re.compile(r"decimal\((\d+),(\d+)\)")
# Each type holds every value of those before it.
_WIDENING = (("tinyint", "smallint", "int", "bigint"), ("float", "double"), ("tinyint", "smallint", "int", "double"))

_PARQUET = "org.apache.spark.sql.execution.datasources.parquet."


class UnknownType(SchemaError):
    """Signal that Spark does not read columns of this type."""


def spark_fields(spark: SparkSession, footer: bytes, row: bytes | None, names: Iterable[str]) -> dict[str, Any]:
    """Return Spark's field for each of these columns of a file, the JSON of a StructField.

    A column that Spark does not read has Spark's reason, an UnknownType, instead.

    Args:
        footer: the file's footer, in Thrift.
        row: the value of the key SPARK_ROW in the footer.
    """
    try:
        saved = {} if row is None else {field["name"]: field for field in json.loads(row)["fields"]}
    except ValueError:
        # Spark 1 wrote another form; then Spark, too, reads Parquet's own schema.
        saved = {}
    # A column that another program has added to a file of Spark is not saved there.
    others = [name for name in names if name not in saved]
    found = _converted(spark, footer, others) if others else {}
    return {name: saved[name] if name in saved else found[name] for name in names}


def is_set(spark: SparkSession, name: str) -> bool:
    """Tell whether a setting of Spark SQL is "true"."""
    return (spark.conf.get(name) or "").lower() == "true"


def _converted(spark: SparkSession, footer: bytes, names: Sequence[str]) -> dict[str, Any]:
    from pyspark.errors import PySparkException

    jvm: Any = spark._jvm
    metadata = jvm.org.apache.parquet.format.converter.ParquetMetadataConverter
    content = jvm.java.io.ByteArrayInputStream(footer)
    settings = spark._jsparkSession.sessionState().newHadoopConf()
    # Without options, Parquet 1.17 takes the largest size of a footer to be -1.
    reader = metadata(jvm.org.apache.parquet.HadoopReadOptions.builder(settings).build())
    schema = reader.readParquetMetadata(content, metadata.SKIP_ROW_GROUPS).getFileMetaData().getSchema()
    converter = getattr(jvm, _PARQUET + "ParquetToSparkSchemaConverter")(spark._jsparkSession.sessionState().conf())
    message = jvm.org.apache.parquet.schema.MessageType
    found: dict[str, Any] = {}
    for name in names:
        # Columns one by one: a column that Spark does not read may be one that is not needed.
        only = jvm.java.util.ArrayList()
        only.add(schema.getType(name))
        try:
            found[name] = json.loads(converter.convert(message("spark_schema", only)).json())["fields"][0]
        except PySparkException as error:
            found[name] = UnknownType(str(error).splitlines()[0])
    return found


def spark_keys(schema: pa.Schema, known: Mapping[str, Any], version: str) -> dict[bytes, bytes]:
    """Return the keys that Spark keeps beside Parquet's own schema.

    By these keys Spark reads vectors as vectors, not as plain structs, and does not convert dates.

    Args:
        known: Spark's fields of columns; the fields of the other columns follow from their Arrow types.
        version: the session's version, whatever wrote the input: values of an older Spark's calendar were refused.
    """
    from pyspark.sql.pandas.types import from_arrow_type
    from pyspark.sql.types import StructField

    fields = [known.get(f.name) or StructField(f.name, from_arrow_type(f.type)).jsonValue() for f in schema]
    return {SPARK_ROW: json.dumps({"type": "struct", "fields": fields}).encode(), SPARK_VERSION: version.encode()}


def name_of_type(field: Mapping[str, Any]) -> str:
    """Return a StructField's type as Spark shows it, without what may be null."""
    return _parsed(field["type"]).simpleString()


def widest(types: Collection[str]) -> str | None:
    """Return that of some Spark types (DDL) that holds all values of the others; None if none does.

    Spark 4 reads files of narrower types by a schema of the widest one (SPARK-40876).
    """
    return next((type_ for type_ in types if all(_holds(type_, other) for other in types)), None)


def _holds(type_: str, other: str) -> bool:
    """Tell whether every value of another type is one of `type_`."""
    decimal, narrow = (_DECIMAL.fullmatch(some) for some in (type_, other))
    if decimal and narrow:
        (digits, scale), (fewer, less) = ((int(some[1]) - int(some[2]), int(some[2])) for some in (decimal, narrow))
        return digits >= fewer and scale >= less
    order = next((order for order in _WIDENING if type_ in order and other in order), ())
    return type_ == other or (bool(order) and order.index(type_) > order.index(other))


def arrow_type(field: Mapping[str, Any]) -> pa.DataType | None:
    """Return the Arrow type in which Spark gives a column to Python (timestamps in UTC); None if it never gives it."""
    from pyspark.errors import PySparkException

    try:
        type_ = arrow_type_of(_parsed(field["type"]))
    except PySparkException:
        return None
    # Intervals are numbers in Parquet, and not numbers to Spark.
    return None if pa.types.is_duration(type_) else type_


def _parsed(type_: Any) -> Any:
    """Parse the JSON of a Spark DataType; user-defined types and vectors become the types that store them."""
    from pyspark.sql.types import StructType

    field = {"name": "x", "type": _plain(type_), "nullable": True, "metadata": {}}
    return StructType.fromJson({"fields": [field]})[0].dataType


def _plain(type_: Any) -> Any:
    if isinstance(type_, list):
        return [_plain(part) for part in type_]
    if not isinstance(type_, dict):
        return type_
    if type_.get("type") == "udt":
        return _plain(type_["sqlType"])
    return {key: _plain(part) if key not in ("name", "metadata") else part for key, part in type_.items()}


def fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Tell whether every value of a type that is read from Parquet is a value of the type that Spark gives it.

    Arrow's type for a column may be narrower, unsigned or of another form: Arrow's cast converts the values or raises.
    """
    types = pa.types
    if types.is_dictionary(found):
        return fits(found.value_type, wanted)
    if types.is_struct(found) and types.is_struct(wanted):
        same_names = [field.name for field in found] == [field.name for field in wanted]
        return same_names and all(fits(a.type, b.type) for a, b in zip(found, wanted, strict=True))
    if types.is_map(found) and types.is_map(wanted):
        return fits(found.key_type, wanted.key_type) and fits(found.item_type, wanted.item_type)
    if types.is_list(wanted) and is_list(found):
        return fits(found.value_type, wanted.value_type)
    if types.is_integer(found) and types.is_integer(wanted):
        return found.bit_width + types.is_unsigned_integer(found) <= wanted.bit_width
    if types.is_timestamp(found) and types.is_timestamp(wanted):
        return True
    pairs = (
        (types.is_uint64, lambda type_: type_ == pa.decimal128(20, 0)),
        (types.is_large_string, types.is_string),
        (types.is_large_binary, types.is_binary),
        (types.is_fixed_size_binary, types.is_binary),
        (types.is_binary, types.is_string),
        (types.is_date64, types.is_date32),
        # Nanoseconds and durations are 64 bits, which Spark may read as whole numbers.
        (lambda type_: types.is_timestamp(type_) and type_.unit == "ns", types.is_int64),
        (types.is_duration, types.is_int64),
        (types.is_null, lambda _: True),
    )
    return found == wanted or any(of(found) and to(wanted) for of, to in pairs)
