"""Preparing again: what counts as the same input, and what happens to the dataset before."""

import logging
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from pyspark.sql import functions as F

import sparkdl
from sparkdl import DatasetError, PrepareConfig
from sparkdl.data.prepare.fingerprint import name_source
from sparkdl.data.prepare.row_sums import whole_rows
from sparkdl.data.prepare.shuffle import order_key
from sparkdl.features import Numeric
from sparkdl.spark.arrow_batches import arrow_batches


@pytest.fixture(scope="module")
def tables(spark, tmp_path_factory):
    """Small tables as Parquet, CSV and JSON."""
    made = tmp_path_factory.mktemp("tables")
    rows = spark.range(60).selectExpr("id", "id % 3 as k", "double(id) as x")
    rows.coalesce(2).write.parquet(str(made / "parquet"))
    rows.coalesce(1).write.partitionBy("k").csv(str(made / "csv files"), header=True)
    rows.coalesce(1).write.json(str(made / "json"))
    return made


@pytest.fixture
def folder(tables, tmp_path):
    """A copy of the tables for one test, which may change it."""
    return Path(shutil.copytree(tables, tmp_path, dirs_exist_ok=True))


def table(spark, folder):
    return spark.read.parquet(str(folder / "parquet"))


def config(folder, **options):
    return PrepareConfig(**{"path": str(folder / "data"), "features": ["x"], **options})


def files_below(folder: Path):
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in folder.rglob("*")}


def name(df, folder, **options):
    return name_source(df, config(folder, **options))[0].fingerprint


def viewed(spark, folder, query):
    table(spark, folder).createOrReplaceTempView("rows_of_test")
    return spark.sql(query)


# Programs over files alone: made twice, they are the same.
SAME = {
    "parquet": table,
    "csv": lambda s, f: s.read.csv(str(f / "csv files"), header=True, inferSchema=True),
    "json": lambda s, f: s.read.json(str(f / "json")),
    "filter": lambda s, f: table(s, f).where("x > 3").select("x", (F.col("k") + 1).alias("z")),
    "join": lambda s, f: table(s, f).join(s.read.json(str(f / "json")).select("id", F.col("x").alias("y")), "id"),
    "self join": lambda s, f: table(s, f).alias("a").join(table(s, f).alias("b"), "id").selectExpr("a.x"),
    "column of the frame": lambda s, f: (lambda t: t.where(t.k == 1).select(t["x"]))(table(s, f)),
    "group": lambda s, f: table(s, f).groupBy("k").agg(F.sum("x").alias("x")),
    "window": lambda s, f: table(s, f).selectExpr("sum(x) over (partition by k) as x"),
    "union": lambda s, f: table(s, f).union(table(s, f)),
    "view": lambda s, f: viewed(s, f, "select * from rows_of_test where k = 1"),
    "common table": lambda s, f: viewed(s, f, "with a as (select x from rows_of_test) select a.x from a, a b"),
    "lambda": lambda s, f: table(s, f).select(F.transform(F.array("x"), lambda v: v + 1)[0].alias("x")),
    "function": lambda s, f: table(s, f).select("x", F.to_date(F.lit("2020-01-01")).alias("d")),
    "patterns": lambda s, f: viewed(s, f, "select x from rows_of_test where string(id) like any ('1%', '2%')"),
    "options": lambda s, f: table(s, f).select(parsed("dd/MM/yyyy")),
    "melted": lambda s, f: melted(s, f, ["x", "k"]),
}


def parsed(format_):
    return F.from_json(F.lit('{"d": "01/02/2020"}'), "d date", {"dateFormat": format_}).alias("x")


def melted(spark, folder, columns):
    rows = table(spark, folder).selectExpr("id", "x", "double(k) as k", "x + 1 as y")
    return rows.unpivot(["id"], columns, "column", "x")


@pytest.mark.parametrize("program", SAME)
def test_the_same_program_over_the_same_files_has_one_name(spark, folder, program) -> None:
    first, again = SAME[program](spark, folder), SAME[program](spark, folder)
    assert name(first, folder) is not None
    assert name(first, folder) == name(again, folder)
    spark.catalog.clearCache()


def test_every_program_has_a_name_of_its_own(spark, folder) -> None:
    names = [name(program(spark, folder), folder) for program in SAME.values()]
    assert len(set(names)) == len(names)
    spark.catalog.clearCache()


DIFFERENT = {
    "a literal": lambda s, f: table(s, f).where("x > 4").select("x", (F.col("k") + 1).alias("z")),
    "a column": lambda s, f: table(s, f).where("x > 3").select("x", (F.col("id") + 1).alias("z")),
    "a name": lambda s, f: table(s, f).where("x > 3").select("x", (F.col("k") + 1).alias("y")),
    "a file less": lambda s, f: (
        s.read.parquet(str(next((f / "parquet").glob("*.parquet"))))
        .where("x > 3")
        .select("x", (F.col("k") + 1).alias("z"))
    ),
}


@pytest.mark.parametrize("change", DIFFERENT)
def test_another_program_has_another_name(spark, folder, change) -> None:
    other = name(DIFFERENT[change](spark, folder), folder)
    assert other is not None and other != name(SAME["filter"](spark, folder), folder)


def test_what_a_plan_has_no_json_for_counts(spark, folder) -> None:
    like = viewed(spark, folder, "select x from rows_of_test where string(id) like any ('3%')")
    escaped = [table(spark, folder).where(f"string(id) like '{e}%' escape '{e}'") for e in "#!"]
    for program, others in (
        (SAME["patterns"](spark, folder), [like]),
        (SAME["options"](spark, folder), [table(spark, folder).select(parsed("MM/dd/yyyy"))]),
        (SAME["melted"](spark, folder), [melted(spark, folder, ["x", "y"])]),
        (escaped[0], escaped[1:]),
    ):
        names = [name(program, folder), *(name(other, folder) for other in others)]
        assert None not in names and len(set(names)) == len(names)


def test_options_of_a_reader_count(spark, folder) -> None:
    def read(**options):
        return spark.read.csv(str(folder / "csv files"), schema="id long, x double, k int", **options)

    assert len({name(read(header=True), folder), name(read(header=False), folder)}) == 2
    assert len({name(read(header=True), folder), name(read(header=True, nullValue="7"), folder)}) == 2


def test_every_option_of_a_config_but_its_path_counts(spark, folder) -> None:
    df = table(spark, folder)
    split = sparkdl.Split.fraction({"train": 0.5, "test": 0.5})
    options = [{}, {"seed": 1}, {"lanes": 7}, {"label": "k"}, {"keep": ["k"]}, {"weight": "x"}, {"splits": split}]
    options += [{"features": ["x", "k"]}, {"features": [Numeric("x")]}, {"features": [Numeric("x", fill=1.0)]}]
    options += [{"version": 1}, {"version": 2}]
    names = [name(df, folder, **o) for o in options]
    assert None not in names and len(set(names)) == len(names)
    assert name(df, folder, path="elsewhere") == names[0]


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("spark.sql.session.timeZone", ("UTC", "Asia/Tokyo")),
        ("spark.sql.legacy.timeParserPolicy", ("LEGACY", "CORRECTED")),
        ("spark.sql.files.ignoreCorruptFiles", ("true", "false")),
    ],
)
def test_a_setting_that_changes_values_counts_and_another_does_not(spark, folder, setting, values) -> None:
    harmless = "spark.sql.shuffle.partitions"
    partitions = spark.conf.get(harmless)
    names = set()
    for value in values:
        spark.conf.set(setting, value)
        names.add(name(table(spark, folder), folder))
        spark.conf.set(harmless, "3")
        names.add(name(table(spark, folder), folder))
        spark.conf.set(harmless, partitions)
    spark.conf.unset(setting)
    assert len(names) == 2 and None not in names


def test_a_table_that_is_cached_has_no_name(spark, folder) -> None:
    table(spark, folder).cache().count()
    rows = table(spark, folder)
    assert name(rows, folder) is None and "cache" in name_source(rows, config(folder))[1]
    spark.catalog.clearCache()
    assert name(table(spark, folder), folder) is not None


NAMELESS = {
    "not deterministic": lambda s, f: table(s, f).withColumn("r", F.rand(7)),
    "not deterministic, nor known": lambda s, f: table(s, f).selectExpr("x", "uuid()", "input_file_name()"),
    "CurrentTimestamp": lambda s, f: table(s, f).withColumn("r", F.current_timestamp()),
    "CurrentTimestamp or now": lambda s, f: table(s, f).withColumn("r", F.unix_timestamp()),
    "the text 'today'": lambda s, f: table(s, f).where("date_from_unix_date(k) < 'today'"),
    "PythonUDF": lambda s, f: table(s, f).withColumn("r", F.udf(lambda a: a)("x")),
    "MapInArrow": lambda s, f: table(s, f).mapInArrow(lambda batches: batches, "id long, k long, x double"),
    "First": lambda s, f: table(s, f).groupBy("k").agg(F.first("x").alias("x")),
    "GlobalLimit": lambda s, f: table(s, f).limit(3),
    "Deduplicate": lambda s, f: table(s, f).dropDuplicates(["k"]),
    "ListQuery": lambda s, f: viewed(s, f, "select * from rows_of_test where id in (select k from rows_of_test)"),
    "LogicalRDD": lambda s, f: s.createDataFrame([(1.0,)], "x double"),
    "reads no files": lambda s, f: s.range(10).selectExpr("double(id) as x"),
}


@pytest.mark.parametrize("obstacle", NAMELESS)
def test_what_is_no_function_of_files_has_no_name_but_a_version(spark, folder, obstacle) -> None:
    df = NAMELESS[obstacle](spark, folder)
    source, problem = name_source(df, config(folder))
    assert source.fingerprint is None
    assert re.split(",| or ", obstacle)[0] in problem
    versions = [name(NAMELESS[obstacle](spark, folder), folder, version=v) for v in ("1", 1, "2")]
    assert versions[0] == versions[1] != versions[2]


# Functions that came with later versions of Spark than 3.5.
LATER = {
    "collect_union": ("CollectUnion", "collect_union(array(x))"),
    "current_path": ("CurrentPath", "current_path()"),
    "current_time": ("CurrentTime", "current_time()"),
    "kll_sketch_agg_double": ("KllSketchAggDouble", "kll_sketch_agg_double(x)"),
}


def test_functions_of_later_sparks_are_none_of_files_alone(spark, folder) -> None:
    there = {row[0] for row in spark.sql("SHOW SYSTEM FUNCTIONS").collect()}
    assert there >= LATER.keys() or spark.version < "4.3"
    for function in there & LATER.keys():
        obstacle, text = LATER[function]
        source, problem = name_source(table(spark, folder).selectExpr(f"{text} as x"), config(folder))
        assert source.fingerprint is None and obstacle in problem


def test_a_stream_has_no_name(spark, folder) -> None:
    rows = spark.readStream.format("rate").load()
    assert name_source(rows, config(folder))[0].fingerprint is None


def test_other_files_of_the_same_plan_have_another_name(spark, folder) -> None:
    names = [name(table(spark, folder), folder)]
    file = next((folder / "parquet").glob("*.parquet"))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 5_000_000))
    names.append(name(table(spark, folder), folder))
    spark.range(5).selectExpr("id", "id % 3 as k", "double(id) as x").write.mode("append").parquet(
        str(folder / "parquet")
    )
    names.append(name(table(spark, folder), folder))
    assert None not in names and len(set(names)) == 3


@pytest.mark.parametrize("reader", ["a table with partitions", "Spark's newer reader"])
def test_a_version_names_the_files_of_every_reader(spark, folder, reader) -> None:
    """Neither lists its files where the plan's other readers do: a version found the dataset of fewer rows."""
    more = spark.range(2).selectExpr("double(id) as x", "id as k")
    try:
        if reader == "a table with partitions":
            columns = "(x double, k long) using parquet partitioned by (k)"
            spark.sql(f"create table parted {columns} location '{folder}/parted'")
            rows, add = lambda: spark.table("parted"), lambda: more.write.insertInto("parted")
        else:
            spark.conf.set("spark.sql.sources.useV1SourceList", "")
            rows, add = lambda: table(spark, folder), lambda: more.write.mode("append").parquet(f"{folder}/parquet")
        add()
        names = [name(rows(), folder, version=1), name(rows(), folder, version=1)]
        add()
        names.append(name(rows(), folder, version=1))
    finally:
        spark.conf.unset("spark.sql.sources.useV1SourceList")
        spark.sql("drop table if exists parted")
    assert names[0] == names[1] != names[2]


def test_files_that_changed_after_the_dataframe_was_made_are_refused(spark, folder) -> None:
    df = table(spark, folder)
    file = next((folder / "parquet").glob("*.parquet"))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 5_000_000))
    with pytest.raises(DatasetError, match="parquet has been written again since the DataFrame was made: .*; read it"):
        sparkdl.prepare(df, config(folder))
    file.unlink()
    with pytest.raises(DatasetError, match="parquet is gone since the DataFrame was made: .*; read it again"):
        sparkdl.prepare(df, config(folder, version=1))
    assert not (folder / "data" / "dataset.json").exists()


OTHER_SESSION = """
import sys
from datetime import datetime
from pathlib import Path
from pyspark.sql import SparkSession
sys.path.insert(0, sys.argv[1])
import test_same_input as programs
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
spark.range(3).count()
for program in reversed(programs.SAME):
    print("name", program, programs.name(programs.SAME[program](spark, Path(sys.argv[2])), Path(sys.argv[2])), sep="|")
"""


def test_another_session_gives_the_same_names(spark, folder) -> None:
    told = subprocess.run(
        [sys.executable, "-c", OTHER_SESSION, str(Path(__file__).parent), str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    theirs = dict(line.split("|")[1:] for line in told.splitlines() if line.startswith("name|"))
    ours = {program: name(make(spark, folder), folder) for program, make in SAME.items()}
    spark.catalog.clearCache()
    assert theirs == ours


def test_the_same_input_finds_the_dataset_and_writes_nothing(spark, folder, caplog) -> None:
    first = sparkdl.prepare(table(spark, folder), config(folder))
    before = files_below(folder / "data")
    assert set(before) == {"dataset.json", first.generation, *[part.file for part in first.parts]}
    again = sparkdl.prepare(table(spark, folder), config(folder))
    assert again == first and files_below(folder / "data") == before
    told = f"found {{'train': 60}} at {first.path}, prepared from the same input: nothing is written"
    assert warnings_of(caplog) == [told]


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# Rows that no file names, changed in one place each: all others must be the first's.
ROWS = [(1, 0.5, "a", [1.0, None], [[1], [2, 3]], {"k": 1}, None), (2, -1.5, None, [2.0, 3.0], [[4], []], None, b"x")]
TYPES = "id long, x double, s string, a array<double>, n array<array<int>>, m map<string,int>, b binary"
CHANGED = {
    "a number": (1, 0.75, "a", [1.0, None], [[1], [2, 3]], {"k": 1}, None),
    "a word": (1, 0.5, "b", [1.0, None], [[1], [2, 3]], {"k": 1}, None),
    "where a null stands in an array": (1, 0.5, "a", [None, 1.0], [[1], [2, 3]], {"k": 1}, None),
    "where inner arrays end": (1, 0.5, "a", [1.0, None], [[1, 2], [3]], {"k": 1}, None),
    "a null": (1, 0.5, None, [1.0, None], [[1], [2, 3]], {"k": 1}, None),
    "a map": (1, 0.5, "a", [1.0, None], [[1], [2, 3]], {"k": 2}, None),
    "bytes": (1, 0.5, "a", [1.0, None], [[1], [2, 3]], {"k": 1}, b""),
}


def test_rows_from_memory_are_named_by_their_content(spark, folder, caplog) -> None:
    """Made again in another order and division they are the same; any other value makes them others."""
    many = [(i, float(i), "w", [1.0], [[1]], {"k": i}, None) for i in range(10)]
    keep = ["s", "a", "n", "m", "b"]

    def prepared(rows, **options):
        return sparkdl.prepare(spark.createDataFrame(rows, TYPES), config(folder, keep=keep, **options))

    first = prepared([*ROWS, *many])
    assert prepared([*reversed(many), *ROWS]) == first
    again = spark.createDataFrame([*ROWS, *many], TYPES).repartition(5)
    assert sparkdl.prepare(again, config(folder, keep=keep)) == first
    by_python = again.mapInPandas(lambda frames: frames, again.schema).where("id >= 0")
    assert sparkdl.prepare(by_python.select("x", *keep), config(folder, keep=keep)) == first
    assert all("prepared from the same input" in told for told in warnings_of(caplog))
    generations = {first.generation}
    caplog.clear()
    for change in CHANGED.values():
        generations.add(prepared([change, ROWS[1], *many]).generation)
    generations.add(prepared([*ROWS, ROWS[1], *many]).generation)
    generations.add(prepared([*ROWS, *many], seed=1).generation)
    assert len(generations) == len(CHANGED) + 3
    told = f"{first.path} is prepared anew: what is there is of another input, configuration or setting of Spark"
    assert warnings_of(caplog) == [told] * (len(CHANGED) + 2)


# Columns, and two rows of them that are not equal.
UNEQUAL = {
    "where an array ends": ("a array<int>, b array<int>", ([1], [0, 7]), ([1, 0], [7])),
    "where an array of floats ends": ("a array<float>, b array<float>", ([1.0], [0.0, 2.0]), ([1.0, 0.0], [2.0])),
    "microseconds in a map in an array": (
        "a array<map<string,timestamp_ntz>>",
        ([{"k": datetime(2024, 1, 1, 0, 0, 0, 123456)}],),
        ([{"k": datetime(2024, 1, 1, 0, 0, 0, 123999)}],),
    ),
    "microseconds of a moment": (
        "a struct<m: map<string,timestamp>>",
        (({"k": datetime(2024, 1, 1, 0, 0, 0, 123456)},),),
        (({"k": datetime(2024, 1, 1, 0, 0, 0, 123999)},),),
    ),
}


@pytest.mark.parametrize("kind", UNEQUAL)
def test_rows_that_are_not_equal_are_told_apart(spark, kind) -> None:
    columns, *rows = UNEQUAL[kind]
    df = spark.createDataFrame(rows, columns)
    types = {field.name: field.dataType.simpleString() for field in df.schema}
    hashed = df.select("*", order_key(0, types).alias("o")).select(whole_rows("o", types))
    assert hashed.distinct().count() == 2


def test_moments_in_a_struct_are_the_same_in_every_time_zone(spark) -> None:
    df = spark.range(1).selectExpr("struct(timestamp_micros(1) as t) as a").select("a", F.lit(0).alias("o"))
    zone = spark.conf.get("spark.sql.session.timeZone")
    hashes = set()
    try:
        for other in ("UTC", "America/New_York"):
            spark.conf.set("spark.sql.session.timeZone", other)
            hashes.add(df.select(whole_rows("o", {"a": "struct<t:timestamp>"})).first()[0])
    finally:
        spark.conf.set("spark.sql.session.timeZone", zone)
    assert len(hashes) == 1


def test_a_version_names_rows_without_looking_at_them(spark, folder, caplog) -> None:
    rows = spark.range(50).selectExpr("double(id) as x")
    with caplog.at_level(logging.INFO, "sparkdl"):
        datasets = [sparkdl.prepare(rows, config(folder, version=v)) for v in (None, None, "a", "a", "b")]
    generations = [ds.generation for ds in datasets]
    assert len(set(generations)) == 3 and generations[0] == generations[1] and generations[2] == generations[3]
    assert caplog.text.count("the rows are named by their content: it reads no files; PrepareConfig(version=…)") == 2


def test_changed_input_makes_a_dataset_beside_the_one_before_and_drops_older_ones(spark, folder) -> None:
    made = []
    for rows in (40, 41, 42):
        made.append(sparkdl.prepare(table(spark, folder).where(f"id < {rows}"), config(folder)))
        assert sparkdl.open_dataset(made[-1].path) == made[-1]
    assert {f.name for f in (folder / "data").iterdir()} == {"dataset.json", *[ds.generation for ds in made[1:]]}
    assert made[2].previous == made[1].generation
    kept = Path(made[1].path) / made[1].parts[0].file
    assert kept.stat().st_size == made[1].parts[0].bytes


@pytest.mark.parametrize("damage", ["is missing", "bytes instead of"])
def test_a_dataset_that_lost_a_part_is_prepared_anew(spark, folder, caplog, damage) -> None:
    first = sparkdl.prepare(table(spark, folder), config(folder))
    part = Path(first.path) / first.parts[0].file
    part.unlink() if damage == "is missing" else os.truncate(part, 100)
    with caplog.at_level(logging.WARNING, "sparkdl"):
        again = sparkdl.prepare(table(spark, folder), config(folder))
    assert again.generation != first.generation and damage in caplog.text
    assert sparkdl.read_prepared(spark, again.path, "train").count() == 60


def test_a_part_with_other_rows_than_the_manifest_says_is_refused(spark, folder) -> None:
    ds = sparkdl.prepare(table(spark, folder), config(folder))
    parts = [Path(ds.path) / part.file for part in ds.parts]
    parts[0].write_bytes(parts[-1].read_bytes())
    with pytest.raises(Exception, match="the manifest says .*; prepare the dataset again"):
        sparkdl.read_prepared(spark, ds.path, "train").collect()


def test_a_manifest_holds_no_credentials(spark, folder) -> None:
    ds = sparkdl.prepare(table(spark, folder), config(folder))
    assert ds.source.paths == (f"file:{folder}/parquet",)


def test_an_unfinished_write_and_a_failure_leave_no_lease(spark, folder) -> None:
    with pytest.raises(sparkdl.SchemaError):
        sparkdl.prepare(table(spark, folder).withColumn("x", F.expr("if(id = 7, null, x)")), config(folder))
    assert list((folder / "data").iterdir()) == []


def test_batches_are_bounded_for_the_time_of_a_job_alone(spark) -> None:
    def lengths(batches):
        import pyarrow as pa

        for batch in batches:
            yield pa.RecordBatch.from_arrays([pa.array([batch.num_rows])], names=["rows"])

    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(setting)
    with pytest.raises(ZeroDivisionError), arrow_batches(spark, 7):
        found = [row.rows for row in spark.range(100).mapInArrow(lengths, "rows long").collect()]
        assert max(found) == 7 and sum(found) == 100
        other = arrow_batches(spark, 5)  # of another thread, which ends later
        other.__enter__()
        assert spark.conf.get(setting) == "5"
        raise ZeroDivisionError
    assert spark.conf.get(setting) == "5"
    other.__exit__(None, None, None)
    assert spark.conf.get(setting) == before
