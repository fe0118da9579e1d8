"""Scoring gives what Keras gives on the same rows, and keeps every row, id and column."""

import numpy as np
import pytest
from pyspark.sql import functions as F

import sparkdl
from sparkdl import ConfigError, ModelError, PrepareConfig, SchemaError
from sparkdl.features import Categorical, Image, Numeric
from sparkdl.spark.errors import errors_from_workers


def close(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return bool((np.abs(ours - theirs) <= 1e-6 + 1e-5 * np.abs(theirs)).all())


def saved(model, dataset, folder) -> str:
    """The model directory of a model that was not trained: its random weights predict as well as any."""
    from sparkdl.model.save import write_model

    raw_types = {name: dataset.raw_types[name] for name in dataset.features}
    write_model(
        model, str(folder), encoders=dataset.encoders, label_encoders=dataset.label_encoders, raw_types=raw_types
    )
    return str(folder)


@pytest.fixture(scope="module")
def digit_model(digits, digits_dataset, tmp_path_factory) -> str:
    import keras

    from examples.digits import build_model

    model = build_model(digits_dataset)
    model.optimizer.build(model.trainable_variables)
    # Center the logits, so that not all digits are taken for the same.
    pixels = np.array([row.pixels for row in digits.limit(200).collect()]).reshape(-1, 8, 8, 1)
    last = model.layers[-1]
    hidden = keras.Model(model.inputs[0], model.layers[-2].output)(pixels)
    last.bias.assign(-np.mean(hidden @ last.kernel, axis=0))
    return saved(model, digits_dataset, tmp_path_factory.mktemp("model") / "digits")


@pytest.fixture(scope="module")
def people(spark):
    rows = [(i, float(i % 50), ["clerk", "cook", "smith"][i % 3], [float(i), 1.0], i % 2) for i in range(300)]
    return spark.createDataFrame(rows, "id long, age double, job string, hours array<double>, income int")


@pytest.fixture(scope="module")
def people_dataset(people, tmp_path_factory):
    config = PrepareConfig(
        path=str(tmp_path_factory.mktemp("people") / "d"),
        features=[Numeric("age"), Categorical("job"), "hours"],
        label=Categorical("income"),
    )
    return sparkdl.prepare(people, config)


def people_model(outputs: str):
    import keras

    layers = keras.layers
    inputs = {
        "age": keras.Input((), name="age"),
        "job": keras.Input((), name="job", dtype="int32"),
        "hours": keras.Input((2,), name="hours"),
    }
    joined = layers.Concatenate()(
        [layers.Reshape((1,))(inputs["age"]), layers.Embedding(4, 3)(inputs["job"]), inputs["hours"]]
    )
    made = {
        "binary": layers.Dense(1, activation="sigmoid")(joined),
        "struct": {
            "flat": layers.Dense(2, name="flat")(joined),
            "grid": layers.Reshape((2, 3), name="grid")(layers.Dense(6)(joined)),
        },
    }[outputs]
    return keras.Model(inputs, made)


def test_sql_equals_keras_predict_with_every_id_once(spark, digits, digits_dataset, digit_model) -> None:
    sparkdl.register_udf(spark, "score_digit", digit_model)
    sparkdl.split(digits, digits_dataset).createOrReplaceTempView("raw_digits")
    found = spark.sql("SELECT id, pixels, score_digit(pixels) AS p FROM raw_digits WHERE split = 'test'").collect()
    kept = sparkdl.read_prepared(spark, digits_dataset.path, "test").select("id").collect()
    assert sorted(row.id for row in found) == sorted(row.id for row in kept)
    keras_model = sparkdl.load_model(digit_model).keras_model
    pixels = np.array([row.pixels for row in found], dtype=np.float32).reshape(-1, 8, 8, 1)
    assert close(np.array([row.p for row in found]), keras_model.predict(pixels, verbose=0))


@pytest.mark.parametrize("batch_size", [1, 7, 5000])
def test_the_batch_size_changes_nothing(digits, digit_model, batch_size) -> None:
    some = digits.where("id < 30").repartition(2)
    expected = {row.id: row.p for row in some.select("id", sparkdl.predict_udf(digit_model)().alias("p")).collect()}
    predict = sparkdl.predict_udf(digit_model, batch_size=batch_size)
    for row in some.select("id", predict("pixels").alias("p")).collect():
        assert close(np.array(row.p), np.array(expected[row.id]))


def test_transform_keeps_every_column_and_row(digits, digit_model) -> None:
    scored = sparkdl.transform(digits, digit_model, output_col="p")
    assert scored.columns == [*digits.columns, "p"] and scored.count() == digits.count()
    predict = sparkdl.predict_udf(digit_model)
    both = scored.withColumn("q", predict("pixels")).where("id % 100 = 0").collect()
    assert len(both) == 18 and all(close(np.array(row.p), np.array(row.q)) for row in both)


def test_a_class_is_the_most_probable_one(digits, digit_model) -> None:
    raw, chosen = sparkdl.predict_udf(digit_model), sparkdl.predict_udf(digit_model, returns="class")
    rows = digits.limit(200).select(raw("pixels").alias("p"), chosen("pixels").alias("c")).collect()
    assert all(int(np.argmax(row.p)) == row.c for row in rows) and len({row.c for row in rows}) > 1


def test_encoders_run_in_the_udf_and_columns_may_be_named_or_ordered(people, people_dataset, tmp_path) -> None:
    model_dir = saved(people_model("binary"), people_dataset, tmp_path / "m")
    rows = people.collect()
    columns = {name: [row[name] for row in rows] for name in ("age", "job", "hours")}
    expected = sparkdl.load_model(model_dir).predict(columns).reshape(-1)
    predict = sparkdl.predict_udf(model_dir)
    found = people.select("id", predict().alias("a"), predict("age", F.col("job"), "hours").alias("b")).collect()
    for row in found:
        assert row.a == row.b and close(np.array(row.a), expected[row.id])
    assert people.where(predict() > 0.5).count() == int((expected > 0.5).sum())
    chosen = sparkdl.transform(people, model_dir, returns="class").select("id", "prediction").collect()
    assert all(row.prediction == int(expected[row.id] > 0.5) for row in chosen)


def test_columns_in_another_order_than_the_inputs_are_refused(people_dataset, tmp_path) -> None:
    predict = sparkdl.predict_udf(saved(people_model("binary"), people_dataset, tmp_path / "m"))
    with pytest.raises(SchemaError, match="in another order than the model's inputs .age, job, hours."):
        predict("job", "age", "hours")


def test_a_logit_above_zero_is_the_second_class(people, people_dataset, tmp_path) -> None:
    import keras

    model = people_model("binary")
    shifted = keras.layers.Dense(1, kernel_initializer="ones", bias_initializer=keras.initializers.Constant(-0.4))
    logits = keras.Model(model.inputs, shifted(model.output))
    logits.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    logits._compile_loss.build(np.zeros((2, 1)), np.zeros((2, 1)))
    logits.optimizer.build(logits.trainable_variables)
    model_dir = saved(logits, people_dataset, tmp_path / "m")
    raw, chosen = sparkdl.predict_udf(model_dir), sparkdl.predict_udf(model_dir, returns="class")
    rows = people.select(raw().alias("raw"), chosen().alias("chosen")).collect()
    assert all(-0.41 < row.raw < 0.61 for row in rows)
    assert all(row.chosen == int(row.raw > 0) for row in rows) and {row.chosen for row in rows} <= {0, 1}


def test_unseen_categories_are_scored_as_out_of_vocabulary(people, people_dataset, tmp_path) -> None:
    model_dir = saved(people_model("binary"), people_dataset, tmp_path / "m")
    strange = people.limit(3).withColumn("job", F.lit("astronaut"))
    assert sparkdl.transform(strange, model_dir).where("prediction is not null").count() == 3


def test_several_outputs_are_a_struct_of_any_rank(people, people_dataset, tmp_path) -> None:
    model_dir = saved(people_model("struct"), people_dataset, tmp_path / "m")
    rows = people.limit(40).collect()
    expected = sparkdl.load_model(model_dir).predict({n: [r[n] for r in rows] for n in ("age", "job", "hours")})
    predict = sparkdl.predict_udf(model_dir)
    by_udf = {row.id: row.p for row in people.limit(40).select("id", predict().alias("p")).collect()}
    by_transform = {row.id: row.prediction for row in sparkdl.transform(people.limit(40), model_dir).collect()}
    for place, row in enumerate(rows):
        for found in (by_udf[row.id], by_transform[row.id]):
            assert close(np.array(found.flat), expected["flat"][place])
            assert close(np.array(found.grid), expected["grid"][place])


def test_a_frame_without_rows_is_scored(digits, digit_model) -> None:
    assert sparkdl.transform(digits.where("id < 0"), digit_model).collect() == []
    assert digits.where("id < 0").select(sparkdl.predict_udf(digit_model)("pixels")).collect() == []


def test_a_null_names_the_column_and_the_row(spark, digit_model) -> None:
    df = spark.createDataFrame([(1, [0.0] * 64), (2, None)], "id long, pixels array<float>").coalesce(1)
    with pytest.raises(SchemaError, match="column 'pixels': null"), errors_from_workers():
        sparkdl.transform(df, digit_model).collect()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda model, df: sparkdl.predict_udf(model, returns="clas"), ConfigError, "returns='clas'"),
        (lambda model, df: sparkdl.predict_udf(model, batch_size=0), ConfigError, "batch_size=0"),
        (lambda model, df: sparkdl.predict_udf(model + "x"), ModelError, "no model at"),
        (lambda model, df: sparkdl.predict_udf(model)("pixels", "id"), SchemaError, "takes 1 columns .pixels., 2 were"),
        (lambda model, df: sparkdl.transform(df.drop("pixels"), model), SchemaError, "input column 'pixels' is not in"),
        (lambda model, df: sparkdl.transform(df, model, output_col=""), ConfigError, "output_col=''"),
        (lambda model, df: sparkdl.register_udf(df.sparkSession, "sum", model), ConfigError, "function of Spark's own"),
        (
            lambda model, df: sparkdl.transform(df.select("*", "pixels"), model),
            SchemaError,
            "is 2 times in the DataFrame",
        ),
        (lambda model, df: sparkdl.transform(df, model, output_col="ID"), SchemaError, "already has a column 'ID'"),
        (lambda model, df: sparkdl.register_udf(df.sparkSession, "a b", model), ConfigError, "'a b' must name an SQL"),
    ],
)
def test_wrong_calls_are_refused_before_any_row(digits, digit_model, call, kind, message) -> None:
    with pytest.raises(kind, match=message):
        call(digit_model, digits)


def test_a_model_without_classes_gives_none(people, people_dataset, tmp_path) -> None:
    model_dir = saved(people_model("struct"), people_dataset, tmp_path / "m")
    with pytest.raises(ModelError, match="output 'flat' has no classes: neither its name nor its loss tells"):
        sparkdl.predict_udf(model_dir, returns="class")


def loaded_models(batches):
    """The Python worker and the models that it holds, by content and by identity."""
    import os

    import pyarrow as pa

    from sparkdl.score.worker import model_cache

    list(batches)
    for key, held in model_cache._MODELS.items():
        row = [pa.array([f"{os.getpid()} {key}"]), pa.array([id(held.model)], pa.int64())]
        yield pa.RecordBatch.from_arrays(row, ["held", "model"])


def test_a_model_stays_loaded_in_its_worker_when_the_udf_is_made_again(digits, digit_model) -> None:
    held: dict[str, set[int]] = {}
    for _ in range(3):
        scored = sparkdl.transform(digits.repartition(2), digit_model).where("prediction is not null")
        assert scored.count() == digits.count()
        for row in digits.repartition(2).mapInArrow(loaded_models, "held string, model long").collect():
            held.setdefault(row.held, set()).add(row.model)
    assert held and all(len(models) == 1 for models in held.values()), "a worker loaded a model again"


def test_own_classes_travel_to_the_workers(spark, tmp_path) -> None:
    import keras

    # A class of a function: workers cannot import it, so that it travels by value.
    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    model_dir = str(tmp_path / "m")
    sparkdl.save_model(keras.Sequential([keras.Input((1,)), Twice()]), model_dir, inputs=["x"])
    rows = spark.createDataFrame([(float(i),) for i in range(5)], "x double").coalesce(1)
    with pytest.raises(ModelError, match="the model holds Twice of module"), errors_from_workers():
        sparkdl.transform(rows, model_dir).collect()
    own = {"Twice": Twice}
    for scored in (
        sparkdl.transform(rows, model_dir, custom_objects=own),
        rows.select(sparkdl.predict_udf(model_dir, custom_objects=own)("x").alias("prediction")),
    ):
        assert [row.prediction for row in scored.collect()] == [0.0, 2.0, 4.0, 6.0, 8.0]
    with pytest.raises(ConfigError, match="custom_objects"):
        sparkdl.predict_udf(model_dir, custom_objects=[Twice])


def test_predict_takes_tables_and_dicts_without_spark(digits, digit_model) -> None:
    import pyarrow as pa

    rows = digits.limit(25).collect()
    model, pixels = sparkdl.load_model(digit_model), [row.pixels for row in rows]
    whole = model.predict({"pixels": pixels})
    assert whole.shape == (25, 10)
    assert close(model.predict(pa.table({"pixels": pixels}), batch_size=4), whole)
    assert close(model.predict({"pixels": np.array(pixels)}), whole)
    assert model.predict({"pixels": pa.array([], pa.list_(pa.float32()))}).shape == (0, 10)
    with pytest.raises(SchemaError, match="input column 'pixels' is missing"):
        model.predict({"pixel": pixels})


@pytest.mark.parametrize("time_zone", [pytest.param("UTC", marks=pytest.mark.soak), "America/New_York"])
def test_times_mean_the_same_in_any_time_zone_and_to_both_verbs(spark, tmp_path, time_zone) -> None:
    import keras

    rows = spark.createDataFrame([(i, 1_000_000_000.0 + 3600 * i) for i in range(48)], "id int, at double")
    rows = rows.select("id", F.col("at").cast("timestamp").alias("at"))
    dataset = sparkdl.prepare(rows, PrepareConfig(path=str(tmp_path / "d"), features=[Numeric("at", scale="minmax")]))
    model = keras.Sequential([keras.Input((), name="at"), keras.layers.Reshape((1,))])
    model_dir = saved(model, dataset, tmp_path / "model")
    before = spark.conf.get("spark.sql.session.timeZone")
    made_before = sparkdl.predict_udf(model_dir)
    spark.conf.set("spark.sql.session.timeZone", time_zone)
    try:
        by_udf = rows.select("id", made_before("at").alias("prediction"))
        for scored in (by_udf, sparkdl.transform(rows, model_dir)):
            values = [row["prediction"] for row in scored.orderBy("id").collect()]
            assert close(np.array(values).reshape(-1), np.arange(48) / 47)
        twice = spark.sql("SELECT timestamp'2001-10-28 05:30:00Z' AS at")
        # Half past one comes twice in New York that night.
        for scored in (twice.select(made_before("at").alias("prediction")), sparkdl.transform(twice, model_dir)):
            assert close(np.array(scored.first().prediction), np.array((1_004_247_000 - 1e9) / (47 * 3600)))
    finally:
        spark.conf.set("spark.sql.session.timeZone", before)


def test_nulls_beside_images_and_vectors_do_no_harm_to_the_others(spark, tmp_path) -> None:
    import keras
    from pyspark.ml.image import ImageSchema
    from pyspark.ml.linalg import Vectors, VectorUDT
    from pyspark.sql.types import StructField, StructType

    image = ("", 2, 2, 1, 0, bytearray([7] * 4))
    schema = StructType([*ImageSchema.imageSchema.fields, StructField("v", VectorUDT())])
    rows = spark.createDataFrame([(image, Vectors.dense([1.0, 3.0])), (None, None), (image, None)], schema).coalesce(1)
    config = PrepareConfig(
        path=str(tmp_path / "d"),
        features=[Image("image", height=2, width=2, channels=1, fill=9), Numeric("v", scale="none", fill="mean")],
    )
    dataset = sparkdl.prepare(rows, config)
    inputs = {"image": keras.Input((2, 2, 1), name="image", dtype="uint8"), "v": keras.Input((2,), name="v")}
    flat = keras.layers.Reshape((4,))(inputs["image"])
    made = {"pixels": keras.layers.Rescaling(1.0)(flat), "vector": keras.layers.Rescaling(1.0)(inputs["v"])}
    model_dir = saved(keras.Model(inputs, made), dataset, tmp_path / "model")
    for scored in (
        rows.select(sparkdl.predict_udf(model_dir)().alias("p")),
        sparkdl.transform(rows, model_dir, output_col="p"),
    ):
        found = [list(row.p.asDict().values()) for row in scored.collect()]
        assert found == [[[7.0] * 4, [1.0, 3.0]], [[9.0] * 4, [1.0, 3.0]], [[7.0] * 4, [1.0, 3.0]]]
