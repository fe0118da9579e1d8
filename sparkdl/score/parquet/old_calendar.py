"""Notice dates and moments of the old calendar in Parquet files.

Spark before 3.0 counted days and moments by the Julian calendar before 1582-10-15, and moments before 1900 by other
offsets of time zones; later Sparks do so when they are told to (`LEGACY`). Spark converts such values when it reads
them, by tables of each time zone; nothing here does, so that they are refused where they occur. Decided on the driver
by the files' footers, looked for in Spark workers.
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

__all__ = ["NO_CALENDAR", "Calendar", "RebaseModes", "calendar_of", "check_calendar"]

_ZONE = b"org.apache.spark.timeZone"
_LEGACY = b"org.apache.spark.legacyDateTime"
_LEGACY_INT96 = b"org.apache.spark.legacyINT96"

# From these on both calendars say the same; moments wait for the last zone that changed its offset. In UTC none did.
_GREGORIAN = date(1582, 10, 15)
_FIRST_DATE = (_GREGORIAN - date(1970, 1, 1)).days
_FIRST_MOMENT = int(datetime(1900, 1, 1, tzinfo=timezone.utc).timestamp()) * 1_000_000
_FIRST_MOMENT_IN_UTC = _FIRST_DATE * 86_400_000_000
_UTC = (b"UTC", b"Etc/UTC", b"Z")


@dataclass(frozen=True, slots=True)
class RebaseModes:
    """How a session reads files that do not tell their calendar: "EXCEPTION", "CORRECTED" or "LEGACY"."""

    dates: str
    """spark.sql.parquet.datetimeRebaseModeInRead: of dates and of moments in 64 bits."""

    int96: str
    """spark.sql.parquet.int96RebaseModeInRead: of moments in 96 bits."""

    @classmethod
    def of(cls, spark: SparkSession) -> RebaseModes:
        """As the session is set."""
        modes = [spark.conf.get(f"spark.sql.parquet.{name}RebaseModeInRead") or "" for name in ("datetime", "int96")]
        return cls(*(mode.upper() for mode in modes))


@dataclass(frozen=True, slots=True)
class Calendar:
    """Which values of a file may be of the old calendar.

    Attributes:
        dates: why dates and moments in 64 bits may be; "": they are not.
        int96: the same for moments in 96 bits.
        first_moment: from it on, in microseconds since 1970, both calendars tell the same moments.
    """

    dates: str = ""
    int96: str = ""
    first_moment: int = _FIRST_MOMENT


NO_CALENDAR = Calendar()


def calendar_of(footer: Mapping[bytes, bytes], modes: RebaseModes) -> Calendar:
    """What a footer's key-value metadata tells, and the session where it tells nothing, as Spark decides."""
    # In UTC the two differ by their calendars alone. Spark 2.4 did not tell its zone.
    first = _FIRST_MOMENT_IN_UTC if footer.get(_ZONE) in _UTC else _FIRST_MOMENT
    return Calendar(
        _why(footer, _LEGACY, b"3.0.0", "datetimeRebaseModeInRead", modes.dates),
        _why(footer, _LEGACY_INT96, b"3.1.0", "int96RebaseModeInRead", modes.int96),
        first,
    )


def _why(footer: Mapping[bytes, bytes], key: bytes, first_version: bytes, setting: str, mode: str) -> str:
    version = footer.get(SPARK_VERSION)
    if version is None:
        return "" if mode == "CORRECTED" else f"which does not tell its calendar (spark.sql.parquet.{setting}={mode})"
    # Spark compares the texts, too.
    if version < first_version:
        return f"which Spark {version.decode()} wrote, by the calendar before 1582"
    return "which Spark wrote under LEGACY, by the calendar before 1582" if key in footer else ""


def check_calendar(name: str, column: pa.Array, file: str, why: str, first_moment: int) -> None:
    """Raise SchemaError if a column holds a date or a moment that the two calendars write otherwise.

    Args:
        column: as it is handed on: dates in days, moments in microseconds UTC, at any depth; other types pass.
        why: what is to be said of the file; not "".
    """
    for leaf in _leaves(column):
        is_date = pa.types.is_date(leaf.type)
        first = _FIRST_DATE if is_date else first_moment
        oldest = pc.min(leaf.cast(pa.int32() if is_date else pa.int64())).as_py()
        if oldest is not None and oldest < first:
            # Of a moment the day, too: Python knows no years before 1.
            day = oldest if is_date else oldest // 86_400_000_000
            limit = first if is_date else first // 86_400_000_000
            raise SchemaError(
                f"column {name!r} of {file}, {why}, holds values before {_day(limit)} ({_day(day)} as stored), which "
                "are not converted here; score spark.read.parquet(…) by transform, or write the files again with Spark"
            )


def _day(days: int) -> str:
    """A day since 1970 as text, also before the year 1."""
    return str(pa.scalar(days, pa.date32()).cast(pa.string()).as_py())


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """The dates and the moments in a column, at any depth."""
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
