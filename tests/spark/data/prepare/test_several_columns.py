"""`Numeric([…], name=…)`: several columns are one input, in prepare, splits and every way of scoring."""

import numpy as np
import pytest
from pyspark.sql import functions as F

import sparkdl
from sparkdl import ConfigError, PrepareConfig, SchemaError, Split
from sparkdl.data.feed.feed import Feed
from sparkdl.data.prepare.splits.apply import split
from sparkdl.features import Categorical, Numeric
from sparkdl.model.save import write_model
from sparkdl.spark.errors import errors_from_workers

SEVERAL = ["age", "hours", "pay", "user.sure"]
NUMBERS = Numeric(SEVERAL, name="numbers", fill="median")


@pytest.fixture(scope="module")
def rows(spark):
    return spark.range(300).selectExpr(
        "id",
        "int(id % 50) AS Age",
        "float(id / 7) AS hours",
        "IF(id % 9 = 1, null, cast(id / 3 AS decimal(12,4))) AS pay",
        "named_struct('sure', id % 3 = 0) AS user",
    )


@pytest.fixture(scope="module")
def dataset(rows, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("several") / "data")
    splits = Split.fraction({"train": 0.7, "test": 0.3}, seed=1)
    return sparkdl.prepare(rows, PrepareConfig(path=path, features=[NUMBERS, Numeric("age")], splits=splits))


@pytest.fixture(scope="module")
def model_dir(dataset, tmp_path_factory):
    import keras

    inputs = {"numbers": keras.Input((4,), name="numbers"), "age": keras.Input((), name="age")}
    outputs = {f"{name}_out": keras.layers.Reshape((-1,), name=f"{name}_out")(value) for name, value in inputs.items()}
    path = str(tmp_path_factory.mktemp("several") / "model")
    types = dataset.raw_types_of_features
    write_model(keras.Model(inputs, outputs), path, encoders=dataset.encoders, label_encoders=(), raw_types=types)
    return path


def raw_values(rows) -> np.ndarray:
    """The raw values in float64, NaN for null, shape ``(rows, 4)``."""
    several = [F.col(name).cast("double").alias(f"c{i}") for i, name in enumerate(SEVERAL)]
    return np.array(rows.select(*several).collect(), dtype=np.float64)


def test_each_column_has_statistics_of_its_own(rows, dataset) -> None:
    encoder = dataset.features["numbers"]
    assert encoder.columns == tuple(SEVERAL) and encoder.shape == (4,) and dataset.splits == ("train", "test")
    types = {"age": "int", "hours": "float", "pay": "decimal(12,4)", "user.sure": "boolean"}
    assert dict(dataset.raw_types) == types
    values = raw_values(split(rows, dataset).where("split = 'train'"))
    np.testing.assert_allclose(encoder.mean, np.nanmean(values, axis=0), rtol=1e-12)
    assert encoder.fill == tuple(np.nanmedian(values, axis=0))
    filled = np.where(np.isnan(values), encoder.fill, values)
    expected = ((filled - encoder.mean) / encoder.std).astype(np.float32)
    feed = Feed(dataset, dataset.split("train"), rank=0, world_size=1, global_batch_size=16, seed=0)
    place = [group.fields[0].name for group in dataset.layout.groups].index("numbers")
    fed = [
        row for b in feed.blocks([0]) for i, j in zip(b.starts, b.stops, strict=True) for row in b.arrays[place][i:j]
    ]
    assert sorted(map(tuple, fed)) == sorted(map(tuple, expected))


def test_a_wider_table_is_divided_alike_and_lost_digits_are_refused(rows, dataset) -> None:
    wider = rows.withColumn("hours", F.col("hours").cast("double")).withColumn("age", F.col("age").cast("bigint"))
    ours = split(rows, dataset).select("id", "split")
    assert split(wider, dataset).select("id", "split").exceptAll(ours).count() == 0
    with pytest.raises(SchemaError, match="column 'pay', which was 'decimal.12,4.' when it was prepared"):
        split(rows.withColumn("pay", F.col("pay").cast("float")), dataset)
    # A column that is not read may have the input's name.
    beside = split(rows.withColumn("numbers", F.lit(1)), dataset, column="part")
    assert beside.columns == [*rows.columns, "numbers", "part"]
    assert beside.selectExpr("id", "part").exceptAll(ours).count() == 0


def test_rows_that_have_nulls_in_other_columns_are_other_rows(spark, tmp_path) -> None:
    """Spark's hash passes over nulls in arrays, so that they had one place in the order and one split."""
    rows = spark.range(400).selectExpr("IF(id % 2 = 0, null, id DIV 2) AS a", "IF(id % 2 = 1, null, id DIV 2) AS b")
    splits = Split.fraction({"train": 0.5, "test": 0.5}, seed=1)
    config = PrepareConfig(path=str(tmp_path / "d"), features=[Numeric(["a", "b"], name="both", fill=0)], splits=splits)
    dataset = sparkdl.prepare(rows, config)
    parts = {(row.a, row.b): row.split for row in split(rows, dataset).collect()}
    apart = sum(parts[number, None] != parts[None, number] for number in range(200))
    assert 60 < apart < 140


def test_every_way_of_scoring_gives_the_same_bits(spark, rows, dataset, model_dir, tmp_path) -> None:
    encoder = dataset.features["numbers"]
    values = raw_values(rows)
    expected = ((np.where(np.isnan(values), encoder.fill, values) - encoder.mean) / encoder.std).astype(np.float32)

    def equal(scored) -> bool:
        return np.array_equal(np.array([row["p"]["numbers_out"] for row in scored.collect()], np.float32), expected)

    assert equal(sparkdl.transform(rows, model_dir, output_col="p"))
    udf = sparkdl.predict_udf(model_dir)
    # The model takes the raw columns once each, though age is part of two inputs.
    given = [F.col("age"), F.col("hours"), F.col("pay"), F.col("user.sure")]
    assert equal(rows.select(udf(*given).alias("p")))
    sparkdl.register_udf(spark, "several", model_dir)
    rows.createOrReplaceTempView("several_rows")
    assert equal(spark.sql("SELECT several(age, hours, pay, user.sure) AS p FROM several_rows"))
    flat = rows.select("id", F.col("age").alias("age"), "hours", "pay", F.col("user.sure").alias("user.sure"))
    model = sparkdl.load_model(model_dir)
    columns = {name: [row[name] for row in flat.collect()] for name in SEVERAL}
    inputs = model.encode(columns)
    assert np.array_equal(inputs["numbers"], expected)


def test_a_savedmodel_takes_the_columns_as_one_tensor(rows, dataset, model_dir, tmp_path) -> None:
    import tensorflow as tf

    sparkdl.export_saved_model(model_dir, str(tmp_path / "saved"))
    values = raw_values(rows)
    serve = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    found = serve(numbers=tf.constant(values), age=tf.constant(values[:, 0]))["numbers_out"].numpy()
    encoder = dataset.features["numbers"]
    filled = np.where(np.isnan(values), encoder.fill, values)
    assert np.array_equal(found, ((filled - encoder.mean) / encoder.std).astype(np.float32))


def test_a_bad_value_is_named_with_its_own_column(rows, model_dir, tmp_path) -> None:
    def prepared(frame, feature=NUMBERS, **options):
        return sparkdl.prepare(frame, PrepareConfig(path=str(tmp_path / "d"), features=[feature], **options))

    without = Numeric(SEVERAL, name="numbers")
    missing = "column 'pay': null or NaN without a policy.*Missing values without a policy are in column 'pay' .34 of"
    with pytest.raises(SchemaError, match=missing):
        prepared(rows, without)
    endless = rows.withColumn("hours", F.when(F.col("id") == 7, F.lit(float("inf"))).otherwise(F.col("hours")))
    with pytest.raises(SchemaError, match=r"column 'hours': infinite value \(inf\) in 1 of"):
        prepared(endless)
    with pytest.raises(SchemaError, match="column 'hours' is 'string'; an input of several columns takes plain"):
        prepared(rows.withColumn("hours", F.lit("7")))
    with pytest.raises(SchemaError, match="column 'pay': the train split has no value that is not null"):
        prepared(rows.withColumn("pay", F.lit(None).cast("int")))
    with pytest.raises(SchemaError, match="the model's input column 'hours' is not in the DataFrame"):
        sparkdl.transform(rows.drop("hours"), model_dir)
    bad = sparkdl.transform(endless, model_dir, output_col="p", on_error="null").where("p_error is not null").collect()
    assert [(row["id"], row["p_error"]) for row in bad] == [(7, "column 'hours': infinite value (inf)")]
    with pytest.raises(SchemaError, match=r"column 'hours': infinite value \(inf\); row \d+ of partition \d"):
        with errors_from_workers():
            sparkdl.transform(endless, model_dir).collect()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"keep": ["Numbers"]}, "name='numbers' is a column, or another input"),
        ({"label": Numeric(["a", "b"], name="both")}, "label 'both': give several columns as several labels"),
        ({"splits": Split.column("numbers")}, "name='numbers' is a column, or another input"),
        ({"label": Categorical("NUMBERS")}, "name='numbers' is a column, or another input, that is read, too"),
        ({"features": [NUMBERS, Numeric(["x", "y"], name="Numbers")]}, "name='numbers' is a column, or another input"),
    ],
)
def test_a_name_that_a_column_has_is_refused(options, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        PrepareConfig(**{"path": "unused", "features": [NUMBERS], **options})
