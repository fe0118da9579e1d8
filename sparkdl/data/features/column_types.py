"""Read from the type of an Arrow column whether its rows are arrays, whether they are numbers, and of what unit.

Used on the driver, in Spark workers and beside the model.
"""

from __future__ import annotations

import pyarrow as pa

from sparkdl.errors import SchemaError

__all__ = ["check_numbers", "check_unit", "holds_decimals", "is_list", "is_nested", "is_vector", "unit_of"]

# The fields of Spark's ML vectors in Arrow (pyspark.ml.linalg.VectorUDT.sqlType).
_VECTOR_FIELDS = {"type", "size", "indices", "values"}


def is_list(type_: pa.DataType) -> bool:
    """Tell whether rows are arrays, of varying or of fixed length."""
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def is_vector(type_: pa.DataType) -> bool:
    """Tell whether rows are ML vectors."""
    return pa.types.is_struct(type_) and {f.name for f in type_} == _VECTOR_FIELDS


def is_nested(type_: pa.DataType) -> bool:
    """Tell whether rows are arrays or ML vectors."""
    return is_list(type_) or is_vector(type_)


def holds_decimals(type_: pa.DataType) -> bool:
    """Tell whether rows are decimals, or (nested) arrays of decimals."""
    while is_list(type_):
        type_ = type_.value_type
    return bool(pa.types.is_decimal(type_))


def unit_of(type_: pa.DataType) -> str:
    """Return the unit of the numbers of a column: "number", "days" of dates, "seconds" of timestamps.

    Timestamps without a time zone are "local seconds": pandas UDFs get Spark's timestamps as local times of the
    session's zone, which would be hours off if they passed for UTC.
    """
    while is_list(type_):
        type_ = type_.value_type
    if pa.types.is_timestamp(type_):
        return "seconds" if type_.tz else "local seconds"
    return "days" if pa.types.is_date(type_) else "number"


def check_unit(name: str, type_: pa.DataType, unit: str) -> None:
    """Raise SchemaError if a column's unit is not that of the column that its encoder was fitted on."""
    if not pa.types.is_null(type_) and unit_of(type_) != unit:
        fitted = {
            "number": "numbers",
            "days": "dates",
            "seconds": "timestamps with a time zone",
            "local seconds": "timestamps without a time zone",
        }[unit]
        raise SchemaError(f"column {name!r} held {fitted} when it was fitted, and is {type_!s:.80} now; give the same")


def check_numbers(type_: pa.DataType, name: str) -> None:
    """Raise SchemaError, with the way out, for a column whose values cannot be taken as numbers."""
    if is_vector(type_):
        return
    while is_list(type_):
        type_ = type_.value_type
    types = pa.types
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_date)
    if any(holds(type_) for holds in (*numbers, types.is_timestamp, types.is_null)):
        return
    if types.is_string(type_) or types.is_large_string(type_):
        way_out = "strings need an encoder: Categorical or Text"
    elif types.is_binary(type_) or types.is_large_binary(type_):
        way_out = "encoded images need the encoder Image, other bytes must be made numbers before"
    elif types.is_struct(type_) or types.is_map(type_):
        way_out = "select what is needed of it as separate columns (df.select('column.part'))"
    else:
        way_out = "cast it to a number before"
    raise SchemaError(f"column {name!r}: values of type {type_!s:.80} are not numbers; {way_out}")
