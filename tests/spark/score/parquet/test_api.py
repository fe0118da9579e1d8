"""Parquet scored into Parquet: the rows of `transform`, in files that are there as a whole or not at all."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F

import sparkdl
from sparkdl import ConfigError, DatasetError, ModelError, PrepareConfig, SchemaError, Split
from sparkdl.features import Categorical, Image, Numeric, Text
from sparkdl.score.commit import new_output
from sparkdl.score.options import ScoreOptions
from sparkdl.score.write_scored import plan_write_scored, write_scored

ROWS = 97


def png(value: int) -> bytes:
    import io

    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.new("RGB", (3, 2), (value, 255 - value, 7)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def raw(spark, tmp_path_factory):
    """A folder of files with a column of each kind, divided by day."""
    table = [
        (
            i,
            None if i % 7 == 3 else i / 7,
            ["cook", "clerk", "smith"][i % 3],
            f"the {i} quick foxes",
            Vectors.sparse(4, [1], [float(i)]) if i % 2 else Vectors.dense(1.0, 2.0, 3.0, float(i)),
            png(i),
            f"2024-05-0{1 + i % 2}",
        )
        for i in range(ROWS)
    ]
    rows = spark.createDataFrame(table, ["id", "age", "job", "note", "vector", "face", "day"])
    rows = rows.withColumn("at", F.timestamp_seconds("id")).withColumn("price", F.expr("cast(id as decimal(9, 2))"))
    path = str(tmp_path_factory.mktemp("raw") / "files")
    rows.repartitionByRange(3, "id").write.option("parquet.block.size", 4096).partitionBy("day").parquet(path)
    return path


@pytest.fixture(scope="module")
def dataset(spark, raw, tmp_path_factory):
    features = [
        Numeric("age", fill="mean"),
        Categorical("job"),
        Text("note", length=3, fill=""),
        "vector",
        Image("face", height=2, width=2, store="encoded"),
    ]
    config = PrepareConfig(
        path=str(tmp_path_factory.mktemp("prepared") / "data"),
        features=features,
        keep=["id"],
        splits=Split.fraction({"train": 0.7, "test": 0.3}, key="id"),
    )
    return sparkdl.prepare(spark.read.parquet(raw), config)


@pytest.fixture(scope="module")
def model_dir(dataset, tmp_path_factory):
    import keras

    layers = keras.layers
    inputs = {
        e.name: keras.Input(e.shape, name=e.name, dtype="float32" if e.dtype.kind == "f" else e.dtype.name)
        for e in dataset.encoders
    }
    parts = [
        layers.Reshape((1,))(inputs["age"]),
        layers.Embedding(9, 2)(inputs["job"]),
        layers.Flatten()(layers.Embedding(200, 2)(inputs["note"])),
        layers.Rescaling(0.01)(inputs["vector"]),
        layers.Flatten()(layers.Rescaling(0.01)(inputs["face"])),
    ]
    outputs = layers.Dense(3, activation="softmax", name="kind")(layers.Concatenate()(parts))
    path = str(tmp_path_factory.mktemp("model") / "model")
    sparkdl.save_model(keras.Model(inputs, outputs), path, inputs=dataset.encoders, label=["cat", "cow", "dog"])
    return path


@pytest.fixture
def out(tmp_path) -> str:
    return str(tmp_path / "scored")


def simple_model(path: str) -> str:
    import keras

    model = keras.Sequential([keras.Input((), name="x"), keras.layers.Reshape((1,)), keras.layers.Rescaling(2.0)])
    sparkdl.save_model(model, path, inputs=[Numeric("x", scale="none")])
    return path


@pytest.fixture(scope="module")
def doubling(tmp_path_factory) -> str:
    return simple_model(str(tmp_path_factory.mktemp("doubling") / "model"))


def test_files_hold_what_transform_gives(spark, raw, model_dir, out) -> None:
    metrics = sparkdl.ScoreMetrics(spark)
    assert sparkdl.score_parquet(spark, raw, model_dir, out, batch_size=7, metrics=metrics) == ROWS
    expected = sparkdl.transform(spark.read.parquet(raw), model_dir)
    found = spark.read.parquet(out)
    assert found.dtypes == expected.dtypes, "vectors, decimals, moments and folders' columns keep their types"
    ours, theirs = ({row.id: row for row in rows.collect()} for rows in (found, expected))
    assert ours.keys() == theirs.keys() == set(range(ROWS)) and found.count() == ROWS
    for number, row in theirs.items():
        assert np.allclose(ours[number].prediction, row.prediction, rtol=1e-5, atol=1e-6)
        assert ours[number][:-1] == row[:-1]
    without_spark = pq.read_table(raw).sort_by("id")
    alone = sparkdl.load_model(model_dir).predict(without_spark)
    assert np.allclose([ours[number].prediction for number in range(ROWS)], alone, rtol=1e-5, atol=1e-6)
    assert metrics.figures()["rows"] == ROWS
    assert sorted(name for name in os.listdir(out) if not name.startswith("part-")) == ["_SUCCESS", "_score.json"]
    assert os.listdir(os.path.dirname(out)) == ["scored"]


def test_a_split_of_a_dataset_gives_what_its_raw_rows_give(spark, raw, dataset, model_dir, out) -> None:
    how = {"returns": "class", "keep": ["id"]}
    rows = sparkdl.score_parquet(spark, dataset.path, model_dir, out, split="test", **how)
    assert rows == dataset.split("test").rows
    sparkdl.score_parquet(spark, raw, model_dir, f"{out}-raw", **how)
    expected = {row.id: row.prediction for row in spark.read.parquet(f"{out}-raw").collect()}
    found = spark.read.parquet(out)
    assert found.columns == ["id", "prediction"] and found.count() == rows
    assert all(row.prediction == expected[row.id] for row in found.collect())
    with pytest.raises(ConfigError, match="split must be one of train, test"):
        sparkdl.score_parquet(spark, dataset.path, model_dir, f"{out}-2")


def test_a_dataset_that_encodes_otherwise_is_refused(spark, dataset, doubling, out) -> None:
    with pytest.raises(SchemaError, match="the model's input 'x' is not a feature of the dataset"):
        sparkdl.score_parquet(spark, dataset.path, doubling, out, split="test")


def test_the_same_again_is_found_and_another_one_is_refused(spark, doubling, tmp_path, out) -> None:
    spark.range(10).selectExpr("id", "double(id) as x").coalesce(1).write.parquet(str(tmp_path / "in"))
    assert sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out) == 10
    before = {name: os.stat(os.path.join(out, name)).st_mtime_ns for name in os.listdir(out)}
    assert sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out, batch_size=3) == 10
    assert {name: os.stat(os.path.join(out, name)).st_mtime_ns for name in os.listdir(out)} == before
    with pytest.raises(ConfigError, match="already holds predictions of another input, model, code or options"):
        sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out, output_col="p")
    spark.range(10, 12).selectExpr("id", "double(id) as x").write.mode("append").parquet(str(tmp_path / "in"))
    with pytest.raises(ConfigError, match="already holds predictions"):
        sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out)
    with pytest.raises(ConfigError, match="already holds files"):
        sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, str(tmp_path / "in"))


def test_rows_stay_in_order_whatever_the_row_groups(spark, doubling, tmp_path, out) -> None:
    os.makedirs(tmp_path / "in")
    for part in range(3):
        rows = np.arange(part * 1000, part * 1000 + 1000)
        table = pa.table({"id": rows, "x": rows / 2})
        pq.write_table(table, tmp_path / "in" / f"{part}.parquet", row_group_size=[1, 300, 999][part])
    sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out, batch_size=64)
    found = pq.read_table(out)
    assert found.column("id").to_pylist() == list(range(3000))
    assert found.column("prediction").to_pylist() == [float(i) for i in range(3000)]


def test_no_rows_give_a_file_without_rows(spark, doubling, tmp_path, out) -> None:
    pq.write_table(pa.table({"x": pa.array([], pa.float64())}), tmp_path / "x.parquet")
    assert sparkdl.score_parquet(spark, str(tmp_path / "x.parquet"), doubling, out) == 0
    assert spark.read.parquet(out).dtypes == [("x", "double"), ("prediction", "float")]


def test_bad_rows_are_named_by_their_files_or_flagged(spark, doubling, tmp_path, out) -> None:
    os.makedirs(tmp_path / "in")
    for name, rows in {"a": [0.0, 1.0], "b": [2.0, 3.0, None, 5.0]}.items():
        pq.write_table(pa.table({"x": rows}), tmp_path / "in" / f"{name}.parquet", row_group_size=2)
    with pytest.raises(SchemaError, match=r"column 'x': null .*; row 2 of .*b.parquet is None"):
        sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out)
    assert os.listdir(tmp_path) == ["in"]
    sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out, on_error="null")
    found = pq.read_table(out).to_pylist()
    assert [row["prediction"] for row in found] == [0.0, 2.0, 4.0, 6.0, None, 10.0]
    assert [row["prediction_error"] is None for row in found] == [True] * 4 + [False, True]


def test_what_cannot_be_scored_is_refused_before_any_job(spark, doubling, tmp_path, out) -> None:
    pq.write_table(pa.table({"x": [1.0], "word": ["a"]}), tmp_path / "x.parquet")
    path = str(tmp_path / "x.parquet")
    for options, kind, message in (
        ({"keep": ["y"]}, SchemaError, "keep: column 'y' is not in the input"),
        ({"keep": "x"}, ConfigError, "keep='x' must be a list"),
        ({"output_col": "word"}, SchemaError, "already has a column 'word'"),
        ({"split": "test"}, ConfigError, "is not a prepared dataset"),
        ({"returns": "class"}, ModelError, "has no classes"),
    ):
        with pytest.raises(kind, match=message):
            sparkdl.score_parquet(spark, path, doubling, out, **options)
    pq.write_table(pa.table({"x": ["1.0"]}), path)
    with pytest.raises(SchemaError, match="column 'x': values of type string"):
        sparkdl.score_parquet(spark, path, doubling, out)
    pq.write_table(pa.table({"X": [1.0]}), path)
    with pytest.raises(SchemaError, match="the model's input column 'x' is not in .*known: X"):
        sparkdl.score_parquet(spark, path, doubling, out)
    with pytest.raises(ConfigError, match="scored lies inside the input .* and would be read with it"):
        sparkdl.score_parquet(spark, str(tmp_path), doubling, out)
    with pytest.raises(ConfigError, match="holds no Parquet files"):
        sparkdl.score_parquet(spark, str(tmp_path / "nothing"), doubling, out)
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_predictions_that_are_there_are_refused_reused_or_replaced(spark, doubling, tmp_path, out, caplog) -> None:
    (tmp_path / "in").mkdir()
    path = str(tmp_path / "in" / "x.parquet")
    pq.write_table(pa.table({"x": [1.0]}), path)

    def score(**options) -> list[float]:
        sparkdl.score_parquet(spark, path, doubling, out, **options)
        return pq.read_table(out).column("prediction").to_pylist()

    assert score(if_exists="error") == [2.0]
    with pytest.raises(
        ConfigError, match="and if_exists='error'; choose a new folder, or if_exists='reuse'.*'replace'"
    ):
        score(if_exists="error")
    with caplog.at_level("WARNING", logger="sparkdl"):
        # What "top_k" would take makes no difference to others.
        assert score(k=3) == [2.0]
    assert "found" in caplog.text and "nothing was scored now" in caplog.text
    pq.write_table(pa.table({"x": [2.0, 3.0]}), path)
    with pytest.raises(
        ConfigError, match="of another input.*; choose a new folder, or if_exists='replace' scores anew"
    ):
        score()
    metrics = sparkdl.ScoreMetrics(spark)
    assert score(if_exists="replace", metrics=metrics) == [4.0, 6.0] and score() == [4.0, 6.0]
    assert score(if_exists="replace", metrics=metrics) == [4.0, 6.0] and metrics.figures()["rows"] == 4
    pq.write_table(pa.table({"x": [2.0, None]}), path)
    with pytest.raises(SchemaError, match="null"):
        score(if_exists="replace")
    assert pq.read_table(out).column("prediction").to_pylist() == [4.0, 6.0], "what fails replaces nothing"
    with pytest.raises(ConfigError, match="if_exists='append' must be one of error, reuse, replace"):
        score(if_exists="append")
    for folder in (tmp_path / "in", tmp_path):
        with pytest.raises(ConfigError, match="already holds files, of the input"):
            sparkdl.score_parquet(spark, path, doubling, str(folder), if_exists="replace")
    (tmp_path / "scored" / "notes").touch()
    with pytest.raises(ConfigError, match="holds 'notes' beside predictions"):
        score(if_exists="replace")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").touch()
    with pytest.raises(ConfigError, match="which are not finished predictions; .*if_exists='replace' replaces pred"):
        sparkdl.score_parquet(spark, path, doubling, str(tmp_path / "other"), if_exists="replace")
    assert sorted(os.listdir(tmp_path)) == ["in", "other", "scored"]


@pytest.mark.parametrize("rows", [[1.0, 2.0], [5.0]])
def test_a_file_that_changes_meanwhile_is_an_error(spark, doubling, tmp_path, out, monkeypatch, rows) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [1.0]}), path)
    from sparkdl.score.parquet import api as module

    seen = module._tasks

    def after(*arguments):
        pq.write_table(pa.table({"x": rows}), path)
        return seen(*arguments)

    monkeypatch.setattr(module, "_tasks", after)
    with pytest.raises(DatasetError, match=r"x.parquet has changed since scoring began"):
        sparkdl.score_parquet(spark, str(path), doubling, out)
    assert os.listdir(tmp_path) == ["x.parquet"]


def test_what_was_scored_with_classes_of_ones_own_is_never_the_same(spark, tmp_path, out) -> None:
    import keras

    class Times(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    model = keras.Sequential([keras.Input((1,), name="x"), Times()])
    sparkdl.save_model(model, str(tmp_path / "model"), inputs=["x"])
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "x.parquet")
    arguments = (spark, str(tmp_path / "x.parquet"), str(tmp_path / "model"), out)
    assert sparkdl.score_parquet(*arguments, custom_objects={"Times": Times}) == 1
    with pytest.raises(ConfigError, match="whether they are of the same rows and code; .*if_exists='replace'"):
        sparkdl.score_parquet(*arguments, custom_objects={"Times": Times})
    assert sparkdl.score_parquet(*arguments, custom_objects={"Times": Times}, if_exists="replace") == 1


def test_a_prediction_may_have_the_name_of_a_column_that_is_not_kept(spark, doubling, tmp_path, out) -> None:
    spark.range(2).selectExpr("id", "double(id) as x", "'a' as word").coalesce(1).write.parquet(str(tmp_path / "in"))
    sparkdl.score_parquet(spark, str(tmp_path / "in"), doubling, out, keep=["id"], output_col="word")
    found = spark.read.parquet(out)
    assert found.dtypes == [("id", "bigint"), ("word", "float")]
    assert [tuple(row) for row in found.orderBy("id").collect()] == [(0, 0.0), (1, 2.0)]


def test_where_the_output_cannot_be_is_told_before_any_job(spark, doubling, tmp_path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0]}), path)
    metrics = sparkdl.ScoreMetrics(spark)
    for out, message in ((str(path / "out"), "cannot be made: .*Not a directory"), ("/proc", "a disk is mounted")):
        with pytest.raises(ConfigError, match=message):
            with new_output(out):
                pass
    assert os.listdir(tmp_path) == ["x.parquet"]
    os.makedirs(tmp_path / "elsewhere" / "scored")
    os.symlink(tmp_path / "elsewhere" / "scored", tmp_path / "link")
    assert sparkdl.score_parquet(spark, str(path), doubling, str(tmp_path / "link"), metrics=metrics) == 2
    assert sparkdl.score_parquet(spark, str(path), doubling, str(tmp_path / "link"), metrics=metrics) == 2
    assert os.listdir(tmp_path / "elsewhere") == ["scored"] and metrics.figures()["rows"] == 2


def test_the_output_tells_what_it_was_made_of(spark, doubling, tmp_path, out) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "x.parquet")
    sparkdl.score_parquet(spark, str(tmp_path / "x.parquet"), doubling, out)
    told = json.loads((tmp_path / "scored" / "_score.json").read_text())
    assert told["rows"] == 2 and len(told["made_of"]) == 32


def test_a_scored_dataframe_is_written_once_and_as_a_whole(spark, doubling, tmp_path, out) -> None:
    spark.range(10).selectExpr("id", "double(id) as x", "'a' as word").write.parquet(str(tmp_path / "in"))

    def rows(df=None, if_exists="reuse", **more):
        df = spark.read.parquet(str(tmp_path / "in")) if df is None else df
        options = ScoreOptions(**{"keep": ["id"], "output_col": "p", "on_error": "null", **more})
        return plan_write_scored(df, doubling, out, options, metrics=metrics, if_exists=if_exists)

    metrics = sparkdl.ScoreMetrics(spark)
    assert rows().columns == {"id": "bigint", "p": "float", "p_error": "string"}
    assert write_scored(rows()) and not write_scored(rows(batch_size=7))
    assert metrics.figures()["rows"] == 10
    assert sorted((row.id, row.p, row.p_error) for row in spark.read.parquet(out).collect()) == [
        (i, 2.0 * i, None) for i in range(10)
    ]
    with pytest.raises(ConfigError, match="already holds predictions of another input, model, code or options"):
        write_scored(rows(on_error="raise"))
    with pytest.raises(ConfigError, match="already holds predictions; it is not known whether they are of the same"):
        write_scored(rows(spark.createDataFrame([(1, 2.0)], "id long, x double")))
    assert write_scored(rows(on_error="raise", if_exists="replace"))
    assert spark.read.parquet(out).columns == ["id", "p"]
    with pytest.raises(ConfigError, match="and if_exists='error'"):
        write_scored(rows(on_error="raise", if_exists="error"))
    again = spark.read.parquet(out).selectExpr("id", "double(p) as x")
    with pytest.raises(ConfigError, match="already holds files, of the input .*part-"):
        write_scored(rows(again, if_exists="replace"))
    with pytest.raises(SchemaError, match="column 'idd' is not in the DataFrame"):
        rows(spark.range(1).selectExpr("1D as x"), keep=["idd"])
    assert sorted(os.listdir(tmp_path)) == ["in", "scored"]
