"""A scoring function answers with the model and the code that it was made for, or fails: in warm workers as in cold."""

import importlib
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkdl
from sparkdl import ConfigError, ModelError, SchemaError
from sparkdl.features import Numeric
from sparkdl.spark.errors import errors_from_workers

ANOTHER = "holds another model than when the UDF was made; make the UDF again .register_udf"


def save_scaled(factor: float, folder: Path) -> str:
    """The directory of a model that multiplies, in place of one there."""
    import keras

    shutil.rmtree(folder, ignore_errors=True)
    model = keras.Sequential([keras.Input((1,), name="x"), keras.layers.Rescaling(factor)])
    sparkdl.save_model(model, str(folder), inputs=["x"])
    return str(folder)


@pytest.fixture
def numbers(spark):
    rows = spark.range(40, numPartitions=1).selectExpr("id", "float(id) as x")
    rows.createOrReplaceTempView("numbers")
    return rows


def warm(rows) -> None:
    """Let the worker load what these rows are scored with."""
    assert [row.prediction for row in rows.collect()][:3] == [0.0, 2.0, 4.0]


def test_a_model_that_was_trained_on_is_refused_by_every_verb_in_warm_workers(spark, numbers, tmp_path) -> None:
    folder = tmp_path / "m"
    model_dir = save_scaled(2.0, folder)
    sparkdl.register_udf(spark, "scaled", model_dir)
    made = (
        spark.sql("SELECT id, scaled(x) AS prediction FROM numbers"),
        numbers.select("id", sparkdl.predict_udf(model_dir)("x").alias("prediction")),
        sparkdl.transform(numbers, model_dir),
    )
    for rows in made:
        warm(rows)
    save_scaled(3.0, folder)
    for rows in (*made, spark.sql("SELECT id, scaled(x) AS prediction FROM numbers")):
        with pytest.raises(ModelError, match=ANOTHER), errors_from_workers():
            rows.collect()
    sparkdl.register_udf(spark, "scaled", model_dir)
    assert [row.p for row in spark.sql("SELECT scaled(x) AS p FROM numbers WHERE id = 5").collect()] == [15.0]
    shutil.rmtree(folder)
    with pytest.raises(ModelError, match="no model at .* any more"), errors_from_workers():
        spark.sql("SELECT scaled(x) FROM numbers").collect()


def test_a_stream_ends_when_its_model_is_replaced(spark, numbers, tmp_path) -> None:
    model_dir = save_scaled(2.0, tmp_path / "m")
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "in" / "0.parquet")
    scored = sparkdl.transform(spark.readStream.schema("x double").parquet(str(tmp_path / "in")), model_dir)
    query = scored.writeStream.format("memory").queryName("stream_scored").start()
    try:
        query.processAllAvailable()
        save_scaled(3.0, tmp_path / "m")
        pq.write_table(pa.table({"x": [1.0]}), tmp_path / "in" / "1.parquet")
        with pytest.raises(ModelError, match=ANOTHER), errors_from_workers():
            query.processAllAvailable()
    finally:
        query.stop()
    assert [row.prediction for row in spark.table("stream_scored").collect()] == [2.0]


def test_a_model_file_that_was_replaced_is_refused_in_warm_workers_too(spark, numbers, tmp_path) -> None:
    """Of the same size and date; the signature stays, as when Keras itself saves over it."""
    # The archive's size depends on the time of saving, and on the number of layers made before, which names the layer.
    pairs = ((save_scaled(2.0, tmp_path / f"m-{n}"), save_scaled(3.0, tmp_path / f"other-{n}")) for n in range(100))
    files = ((model_dir, Path(model_dir, "model.keras"), Path(other, "model.keras")) for model_dir, other in pairs)
    model_dir, file, other = next(one for one in files if one[1].stat().st_size == one[2].stat().st_size)
    scored = sparkdl.transform(numbers, model_dir)
    warm(scored)
    before = file.stat()
    # The same content again is the same model.
    shutil.copy(file, tmp_path / "copy")
    os.replace(tmp_path / "copy", file)
    warm(scored)
    shutil.copy(other, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for rows in (scored, sparkdl.transform(numbers, model_dir)):
        with pytest.raises(ModelError, match="is not the file that its signature.json tells of"), errors_from_workers():
            rows.collect()


@pytest.fixture
def edited(spark, tmp_path, monkeypatch):
    """A model of a layer in a module that imports another one, and their files; driver and workers import them."""
    import keras

    folder, names = (
        tmp_path / "modules",
        [f"{name}_{tmp_path.name[-12:].replace('-', '_')}" for name in ("own", "factor")],
    )
    folder.mkdir()
    layer, factor = (folder / f"{name}.py" for name in names)
    factor.write_text("FACTOR = 2.0\n")
    layer.write_text(
        f"import keras\nimport {names[1]}\n\n\nclass Times(keras.layers.Layer):\n"
        f"    def call(self, x):\n        return x * {names[1]}.FACTOR\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    # Workers with another environment are other processes.
    monkeypatch.setitem(spark.sparkContext.environment, "PYTHONPATH", str(folder))
    own = importlib.import_module(names[0])
    model = keras.Sequential([keras.Input((1,), name="x"), own.Times()])
    sparkdl.save_model(model, str(tmp_path / "m"), inputs=["x"])
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "x.parquet")
    yield own, layer, factor
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("how", ["safe_mode=False", "custom_objects"])
def test_edited_code_is_other_code_for_outputs_and_for_warm_workers(spark, edited, tmp_path, how, caplog) -> None:
    own, _, factor = edited
    options = {"safe_mode": False} if how == "safe_mode=False" else {"custom_objects": {"Times": own.Times}}
    path, model_dir, out = (str(tmp_path / name) for name in ("x.parquet", "m", "out"))

    def score(**more) -> list[float]:
        assert sparkdl.score_parquet(spark, path, model_dir, out, **options, **more) == 2
        return pq.read_table(out).column("prediction").to_pylist()

    assert score() == [2.0, 4.0]
    with caplog.at_level("WARNING", logger="sparkdl"):
        assert score() == [2.0, 4.0]
    assert f"found {out}, scored from the same input" in caplog.text
    rows = spark.read.parquet(path)
    before = sparkdl.transform(rows, model_dir, **options)
    assert [row.prediction for row in before.collect()] == [2.0, 4.0]
    factor.write_text("FACTOR = 5.0\n")
    with pytest.raises(ConfigError, match="of another input, model, code or options; .* if_exists='replace'"):
        score()
    with pytest.raises(ModelError, match="factor_.* is not what it was on the driver .*; make the function again"):
        with errors_from_workers():
            before.collect()
    # Workers that have the old code fail, and end; at most two are warm.
    found, failures = None, []
    while found is None:
        try:
            with errors_from_workers():
                found = score(if_exists="replace")
        except ModelError as error:
            failures.append(str(error))
    assert found == [5.0, 10.0] and len(failures) <= 2
    assert all("before it was edited; run the query again" in failure for failure in failures)
    assert [row.prediction for row in sparkdl.transform(rows, model_dir, **options).collect()] == [5.0, 10.0]


def test_predict_without_spark_takes_masked_values_for_nulls(tmp_path) -> None:
    import keras

    rows = np.ma.masked_array([1.0, 99.0], mask=[False, True])
    for fill, name in ((7.0, "filled"), (None, "strict")):
        model = keras.Sequential([keras.Input((), name="x"), keras.layers.Reshape((1,))])
        sparkdl.save_model(model, str(tmp_path / name), inputs=[Numeric("x", scale="none", fill=fill)])
    assert sparkdl.load_model(str(tmp_path / "filled")).predict({"x": rows}).reshape(-1).tolist() == [1.0, 7.0]
    with pytest.raises(SchemaError, match="column 'x': null without a policy.* in 1 of 2 rows; row 1 is None"):
        sparkdl.load_model(str(tmp_path / "strict")).predict({"x": rows})
