"""How tasks divide files, which files are of the old calendar, and which types hold which values."""

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkdl.errors import SchemaError
from sparkdl.score.parquet.input import InputFile
from sparkdl.score.parquet.old_calendar import Calendar, calendar_of, check_calendar
from sparkdl.score.parquet.part import runs_of_tasks
from sparkdl.score.parquet.spark_types import fits


@given(
    st.lists(st.lists(st.integers(0, 300), max_size=6), max_size=6),
    st.integers(1, 12),
)
def test_every_row_group_has_one_task_and_the_order_stays(files, tasks) -> None:
    whole = [InputFile(str(place), tuple(groups), 0) for place, groups in enumerate(files)]
    divided = runs_of_tasks(whole, tasks=tasks)
    assert 1 <= len(divided) <= tasks
    groups = [(run.file.path, place) for runs in divided for run in runs for place in range(run.start, run.stop)]
    assert groups == [(file.path, place) for file in whole for place in range(len(file.row_groups))]
    shares = [sum(run.rows for run in runs) for runs in divided]
    largest = max((rows for groups in files for rows in groups), default=0)
    assert sum(shares) == sum(map(sum, files)) and max(shares) <= sum(shares) / tasks + largest


VERSION, LEGACY, LEGACY_INT96, ZONE = (
    f"org.apache.spark.{name}".encode() for name in ("version", "legacyDateTime", "legacyINT96", "timeZone")
)


@pytest.mark.parametrize(
    ("footer", "mode", "dates", "int96"),
    [
        ({VERSION: b"2.4.8"}, "CORRECTED", True, True),
        ({VERSION: b"3.0.3"}, "LEGACY", False, True),
        ({VERSION: b"3.5.1"}, "LEGACY", False, False),
        ({VERSION: b"4.0.1", LEGACY: b""}, "CORRECTED", True, False),
        ({VERSION: b"4.0.1", LEGACY_INT96: b""}, "CORRECTED", False, True),
        ({}, "CORRECTED", False, False),
        ({}, "LEGACY", True, True),
        ({}, "EXCEPTION", True, True),
    ],
)
def test_the_calendar_of_a_file_is_what_spark_takes_it_for(footer, mode, dates, int96) -> None:
    told = calendar_of(footer, modes(mode))
    assert (bool(told.dates), bool(told.int96)) == (dates, int96)


def modes(mode: str) -> dict[str, str]:
    return {f"spark.sql.parquet.{name}RebaseModeInRead": mode for name in ("datetime", "int96")}


def of_dates(*days: dt.date) -> pa.Array:
    return pa.array(days, pa.date32())


def of_moments(*years: int) -> pa.Array:
    return pa.array([dt.datetime(year, 1, 1, tzinfo=dt.timezone.utc) for year in years], pa.timestamp("us", "UTC"))


OLD, NEW = dt.date(1582, 10, 14), dt.date(1582, 10, 15)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (of_dates(NEW, None), None),
        (of_dates(NEW, OLD), "before 1582-10-15 (1582-10-14 as stored)"),
        (of_moments(1900), None),
        (of_moments(2000, 1899), "before 1900-01-01 (1899-01-01 as stored)"),
        (of_moments(1899).cast(pa.timestamp("us")), None),
        (pa.array([[OLD], None], pa.list_(pa.date32())), "1582-10-14"),
        (pa.array([{"a": [{"b": OLD}]}], pa.struct([("a", pa.list_(pa.struct([("b", pa.date32())])))])), "1582-10-14"),
        (pa.array([[("a", OLD)]], pa.map_(pa.string(), pa.date32())), "1582-10-14"),
        (pa.array([[(NEW, "a")]], pa.map_(pa.date32(), pa.string())), None),
        (pa.array([-800_000], pa.int32()).cast(pa.date32()), "-0221-09-04"),
        (pa.nulls(2, pa.date32()), None),
        (pa.array([1, 2]), None),
    ],
)
def test_values_of_the_old_calendar_are_seen_at_any_depth(column, says) -> None:
    first = calendar_of({VERSION: b"2.4.8"}, modes("CORRECTED")).first_moment
    if says is None:
        check_calendar("born", column, "a.parquet", "which is old", first)
        return
    with pytest.raises(SchemaError, match="column 'born' of a.parquet, which is old") as error:
        check_calendar("born", column, "a.parquet", "which is old", first)
    assert says in str(error.value) and "transform" in str(error.value)


def test_moments_in_utc_are_the_same_from_1582_on() -> None:
    told = calendar_of({VERSION: b"3.5.1", LEGACY: b"", ZONE: b"UTC"}, modes("CORRECTED"))
    check_calendar("at", of_moments(1583), "a.parquet", told.dates, told.first_moment)
    with pytest.raises(SchemaError, match="before 1582-10-15"):
        check_calendar("at", of_moments(1500), "a.parquet", told.dates, told.first_moment)
    assert Calendar().dates == ""


@pytest.mark.parametrize(
    ("found", "wanted", "holds"),
    [
        (pa.uint8(), pa.int16(), True),
        (pa.uint8(), pa.int8(), False),
        (pa.uint64(), pa.decimal128(20, 0), True),
        (pa.uint64(), pa.int64(), False),
        (pa.int32(), pa.int64(), True),
        (pa.int64(), pa.int32(), False),
        (pa.float64(), pa.float32(), False),
        (pa.float32(), pa.float64(), False),
        (pa.decimal128(9, 2), pa.decimal128(9, 3), False),
        (pa.timestamp("ms"), pa.timestamp("us", "UTC"), True),
        (pa.timestamp("ns"), pa.int64(), True),
        (pa.timestamp("us"), pa.int64(), False),
        (pa.duration("ns"), pa.int64(), True),
        (pa.large_string(), pa.string(), True),
        (pa.string(), pa.binary(), False),
        (pa.dictionary(pa.int32(), pa.string()), pa.string(), True),
        (pa.list_(pa.uint8(), 2), pa.list_(pa.int16()), True),
        (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.int8())]), True),
        (pa.struct([("a", pa.int8()), ("b", pa.int8())]), pa.struct([("b", pa.int8()), ("a", pa.int8())]), False),
        (pa.map_(pa.large_string(), pa.uint8()), pa.map_(pa.string(), pa.int16()), True),
    ],
)
def test_a_type_holds_every_value_of_another_or_is_refused(found, wanted, holds) -> None:
    assert fits(found, wanted) is holds
    if holds:
        assert pa.nulls(2, found).cast(wanted).null_count == 2
