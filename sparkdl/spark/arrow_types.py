"""Find the Arrow type in which Spark hands a column to Python. Called on the driver and in Spark workers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql.types import DataType

__all__ = ["arrow_type_of"]


def arrow_type_of(type_: DataType) -> pa.DataType:
    """Return the Arrow type in which Spark hands values of a type to Python; timestamps are in UTC.

    Raises PySparkException for a type that Spark does not hand to Python.
    """
    from pyspark.sql.pandas.types import to_arrow_type

    convert: Any = to_arrow_type
    # PySpark 4.2 asks for the time zone; before, timestamps were in UTC unasked.
    asks = "timezone" in inspect.signature(convert).parameters
    return convert(type_, timezone="UTC") if asks else convert(type_)
