"""Which files are read, what their folders tell, and how tasks divide them."""

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkdl.errors import ConfigError, SchemaError
from sparkdl.score.hive import column_type, folder_values, value_of
from sparkdl.score.parquet_input import SPARK_ROW, SPARK_VERSION, ParquetFolder
from sparkdl.score.parquet_part import Run, runs_of_tasks


def write(path, table=None, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table or pa.table({"id": [1, 2], "x": [0.5, 1.5]}), path, **options)


@given(
    st.lists(st.lists(st.integers(0, 300), max_size=6), max_size=6),
    st.integers(1, 12),
)
def test_every_row_group_has_one_task_and_the_order_stays(files, tasks) -> None:
    whole = [Run(str(place), tuple(groups), 0, len(groups), ()) for place, groups in enumerate(files)]
    divided = runs_of_tasks(whole, tasks=tasks)
    assert 1 <= len(divided) <= tasks
    groups = [(run.path, place) for runs in divided for run in runs for place in range(run.start, run.stop)]
    assert groups == [(run.path, place) for run in whole for place in range(run.stop)]
    shares = [sum(run.rows for run in runs) for runs in divided]
    largest = max((rows for groups in files for rows in groups), default=0)
    assert sum(shares) == sum(map(sum, files)) and max(shares) <= sum(shares) / tasks + largest


def test_folders_name_columns() -> None:
    assert folder_values("day=2024-05-01/part=a%2Fb/x.parquet") == {"day": "2024-05-01", "part": "a/b"}
    assert folder_values("day=__HIVE_DEFAULT_PARTITION__/x.parquet") == {"day": None}
    assert folder_values("x=1.parquet") == {}


@pytest.mark.parametrize(
    ("texts", "type_", "values"),
    [
        (["7", "-3", None], pa.int32(), [7, -3, None]),
        (["7", "3000000000"], pa.int64(), [7, 3_000_000_000]),
        (["7", "1.5", "2e3"], pa.float64(), [7.0, 1.5, 2000.0]),
        (["2024-05-01", None], pa.date32(), [dt.date(2024, 5, 1), None]),
        (["2024-05-01", "2024-02-30"], pa.string(), ["2024-05-01", "2024-02-30"]),
        (["7", "a"], pa.string(), ["7", "a"]),
        ([None], pa.string(), [None]),
    ],
)
def test_a_column_that_folders_name_has_one_type(texts, type_, values) -> None:
    assert column_type(texts) == type_
    assert [value_of(text, type_) for text in texts] == values


def test_files_are_found_as_spark_finds_them(tmp_path) -> None:
    for name in ("b=2/x.parquet", "b=10/x.parquet", "b=2/_x.parquet", "_temporary/b=1/y.parquet", "b=2/.x.parquet.crc"):
        write(tmp_path / name)
    (tmp_path / "_SUCCESS").touch()
    found = ParquetFolder.found(str(tmp_path)).reading(["id", "b"])
    assert [(file.path[len(str(tmp_path)) + 1 :], file.partition) for file in found.files] == [
        ("b=10/x.parquet", (10,)),
        ("b=2/x.parquet", (2,)),
    ]
    assert found.partition_columns == pa.schema([("b", pa.int32())]) and found.columns.names == ["id"]
    assert found.rows == 4
    one = ParquetFolder.found(str(tmp_path / "b=2" / "x.parquet")).reading(["id"])
    assert one.rows == 2 and one.partition_columns == pa.schema([])


def test_the_name_changes_with_the_files(tmp_path) -> None:
    write(tmp_path / "x.parquet")
    before = ParquetFolder.found(str(tmp_path)).name
    assert ParquetFolder.found(str(tmp_path)).name == before
    write(tmp_path / "y.parquet")
    assert ParquetFolder.found(str(tmp_path)).name != before


def test_what_spark_says_of_columns_is_taken_where_its_files_agree(tmp_path) -> None:
    def written(name: str, version: str | None, **types: str) -> None:
        row = json.dumps({"type": "struct", "fields": [{"name": key, "type": type_} for key, type_ in types.items()]})
        table = pa.table({"id": [1], "x": [0.5]})
        if version is not None:
            table = table.replace_schema_metadata({SPARK_ROW: row, SPARK_VERSION: version})
        write(tmp_path / name, table)

    def found():
        read = ParquetFolder.found(str(tmp_path)).reading(["id", "x"])
        return read.spark_types, read.spark_version

    written("a.parquet", "3.10.0", id="long", x="double")
    written("b.parquet", "3.9.1", more="string", x="double", id="integer")
    assert found() == ({"x": {"name": "x", "type": "double", "nullable": True}}, b"3.9.1")
    written("c.parquet", None)
    assert found() == (None, None)


def test_files_that_differ_are_refused(tmp_path) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", pa.table({"id": ["1"]}))
    folder = ParquetFolder.found(str(tmp_path))
    with pytest.raises(SchemaError, match=r"column 'id' is int64 in a.parquet, and string in b.parquet"):
        folder.reading(["id"])
    with pytest.raises(SchemaError, match=r"column 'x' is in a.parquet, and not in b.parquet"):
        folder.reading(["x"])
    write(tmp_path / "day=1" / "c.parquet")
    with pytest.raises(SchemaError, match="day=1/c.parquet name other columns than those of a.parquet"):
        ParquetFolder.found(str(tmp_path)).reading([])


def test_what_is_no_parquet_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="holds no Parquet files"):
        ParquetFolder.found(str(tmp_path / "nothing"))
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match="x.csv cannot be read as Parquet"):
        ParquetFolder.found(str(tmp_path))


def test_old_timestamps_of_spark_are_moments(tmp_path) -> None:
    at = pa.array([dt.datetime(1600, 1, 1)], pa.timestamp("us"))
    write(tmp_path / "x.parquet", pa.table({"at": at, "read.at": at}), use_deprecated_int96_timestamps=True)
    columns = ParquetFolder.found(str(tmp_path)).reading(["at", "read.at"]).columns
    assert columns.types == [pa.timestamp("us", "UTC")] * 2
