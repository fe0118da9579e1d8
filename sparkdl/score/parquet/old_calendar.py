"""Find dates and timestamps of the old calendar in Parquet files.

Spark before 3.0 counted days and timestamps by the Julian calendar before 1582-10-15, and timestamps before 1900 by
other offsets of time zones; later Sparks do so when set to `LEGACY`. Spark converts such values when it reads them, by
tables of each time zone; sparkdl does not convert them, so that such values are refused where they occur. The driver
decides by the files' footers which values to look for, and Spark workers look for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.errors import SchemaError
from sparkdl.score.parquet.spark_types import SPARK_VERSION

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["NO_CALENDAR", "Calendar", "calendar_of", "check_calendar", "rebase_modes"]

# The settings of a session for files that do not record their calendar, "EXCEPTION", "CORRECTED" or "LEGACY": for dates
# and timestamps in 64 bits, and for timestamps in 96 bits.
_MODE = "spark.sql.parquet.datetimeRebaseModeInRead"
_MODE_INT96 = "spark.sql.parquet.int96RebaseModeInRead"

_ZONE = b"org.apache.spark.timeZone"
_LEGACY = b"org.apache.spark.legacyDateTime"
_LEGACY_INT96 = b"org.apache.spark.legacyINT96"

# From these times on both calendars agree; for timestamps, from the last change of a zone's offset on. UTC had none.
_GREGORIAN = date(1582, 10, 15)
_FIRST_DATE = (_GREGORIAN - date(1970, 1, 1)).days
_FIRST_MOMENT = int(datetime(1900, 1, 1, tzinfo=timezone.utc).timestamp()) * 1_000_000
_FIRST_MOMENT_IN_UTC = _FIRST_DATE * 86_400_000_000
_UTC = (b"UTC", b"Etc/UTC", b"Z")


@dataclass(frozen=True, slots=True)
class Calendar:
    """Say which values of a file may be of the old calendar.

    Attributes:
        dates: why dates and timestamps in 64 bits may be of the old calendar; "": they are not.
        int96: why timestamps in 96 bits may be of the old calendar; "": they are not.
        first_moment: the time, in microseconds since 1970, from which on both calendars give the same timestamps.
    """

    dates: str = ""
    int96: str = ""
    first_moment: int = _FIRST_MOMENT


NO_CALENDAR = Calendar()


def rebase_modes(spark: SparkSession) -> dict[str, str]:
    """Read from the session's settings how it reads files that do not record their calendar: the modes by setting."""
    return {setting: (spark.conf.get(setting) or "").upper() for setting in (_MODE, _MODE_INT96)}


def calendar_of(footer: Mapping[bytes, bytes], modes: Mapping[str, str]) -> Calendar:
    """Decide as Spark does, by a footer's key-value metadata, or by the session's modes if the metadata is silent."""
    # In UTC only the calendars differ, not the offsets. Spark 2.4 did not record its zone.
    first = _FIRST_MOMENT_IN_UTC if footer.get(_ZONE) in _UTC else _FIRST_MOMENT
    return Calendar(
        _why(footer, _LEGACY, b"3.0.0", _MODE, modes[_MODE]),
        _why(footer, _LEGACY_INT96, b"3.1.0", _MODE_INT96, modes[_MODE_INT96]),
        first,
    )


def _why(footer: Mapping[bytes, bytes], key: bytes, first_version: bytes, setting: str, mode: str) -> str:
    version = footer.get(SPARK_VERSION)
    if version is None:
        return "" if mode == "CORRECTED" else f"which does not record its calendar ({setting}={mode})"
    # Spark, too, compares versions as texts.
    if version < first_version:
        return f"which Spark {version.decode()} wrote, by the calendar before 1582"
    return "which Spark wrote under LEGACY, by the calendar before 1582" if key in footer else ""


def check_calendar(name: str, column: pa.Array, file: str, why: str, first_moment: int) -> None:
    """Raise SchemaError if a column holds a date or a timestamp that the two calendars write differently.

    Args:
        column: the cast column: dates in days, timestamps in microseconds UTC, at any depth; other types pass.
        why: the clause about the file in the message; not "".
    """
    for leaf in _leaves(column):
        is_date = pa.types.is_date(leaf.type)
        first = _FIRST_DATE if is_date else first_moment
        oldest = pc.min(leaf.cast(pa.int32() if is_date else pa.int64())).as_py()
        if oldest is not None and oldest < first:
            # A timestamp, too, is shown as its day: Python has no years before 1.
            day = oldest if is_date else oldest // 86_400_000_000
            limit = first if is_date else first // 86_400_000_000
            raise SchemaError(
                f"column {name!r} of {file}, {why}, holds values before {_day(limit)} ({_day(day)} as stored), which "
                "are not converted here; score spark.read.parquet(…) by transform, or write the files again with Spark"
            )


def _day(days: int) -> str:
    """Format a day since 1970 as text, also before the year 1."""
    return str(pa.scalar(days, pa.date32()).cast(pa.string()).as_py())


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """Yield the dates and the timestamps in a column, at any depth."""
    type_ = column.type
    if pa.types.is_date(type_) or (pa.types.is_timestamp(type_) and type_.tz is not None):
        yield column
    elif pa.types.is_map(type_):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_struct(type_):
        for part in column.flatten():
            yield from _leaves(part)
    elif pa.types.is_list(type_):
        yield from _leaves(column.flatten())
