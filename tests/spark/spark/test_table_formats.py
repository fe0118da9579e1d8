"""Folders of Delta, Iceberg and Hudi tables, made by their own writers, are not read as plain Parquet."""

import os
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkdl
from sparkdl import ConfigError, PrepareConfig
from sparkdl.features import Numeric
from sparkdl.score.options import ScoreOptions
from sparkdl.score.write_scored import plan_write_scored
from sparkdl.spark.table_formats import check_folders, check_plan


@pytest.fixture(scope="module")
def delta(tmp_path_factory) -> str:
    """10 rows were written, 3 are alive."""
    from arro3.core import Array, DataType, Table
    from deltalake import DeltaTable, write_deltalake

    path = str(tmp_path_factory.mktemp("delta") / "table")
    columns = {"id": (range(10), DataType.int64()), "x": (map(float, range(10)), DataType.float64())}
    write_deltalake(path, Table({name: Array(list(values), type_) for name, (values, type_) in columns.items()}))
    DeltaTable(path).delete("id >= 3")
    return path


@pytest.fixture(scope="module")
def iceberg(tmp_path_factory) -> str:
    # It warns of what it uses itself.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pyiceberg.catalog import load_catalog

        folder = tmp_path_factory.mktemp("iceberg")
        catalog = load_catalog("test", type="in-memory", warehouse=f"file://{folder}")
        catalog.create_namespace("people")
        rows = pa.table({"id": pa.array(range(10), pa.int64()), "x": pa.array(np.arange(10.0))})
        table = catalog.create_table("people.ages", schema=rows.schema)
        table.append(rows)
        table.delete("id >= 3")
        catalog.engine.dispose()
    return table.location().removeprefix("file://")


@pytest.fixture(scope="module")
def hudi(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("hudi") / "table"
    (folder / ".hoodie").mkdir(parents=True)
    (folder / ".hoodie" / "hoodie.properties").write_text("hoodie.table.name=table\n")
    pq.write_table(pa.table({"id": [1], "x": [1.0]}), folder / "a.parquet")
    return str(folder)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    import keras

    path = str(tmp_path_factory.mktemp("model") / "model")
    model = keras.Sequential([keras.Input((), name="x"), keras.layers.Reshape((1,)), keras.layers.Rescaling(2.0)])
    sparkdl.save_model(model, path, inputs=[Numeric("x", scale="none")])
    return path


def a_file_in(folder: str) -> str:
    return next(
        os.path.join(where, name) for where, _, names in os.walk(folder) for name in names if name.endswith(".parquet")
    )


@pytest.mark.parametrize("kind", ["delta", "iceberg", "hudi"])
def test_a_table_is_refused_by_its_folder_a_folder_in_it_and_a_file_of_it(
    spark, model_dir, tmp_path, request, kind
) -> None:
    table = request.getfixturevalue(kind)
    message = rf'is a {kind.title()} table, .* spark.read.format\("{kind}"\)'
    file = a_file_in(table)
    for path in dict.fromkeys((table, os.path.dirname(file), file)):
        with pytest.raises(ConfigError, match=message):
            sparkdl.score_parquet(spark, path, model_dir, str(tmp_path / "out"))
        if kind == "iceberg" and path == table:
            # Spark finds no files there, for they are in a folder that names no column.
            continue
        rows = spark.read.parquet(path)
        config = PrepareConfig(path=str(tmp_path / "data"), features=["x"])
        for read in (rows, rows.where("id > 0").select("x").union(rows.select("x"))):
            with pytest.raises(ConfigError, match=message):
                sparkdl.prepare(read, config)
            with pytest.raises(ConfigError, match=message):
                sparkdl.transform(read, model_dir)
            with pytest.raises(ConfigError, match=message):
                what = (read, model_dir, str(tmp_path / "out"), ScoreOptions())
                plan_write_scored(*what, metrics=sparkdl.ScoreMetrics(spark))
    assert os.listdir(tmp_path) == []


def test_a_stream_of_a_tables_files_is_refused_and_a_plain_one_is_scored(spark, delta, model_dir, tmp_path) -> None:
    stream = spark.readStream.schema("id long, x double").parquet(delta)
    with pytest.raises(ConfigError, match="is a Delta table"):
        sparkdl.transform(stream, model_dir)
    pq.write_table(pa.table({"id": [1], "x": [1.0]}), tmp_path / "a.parquet")
    plain = spark.readStream.schema("id long, x double").parquet(str(tmp_path))
    assert sparkdl.transform(plain, model_dir).isStreaming


def test_the_second_version_of_sparks_sources_is_looked_at_too(spark, delta) -> None:
    spark.conf.set("spark.sql.sources.useV1SourceList", "")
    try:
        with pytest.raises(ConfigError, match="is a Delta table"):
            check_plan(spark.read.parquet(delta))
    finally:
        spark.conf.unset("spark.sql.sources.useV1SourceList")


def test_a_view_and_a_table_of_the_catalogue_over_the_files_are_looked_at_too(spark, delta) -> None:
    spark.read.parquet(delta).createOrReplaceTempView("dead_and_alive")
    spark.sql(f"create table dead_rows (id long, x double) using parquet location '{delta}'")
    for name in ("dead_and_alive", "dead_rows"):
        with pytest.raises(ConfigError, match="is a Delta table"):
            check_plan(spark.table(name))
    spark.sql("drop table dead_rows")
    spark.catalog.dropTempView("dead_and_alive")


def test_what_lies_in_a_folder_that_is_read_is_seen(spark, delta, hudi, iceberg, model_dir, tmp_path) -> None:
    import shutil

    for place, table in enumerate((delta, hudi, iceberg)):
        shutil.copytree(table, tmp_path / str(place) / "in" / "day=1")
        with pytest.raises(ConfigError, match="day=1 is a (Delta|Hudi|Iceberg) table"):
            sparkdl.score_parquet(spark, str(tmp_path / str(place) / "in"), model_dir, str(tmp_path / "out"))


def test_what_is_no_table_passes(spark, delta, tmp_path) -> None:
    folder = tmp_path / "plain"
    for name in ("data", "metadata", "_delta_logs"):
        (folder / name).mkdir(parents=True)
    (folder / "metadata" / "run.metadata.json").write_text("{}")
    pq.write_table(pa.table({"x": [1.0]}), folder / "data" / "a.parquet")
    check_folders(str(folder / "data"))
    check_folders(str(folder / "nothing"))
    check_plan(spark.read.parquet(str(folder / "data")))
    # The table's log is no rows of the table.
    check_plan(spark.read.json(f"{delta}/_delta_log/*.json"))
    check_plan(spark.range(3))


def test_a_table_in_a_bucket_is_seen(bucket, delta) -> None:
    import s3fs

    s3fs.S3FileSystem().put(delta, f"{bucket}/lake/table", recursive=True)
    for path in (f"s3://{bucket}/lake/table", f"s3a://{bucket}/lake/table/{os.path.basename(a_file_in(delta))}"):
        with pytest.raises(ConfigError, match=f"{bucket}/lake/table is a Delta table"):
            check_folders(path)
    check_folders(f"s3://{bucket}/lake")
