"""score_parquet gives what transform gives of the same folder read by Spark, or refuses the folder by name."""

import contextlib
import datetime as dt
import json
import logging
import os
from decimal import Decimal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkdl
from sparkdl import ConfigError, SchemaError
from sparkdl.features import Numeric
from sparkdl.score.parquet.folder import ParquetFolder
from sparkdl.score.parquet.partition_columns import folder_columns

REBASE = "spark.sql.parquet.datetimeRebaseModeIn"
AS_STRING = {"spark.sql.parquet.binaryAsString": "true"}
AS_INT96 = {"spark.sql.parquet.outputTimestampType": "INT96"}
INT96_REBASE = "spark.sql.parquet.int96RebaseModeIn"


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    return doubling(str(tmp_path_factory.mktemp("model") / "model"), "x")


def doubling(path: str, name: str) -> str:
    import keras

    model = keras.Sequential([keras.Input((), name=name), keras.layers.Reshape((1,)), keras.layers.Rescaling(2.0)])
    sparkdl.save_model(model, path, inputs=[Numeric(name, scale="none")])
    return path


@contextlib.contextmanager
def settings(spark, values):
    # None where nobody has set it: other tests compare what is set.
    before = {name: spark.conf.get(name, None) for name in values}
    try:
        for name, value in values.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, value in before.items():
            spark.conf.unset(name) if value is None else spark.conf.set(name, value)


def write(path, name: str = "a.parquet", **columns) -> None:
    """A file with these columns, and x."""
    table = pa.table({"x": pa.array([1.0, 2.5]), **columns})
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path / name, version="2.6")


def by_spark(spark, path, sql: str, conf=None) -> None:
    today = {f"{REBASE}Write": "CORRECTED", f"{INT96_REBASE}Write": "CORRECTED"}
    with settings(spark, {**today, **(conf or {})}):
        spark.sql(sql).coalesce(1).write.mode("append").parquet(str(path))


def rows_of(df) -> list[str]:
    # PySpark gives no intervals of months.
    months = [f.name for f in df.schema if f.dataType.simpleString().startswith("interval year")]
    return sorted(repr(row) for row in df.withColumns({name: df[name].cast("string") for name in months}).collect())


def check_same(spark, path, model_dir, out, *, keep=None) -> None:
    expected = sparkdl.transform(spark.read.parquet(path), model_dir)
    sparkdl.score_parquet(spark, path, model_dir, out, keep=keep)
    found = spark.read.parquet(out)
    if keep is not None:
        expected = expected.select(*keep, "prediction")
    assert [(f.name, f.dataType) for f in found.schema] == [(f.name, f.dataType) for f in expected.schema]
    assert rows_of(found) == rows_of(expected) and len(rows_of(found)) > 0


def all_types(path, spark) -> None:
    us = dt.datetime(2020, 5, 6, 7, 8, 9, 123456)
    inner = pa.struct([("c", pa.uint8())])
    deep = pa.list_(pa.struct([("a", pa.list_(pa.timestamp("us", "UTC"))), ("b", inner)]))
    columns = {
        "u8": pa.array([255, None], pa.uint8()),
        "u16": pa.array([65535, None], pa.uint16()),
        "u32": pa.array([2**32 - 1, None], pa.uint32()),
        "u64": pa.array([2**64 - 1, None], pa.uint64()),
        "i8": pa.array([-1, None], pa.int8()),
        "ms": pa.array([us.replace(microsecond=5000), None], pa.timestamp("ms")),
        "moment_ms": pa.array([us.replace(microsecond=5000), None], pa.timestamp("ms", "UTC")),
        "local": pa.array([us, None], pa.timestamp("us")),
        "berlin": pa.array([us, None], pa.timestamp("us", "Europe/Berlin")),
        "duration": pa.array([7, None], pa.duration("us")),
        "date64": pa.array([dt.date(2020, 1, 2), None], pa.date64()),
        "old_date": pa.array([dt.date(1001, 1, 1), None]),
        "fixed": pa.array([b"ab", None], pa.binary(2)),
        "bytes": pa.array([b"\xff", None]),
        "large": pa.array(["a", None], pa.large_string()),
        "words": pa.array(["a", None]).dictionary_encode(),
        "decimal": pa.array([Decimal("-1.50"), None], pa.decimal128(5, 2)),
        "long_decimal": pa.array([Decimal(10) ** 37, None], pa.decimal128(38, 0)),
        "pair": pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
        "deep": pa.array([[{"a": [us], "b": {"c": 255}}], None], deep),
        "map": pa.array([[("a", 1)], None], pa.map_(pa.large_string(), pa.uint16())),
        "nothing": pa.nulls(2),
        "a.b": pa.array([1, None]),
    }
    write(path, **columns)


def of_spark(path, spark) -> None:
    by_spark(
        spark,
        path,
        "select double(id) x, interval '1' day * id d, make_ym_interval(int(id), 1) y, timestamp_ntz'2020-01-01' n, "
        "timestamp'1600-01-01 00:00:00' t, cast('ab' as binary) b, cast(1.5 as decimal(20, 3)) c, date'0001-01-01' e "
        "from range(3)",
    )


def summary(path, spark) -> None:
    write(path)
    pq.write_metadata(pa.schema([("x", pa.float64()), ("z", pa.int64())]), path / "_common_metadata")


def zero_row_groups(path, spark) -> None:
    write(path)
    pq.ParquetWriter(path / "b.parquet", pa.schema([("x", pa.float64())])).close()
    (path / "c.parquet").touch()
    (path / "d.parquet._COPYING_").write_bytes(b"PAR1")


def kinds(path, spark) -> None:
    write(path, id=pa.array([1, 2], pa.int64()))
    write(path, "b.parquet", id=pa.array([1.0, 2.0]))


def forms_of_one_type(path, spark) -> None:
    """To Spark all of them are the same."""
    at = [dt.datetime(2020, 1, 1), None]
    write(path, at=pa.array(at, pa.timestamp("ms", "UTC")), word=pa.array(["a", "b"], pa.large_string()))
    write(path, "b.parquet", at=pa.array(at, pa.timestamp("us", "UTC")), word=pa.array(["a", "b"]))
    words = pa.array(["a", "b"]).dictionary_encode()
    table = pa.table({"x": [1.0, 2.0], "at": pa.array(at, pa.timestamp("us")), "word": words})
    pq.write_table(table, path / "c.parquet", use_deprecated_int96_timestamps=True)


def more_later(path, spark) -> None:
    write(path)
    write(path, "b.parquet", id=[7, 8])


def rewritten(path, spark) -> None:
    """A file of Spark's to which another program has added a column, with the schema that Spark left in it."""
    by_spark(spark, path / "spark", "select double(id) x from range(2)")
    table = pq.read_table(path / "spark")
    path.joinpath("spark").rename(path.parent / "aside")
    pq.write_table(table, path / "a.parquet")


def old(sql, **conf):
    """A file of today's Spark under LEGACY."""

    def make(path, spark) -> None:
        by_spark(spark, path, sql, conf={f"{REBASE}Write": "LEGACY", f"{INT96_REBASE}Write": "LEGACY", **conf})

    return make


def of_24(path, spark) -> None:
    """A file whose footer Spark 2.4 wrote: 1001-01-01 by its calendar."""
    types = {"x": "double", "born": "date"}
    fields = [{"name": name, "type": type_, "nullable": True, "metadata": {}} for name, type_ in types.items()]
    row = {"type": "struct", "fields": fields}
    born = pa.array([-353914, 10000], pa.int32()).cast(pa.date32())
    table = pa.table({"x": [1.0, 2.0], "born": born})
    keys = {"org.apache.spark.version": "2.4.8", "org.apache.spark.sql.parquet.row.metadata": json.dumps(row)}
    path.mkdir()
    pq.write_table(table.replace_schema_metadata(keys), path / "a.parquet")


def int96(year: int):
    def make(path, spark) -> None:
        path.mkdir()
        table = pa.table({"x": [1.0], "at": pa.array([dt.datetime(year, 1, 1)], pa.timestamp("us"))})
        pq.write_table(table, path / "a.parquet", use_deprecated_int96_timestamps=True)

    return make


def folders(*names: str, **columns):
    def make(path, spark) -> None:
        for number, name in enumerate(names):
            write(path, f"{name}/{number}.parquet".lstrip("/"), **columns)

    return make


def cased(path, spark) -> None:
    write(path, id=[1, 2])
    write(path, "b.parquet", ID=[3, 4])


def nanoseconds(path, spark) -> None:
    write(path, at=pa.array([1, 2_000], pa.timestamp("ns")))


SAME = [
    (all_types, {f"{REBASE}Read": "CORRECTED"}),
    (of_spark, {}),
    (zero_row_groups, {}),
    (forms_of_one_type, {f"{INT96_REBASE}Read": "CORRECTED"}),
    (rewritten, {}),
    (more_later, {"spark.sql.parquet.mergeSchema": "true"}),
    (folders("day=2024-01-01/u=1234567890123456789", "day=2024-01-02/u=1"), {}),
    (folders("k=1/sub", "k=2"), {}),
    (folders("t=2024-07-01 10%3A00%3A00", "t=2024-01-01"), {"spark.sql.session.timeZone": "America/New_York"}),
    (folders("k=1", "k=2"), {"spark.sql.sources.partitionColumnTypeInference.enabled": "false"}),
    (folders("", b=pa.array([b"a", b"b"])), AS_STRING),
    (folders("", n=pa.array([1, 2], pa.timestamp("us"))), {"spark.sql.parquet.inferTimestampNTZ.enabled": "false"}),
    (folders("", n=pa.array([1, 2], pa.timestamp("ns"))), {"spark.sql.legacy.parquet.nanosAsLong": "true"}),
    (old("select double(1) x, date'2000-01-01' d, timestamp'1900-01-02' t"), {}),
    (old("select double(1) x, timestamp'1601-01-01' t", **{"spark.sql.session.timeZone": "UTC"}), {}),
    (int96(1600), {f"{INT96_REBASE}Read": "CORRECTED"}),
    (int96(1901), {f"{INT96_REBASE}Read": "LEGACY"}),
    (folders("", Id=[1, 2], id=[3, 4]), {"spark.sql.caseSensitive": "true"}),
]

REFUSED = [
    (kinds, {}, "column 'id' is bigint in a.parquet, and double in b.parquet"),
    (summary, {}, "column 'z' is in _common_metadata, and not in a.parquet"),
    (more_later, {}, "column 'id' is in b.parquet, and not in a.parquet.*keep.*mergeSchema"),
    (cased, {}, "column 'ID' is in b.parquet, and not in a.parquet"),
    (folders("", Id=[1, 2], id=[3, 4]), {}, "column 'id' is there more than once"),
    (folders("Day=1", day=[1, 2]), {}, "column 'Day' is there more than once"),
    (folders("", "sub"), {}, "Spark would not read sub/1.parquet"),
    (folders("", "k=1"), {}, "Spark would not read 0.parquet"),
    (folders("k=1", "j=1"), {}, "Conflicting partition column names"),
    # Spark 4.1 and later has times of day, and holds them in nanoseconds.
    (folders("", t=pa.array([1, 2], pa.time64("us"))), {}, r"column 't' is (of type|stored as) time64\[us\].* Spark "),
    (folders("", b=pa.array([b"\xff", b"b"])), AS_STRING, "column 'b' of .* is string"),
    (nanoseconds, {}, "column 'at' of .*lose data"),
    (int96(1901), {"spark.sql.parquet.int96TimestampConversion": "true"}, "would shift column 'at'"),
    (int96(1500), {f"{INT96_REBASE}Read": "LEGACY"}, "int96RebaseModeInRead=LEGACY.*before 1900-01-01"),
    (int96(1500), {f"{INT96_REBASE}Read": "EXCEPTION"}, "int96RebaseModeInRead=EXCEPTION"),
    (of_24, {}, r"column 'born' of .* Spark 2.4.8 wrote.*before 1582-10-15 \(1001-01-07 as stored\).*by transform"),
    (old("select double(1) x, date'1001-01-01' born"), {}, "column 'born' of .*under LEGACY"),
    (
        old("select double(1) x, array(struct(timestamp'1500-01-01' as t)) a", **AS_INT96),
        {},
        "column 'a' of .*under LEGACY",
    ),
    (
        old("select double(1) x, timestamp'1899-01-01' t", **{"spark.sql.session.timeZone": "Europe/Amsterdam"}),
        {},
        "column 't' of .*before 1900-01-01",
    ),
]


@pytest.mark.parametrize(("make", "conf"), SAME, ids=range(len(SAME)))
def test_a_folder_gives_what_transform_gives(spark, model_dir, tmp_path, make, conf) -> None:
    make(tmp_path / "in", spark)
    with settings(spark, conf):
        check_same(spark, str(tmp_path / "in"), model_dir, str(tmp_path / "out"))


@pytest.mark.parametrize(("make", "conf", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_folder_is_refused_by_name(spark, model_dir, tmp_path, make, conf, message) -> None:
    make(tmp_path / "in", spark)
    with settings(spark, conf), pytest.raises(SchemaError, match=message):
        sparkdl.score_parquet(spark, str(tmp_path / "in"), model_dir, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


FOLDERS = [
    ("7", "-3", None),
    ("+7", "007", "1"),
    ("7", "3000000000", "1"),
    ("1234567890123456789", "1234567890123456790", "1"),
    ("123456789012345678901", "123456789012345678902", "1"),
    ("9" * 39, "1", "2"),
    (".5", "1e5", "1"),
    (".5", "1.5", "2"),
    ("1e5", "1e5", "1e5"),
    ("5.", "1", "2"),
    ("1d", "2f", "0x1p3"),
    ("NaN", "Infinity", "-Infinity"),
    ("1e400", "1", "2"),
    ("2024-05-01", None, "2024-05-02"),
    ("2024-05-01", "2024-02-30", "1"),
    ("2024-05-01", "2024-05-01 10:00:00", "2024-05-01 10:00:00.5"),
    ("2024-05-01T10:00:00Z", "1", "1"),
    ("1234567890123456789", "1.5", "1"),
    ("7", "a", "b/c"),
    (None, None, None),
    ("true", "false", "true"),
    ("1 ", "2", "3"),
    ("ö=ü", "a%b", "c,d]"),
]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_folders_name_columns_as_they_do_to_spark(spark, tmp_path, zone) -> None:
    names = [
        "/".join(
            f"k{place}={'__HIVE_DEFAULT_PARTITION__' if texts[row] is None else quote(texts[row], safe=' +')}"
            for place, texts in enumerate(FOLDERS)
        )
        for row in range(3)
    ]
    folders(*names)(tmp_path / "in", spark)
    with settings(spark, {"spark.sql.session.timeZone": zone}):
        read = spark.read.parquet(str(tmp_path / "in")).drop("x").distinct()
        told = folder_columns(spark, str(tmp_path / "in"), names)
        assert list(told.fields) == [field.jsonValue() for field in read.schema]
        columns = zip(*told.values.values(), strict=True)
        arrays = [
            pa.concat_arrays([pa.repeat(pa.scalar(value, type_), 1) for value in values])
            for values, type_ in zip(columns, told.types.types, strict=True)
        ]
        pq.write_table(pa.Table.from_arrays(arrays, schema=told.types), tmp_path / "ours.parquet")
        assert rows_of(spark.read.parquet(str(tmp_path / "ours.parquet"))) == rows_of(read)
    kinds = dict(zip((f"k{place}" for place in range(len(FOLDERS))), (f["type"] for f in told.fields), strict=True))
    assert (kinds["k3"], kinds["k4"], kinds["k6"], kinds["k8"]) == ("long", "decimal(21,0)", "string", "decimal(6,0)")
    assert [told.values[name][3] for name in names] == [1234567890123456789, 1234567890123456790, 1]


def test_columns_that_folders_name_are_inputs_too(spark, tmp_path) -> None:
    folders("k=1234567", "k=2")(tmp_path / "in", spark)
    model_dir = doubling(str(tmp_path / "model"), "k")
    check_same(spark, str(tmp_path / "in"), model_dir, str(tmp_path / "out"), keep=["k"])


WIDER = {
    "a": (pa.array([2**40, None], pa.int64()), pa.array([7, 8], pa.int32()), pa.array([1, 2], pa.int8())),
    "b": (pa.array([0.1, None]), pa.array([0.1, 2.5], pa.float32()), pa.array([3, 2**31 - 1], pa.int32())),
    "c": (
        pa.array([Decimal("12345678.1234"), None], pa.decimal128(20, 4)),
        pa.array([Decimal("1.25"), Decimal("-3.50")], pa.decimal128(8, 2)),
        pa.array([Decimal("4"), Decimal("5")], pa.decimal128(3, 0)),
    ),
    "x": (pa.array([1.5, 2.5]), pa.array([0.1, 0.7], pa.float32()), pa.array([3, 4], pa.int16())),
}


@pytest.mark.parametrize("wide_first", [True, False])
def test_the_widest_of_several_types_is_the_columns(spark, model_dir, tmp_path, wide_first) -> None:
    """Of a folder whose first file has the wider types, that is what Spark reads from version 4 on."""
    rows, out = str(tmp_path / "rows"), str(tmp_path / "out")
    for number in range(3):
        place = number if wide_first else 2 - number
        write(tmp_path / "rows", f"{place}.parquet", **{name: columns[number] for name, columns in WIDER.items()})
    if wide_first and not spark.version.startswith("3."):
        check_same(spark, rows, model_dir, out)
    else:
        sparkdl.score_parquet(spark, rows, model_dir, out)
    found = spark.read.parquet(out)
    assert dict(found.dtypes) == {
        "x": "double",
        "a": "bigint",
        "b": "double",
        "c": "decimal(20,4)",
        "prediction": "float",
    }
    table = pa.concat_tables(
        pa.table({name: columns[number].cast(columns[0].type) for name, columns in WIDER.items()})
        for number in range(3)
    )
    expected = {(*row.values(), pa.scalar(row["x"] * 2, pa.float32()).as_py()) for row in table.to_pylist()}
    assert {tuple(row) for row in found.select(*WIDER, "prediction").collect()} == expected


def test_intervals_are_no_numbers(spark, tmp_path) -> None:
    by_spark(spark, tmp_path / "in", "select interval '1' day x")
    model_dir = doubling(str(tmp_path / "model"), "x")
    with pytest.raises(SchemaError, match="'x' is of type interval day, which Spark gives to no UDF"):
        sparkdl.score_parquet(spark, str(tmp_path / "in"), model_dir, str(tmp_path / "out"))


def test_what_nobody_asks_for_may_be_anything(spark, model_dir, tmp_path) -> None:
    write(tmp_path / "in", t=pa.array([1, 2], pa.time64("us")), id=[1, 2])
    write(tmp_path / "in", "b.parquet", t=["a", "b"], id=[3, 4], more=[1, 2])
    assert sparkdl.score_parquet(spark, str(tmp_path / "in"), model_dir, str(tmp_path / "out"), keep=["id"]) == 4
    assert spark.read.parquet(str(tmp_path / "out")).columns == ["id", "prediction"]


def test_timestamps_of_pandas_become_sparks(spark, model_dir, tmp_path) -> None:
    write(tmp_path / "in", at=pa.array([1_000, 2_000], pa.timestamp("ns")))
    sparkdl.score_parquet(spark, str(tmp_path / "in"), model_dir, str(tmp_path / "out"))
    found = spark.read.parquet(str(tmp_path / "out"))
    assert dict(found.dtypes)["at"] == "timestamp_ntz"
    assert [row.at.microsecond for row in found.orderBy("x").collect()] == [1, 2]


def test_output_of_old_and_new_files_is_read_by_one_calendar(spark, model_dir, tmp_path) -> None:
    """Files of Spark 2.4 and of today beside each other: the output's footers are of today's Spark."""
    of_24(tmp_path / "in", spark)
    assert "datetime.date(1001, 1, 1)" in rows_of(spark.read.parquet(str(tmp_path / "in")))[0]
    table = pq.read_table(tmp_path / "in" / "a.parquet")
    pq.write_table(table.slice(1), tmp_path / "in" / "a.parquet")
    by_spark(spark, tmp_path / "in", "select double(7) x, date'1001-01-01' born")
    check_same(spark, str(tmp_path / "in"), model_dir, str(tmp_path / "out"))


def test_files_are_found_as_spark_finds_them(spark, tmp_path, caplog) -> None:
    for name in ("b=2/x.parquet", "b=10/x.parquet", "b=2/_x.parquet", "_temporary/b=1/y.parquet", "b=2/.x.parquet.crc"):
        write(tmp_path, name)
    (tmp_path / "_SUCCESS").touch()
    with caplog.at_level(logging.WARNING, "sparkdl"):
        found = ParquetFolder.found(spark, str(tmp_path)).reading(["x", "b"])
    assert "holds _temporary: a job still writes there, or died" in caplog.text
    assert [(file.path[len(str(tmp_path)) + 1 :], file.partition) for file in found.files] == [
        ("b=10/x.parquet", (10,)),
        ("b=2/x.parquet", (2,)),
    ]
    assert found.partition_columns == pa.schema([("b", pa.int32())]) and found.columns.names == ["x"]
    one = ParquetFolder.found(spark, str(tmp_path / "b=2" / "x.parquet")).reading(["x"])
    assert one.rows == 2 and one.partition_columns == pa.schema([])


def test_the_name_changes_with_the_files_and_with_the_zone_of_moments(spark, tmp_path) -> None:
    def name(folder: str, zone: str = "UTC") -> str:
        with settings(spark, {"spark.sql.session.timeZone": zone}):
            return ParquetFolder.found(spark, str(tmp_path / folder)).name

    write(tmp_path / "a")
    before = name("a")
    assert name("a") == name("a", "Asia/Tokyo") == before
    write(tmp_path / "a", "y.parquet")
    assert name("a") != before
    write(tmp_path / "b", "t=2024-01-01 10%3A00%3A00/a.parquet")
    assert name("b") == name("b") != name("b", "Asia/Tokyo")


def test_what_is_no_parquet_is_refused(spark, tmp_path) -> None:
    with pytest.raises(ConfigError, match="holds no Parquet files"):
        ParquetFolder.found(spark, str(tmp_path / "nothing"))
    (tmp_path / "x.csv").write_text("a,b\n")
    with pytest.raises(ConfigError, match="x.csv cannot be read as Parquet"):
        ParquetFolder.found(spark, str(tmp_path))
    os.remove(tmp_path / "x.csv")
    write(tmp_path, "k=/a.parquet")
    with pytest.raises(SchemaError, match="(?i)empty partition column value in .*'k='"):
        ParquetFolder.found(spark, str(tmp_path))
