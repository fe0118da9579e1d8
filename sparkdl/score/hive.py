"""The columns that folders name: `day=2024-05-01/hour=7/part-0.parquet`.

Pure; used on the driver. Types are those that Spark finds in such folders, but for moments, which stay strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from urllib.parse import unquote

import pyarrow as pa

__all__ = ["Value", "column_type", "folder_values", "value_of"]

Value = str | int | float | date | None

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"[-+]?\d{1,18}")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def folder_values(name: str) -> dict[str, str | None]:
    """The texts of the columns that the folders of a file's relative path name, in order."""
    values: dict[str, str | None] = {}
    for folder in name.split("/")[:-1]:
        key, sign, value = folder.partition("=")
        if sign and key:
            values[unquote(key)] = None if value == _NO_VALUE else unquote(value)
    return values


def column_type(values: Iterable[str | None]) -> pa.DataType:
    """The type of a column with these texts: whole numbers, numbers, dates if all are such, else strings."""
    told = [value for value in values if value is not None]
    if told and all(map(_WHOLE.fullmatch, told)):
        return pa.int32() if all(-(2**31) <= int(value) < 2**31 for value in told) else pa.int64()
    if told and all(map(_NUMBER.fullmatch, told)):
        return pa.float64()
    if told and all(map(_is_date, told)):
        return pa.date32()
    return pa.string()


def value_of(text: str | None, type_: pa.DataType) -> Value:
    """The value that a text of this column is."""
    if text is None or pa.types.is_string(type_):
        return text
    if pa.types.is_date(type_):
        return date.fromisoformat(text)
    return int(text) if pa.types.is_integer(type_) else float(text)


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
