"""Rows that cannot be scored: an error that names column, row and reason, or null beside rows that are as ever."""

import io

import numpy as np
import pytest
from pyspark.sql import functions as F

import sparkdl
from sparkdl import ModelError, SchemaError
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.features import Image, Numeric
from sparkdl.spark.errors import errors_from_workers

PARTS = 3


def png(value: int) -> bytes:
    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.new("L", (2, 2), value).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def rows(spark):
    """100 rows in 3 parts, of which three are bad: no number, no image, and a number that the model fails on."""
    table = [
        (i, None if i == 17 else float(i), b"no image" if i == 40 else png(i), 1000 if i == 73 else i)
        for i in range(100)
    ]
    return spark.createDataFrame(table, "id int, x double, face binary, place int").repartitionByRange(PARTS, "id")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> str:
    """A model with two outputs: the mean of number and pixels, and a row of a table of 100 by its place."""
    import keras

    inputs = {
        "x": keras.Input((), name="x"),
        "face": keras.Input((2, 2, 1), name="face", dtype="uint8"),
        "place": keras.Input((), name="place", dtype="int32"),
    }
    pixels = keras.layers.Reshape((4,))(keras.layers.Rescaling(1.0)(inputs["face"]))
    joined = keras.layers.Concatenate()([keras.layers.Reshape((1,))(inputs["x"]), pixels])
    mean = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.2), name="mean")(joined)
    table = keras.layers.Embedding(100, 2, name="table")(inputs["place"])
    path = str(tmp_path_factory.mktemp("bad") / "model")
    sparkdl.save_model(
        keras.Model(inputs, {"mean": mean, "table": table}),
        path,
        inputs=[Numeric("x", scale="none"), Image("face", height=2, width=2, channels=1), "place"],
    )
    return path


def test_transform_flags_bad_rows_with_reasons_and_scores_the_others(spark, rows, model_dir) -> None:
    metrics = sparkdl.ScoreMetrics(spark)
    scored = sparkdl.transform(rows, model_dir, on_error="null", metrics=metrics, batch_size=16)
    assert scored.columns == [*rows.columns, "prediction", "prediction_error"]
    found = {row.id: row for row in scored.collect()}
    assert sorted(found) == list(range(100))
    bad = {i: row.prediction_error for i, row in found.items() if row.prediction_error is not None}
    assert bad.keys() == {17, 40, 73} and all(found[i].prediction is None for i in bad)
    assert bad[17].startswith("column 'x': null without a policy")
    assert bad[40].startswith("column 'face': image cannot be decoded (no image in one of the formats")
    assert bad[73].startswith("the model fails: ") and "1000" in bad[73]
    for i, row in found.items():
        if i not in bad:
            assert abs(row.prediction.mean - i) <= 1e-4 and len(row.prediction.table) == 2
    figures = metrics.figures()
    assert (figures["tasks"], figures["rows"], figures["bad_rows"]) == (PARTS, 100, 3)


def test_a_column_function_gives_null_for_bad_rows(rows, model_dir) -> None:
    predict = sparkdl.predict_udf(model_dir, on_error="null", batch_size=16)
    found = rows.select("id", predict().alias("p"))
    assert {row.id for row in found.where("p.mean is null and p.table is null").collect()} == {17, 40, 73}
    assert found.where("p.mean is not null and p.table is not null").count() == 97


# A task that fails ends its Python worker, and TensorFlow takes seconds to start in the next: each way is tried once.
@pytest.mark.parametrize(
    ("way", "first", "last", "kind", "message"),
    [
        ("transform", 0, 17, SchemaError, r"column 'x': null without a policy \(.*\); row 17 of partition 0 is None"),
        (
            "column",
            40,
            41,
            SchemaError,
            r"column 'face': image cannot be decoded \(.*\); row 0 of partition 0 is b'no i",
        ),
        ("transform", 72, 73, ModelError, r"the model fails: .*1000.*; row 1 of partition 0"),
    ],
)
def test_by_default_a_bad_row_is_an_error_that_names_it(rows, model_dir, way, first, last, kind, message) -> None:
    some = rows.where(F.col("id").between(first, last)).coalesce(1)
    column = sparkdl.predict_udf(model_dir)
    scored = sparkdl.transform(some, model_dir) if way == "transform" else some.select(column())
    with pytest.raises(kind, match=message) as caught, errors_from_workers():
        scored.collect()
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 800


def test_nulls_of_every_type_of_prediction(spark, tmp_path) -> None:
    import keras

    model = keras.Sequential([keras.Input((), name="x"), keras.layers.Reshape((1,)), keras.layers.Dense(2, "softmax")])
    path = str(tmp_path / "model")
    sparkdl.save_model(model, path, inputs=[Numeric("x", scale="none")], label=["cat", "dog"])
    rows = spark.createDataFrame([(1.0,), (None,), (float("nan"),), (2.0,)], "x double").coalesce(1)
    column = sparkdl.predict_udf(path, returns="top_k", on_error="null")("x")
    for type_, scored in (
        (list, sparkdl.transform(rows, path, on_error="null")),
        (str, sparkdl.transform(rows, path, returns="class", on_error="null")),
        (list, rows.withColumn("prediction", column)),
    ):
        assert [type(row.prediction) for row in scored.collect()] == [type_, type(None), type(None), type_]


def test_null_is_told_from_nan_alone_and_inside_arrays_and_whole_numbers_keep_all_digits(spark, tmp_path) -> None:
    import keras

    shapes = {"x": ((), "float64"), "xs": ((2,), "float64"), "n": ((), "int64"), "times": ((2,), "float64")}
    inputs = {name: keras.Input(shape, name=name, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    outputs = {
        f"{name}_out": keras.layers.Reshape((-1,), name=f"{name}_out", dtype=shapes[name][1])(value)
        for name, value in inputs.items()
    }
    path = str(tmp_path / "model")
    units = {"times": "seconds"}
    encoders = [
        TensorEncoder(name, shape, shape, np.dtype(dtype), units.get(name, "number"))
        for name, (shape, dtype) in shapes.items()
    ]
    sparkdl.save_model(keras.Model(inputs, outputs), path, inputs=encoders)
    rows = spark.sql(
        """
        SELECT * FROM VALUES
            (0, double('NaN'), array(1D, double('NaN')), 9007199254740993L),
            (1, null, array(1D, 2D), 9007199254740995L),
            (2, 1D, array(1D, null), 9007199254740993L),
            (3, 1D, array(1D, 2D), null),
            (4, 1D, array(1D), 3L)
        AS rows(id, x, xs, n)
        """
    ).selectExpr("*", "array(timestamp_seconds(id), timestamp'2001-10-28 05:30:00Z') AS times")
    found = sparkdl.transform(rows, path, output_col="p", on_error="null").orderBy("id").collect()
    reasons = ["'x': null", "'xs': null inside", "'n': null", "'xs': axis 0 is not of"]
    assert all(row.p_error.startswith(f"column {reason}") for row, reason in zip(found[1:], reasons, strict=True))
    assert [row.p for row in found[1:]] == [None] * 4
    good = found[0].p
    assert np.isnan(good.x_out) and good.xs_out[0] == 1.0 and np.isnan(good.xs_out[1])
    assert good.n_out == 9007199254740993 and good.times_out == [0.0, 1_004_247_000.0]


def test_no_class_is_made_of_a_prediction_that_is_no_number(spark, tmp_path) -> None:
    import keras

    path = str(tmp_path / "model")
    model = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Activation("linear")])
    sparkdl.save_model(model, path, inputs=["x"], label=["cat", "dog"])
    rows = spark.createDataFrame([([0.1, 0.9],), ([float("nan"), 0.5],)], "x array<float>").coalesce(1)
    raw = [row.prediction for row in sparkdl.transform(rows, path).collect()]
    assert np.isnan(raw[1][0]) and raw[1][1] == 0.5
    classes = sparkdl.transform(rows, path, returns="class", on_error="null").collect()
    assert [row.prediction for row in classes] == ["dog", None] and "NaN: no class" in classes[1].prediction_error


def test_a_column_of_another_type_is_refused_before_any_job_or_at_the_first_batch(rows, model_dir) -> None:
    for column, message in {
        "string(x)": "column 'x': values of type string are not numbers",
        "timestamp_seconds(x)": "column 'x' held numbers when it was fitted, and is timestamp",
        "array(x)": "column 'x': rows are arrays of more axes",
        "interval '1' day": "column 'x'",
        "interval '1' month": "column 'x' is of type interval month",
    }.items():
        other = rows.withColumn("x", F.expr(column))
        with pytest.raises(SchemaError, match=message):
            sparkdl.transform(other, model_dir, on_error="null")
    other = rows.withColumn("x", F.expr("string(x)"))
    with pytest.raises(SchemaError, match="column 'x': values of type string"), errors_from_workers():
        other.select(sparkdl.predict_udf(model_dir, on_error="null")()).collect()
