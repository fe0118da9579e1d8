"""Rows that change while they are prepared: what was fitted would not fit what is written, so it is an error."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

import sparkdl
from sparkdl import DatasetError, PrepareConfig, Split
from sparkdl.data.prepare.row_changes import Change, blame
from sparkdl.data.prepare.row_sums import sums, sums_in
from sparkdl.features import Categorical, Numeric, Tensor


def drawn(values: pd.Series) -> pd.Series:
    """From 0 to 1, others each time: as random numbers are after a shuffle, or a model's answers with dropout."""
    return pd.Series(np.random.default_rng().random(len(values)))


CHANGING = {
    "Numeric": ("u", {"features": [Numeric("r")]}),
    "Numeric, median": ("u", {"features": [Numeric("r", fill="median")]}),
    "Numeric, array": ("array(u, x)", {"features": [Numeric("r")]}),
    "Categorical": ("string(int(u * 5))", {"features": [Categorical("r")]}),
    "Tensor": ("float(u)", {"features": ["x", Tensor("r")]}),
    # Of two classes, as many rows would be drawn twice now and then, and the column could not be named.
    "label": ("int(u * 50)", {"features": ["x"], "label": Categorical("r")}),
    "weight": ("u", {"features": ["x"], "weight": "r"}),
    "keep": ("string(u)", {"features": ["x"], "keep": ["r"]}),
    "time": ("current_timestamp()", {"features": [Numeric("x"), "r"]}),
    "key": ("int(u * 1e9)", {"features": ["x"], "splits": Split.fraction({"train": 0.5, "test": 0.5}, key="r")}),
}


@pytest.mark.parametrize("kind", CHANGING)
def test_a_column_that_changes_from_pass_to_pass_is_named(spark, tmp_path, kind) -> None:
    value, options = CHANGING[kind]
    rows = spark.range(600).selectExpr("id", "double(id) as x").withColumn("u", F.pandas_udf(drawn, "double")("x"))
    config = PrepareConfig(path=str(tmp_path / "d"), **options)
    with pytest.raises(DatasetError, match="^column 'r': the values change each time the DataFrame is read.*; cache"):
        sparkdl.prepare(rows.withColumn("r", F.expr(value)), config)
    assert list((tmp_path / "d").iterdir()) == []


def test_what_is_cached_is_prepared_as_it_is(spark, tmp_path, caplog) -> None:
    """Random numbers that stay are like others: standardised to mean 0 and deviation 1."""
    rows = spark.range(600).selectExpr("randn() as x", "rand() as y").cache()
    try:
        ds = sparkdl.prepare(rows, PrepareConfig(path=str(tmp_path / "d"), features=[Numeric("x")], keep=["y"]))
    finally:
        rows.unpersist()
    x = np.array([row.x for row in sparkdl.read_prepared(spark, ds.path, "train").collect()])
    assert x.mean() == pytest.approx(0, abs=1e-6) and x.std() == pytest.approx(1, abs=1e-6)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_chance_is_warned_of_before_the_rows_are_read(spark, tmp_path, caplog) -> None:
    rows = spark.range(600, numPartitions=2).selectExpr("randn(7) as x")  # by chance, and the same each time
    sparkdl.prepare(rows, PrepareConfig(path=str(tmp_path / "d"), features=[Numeric("x")]))
    assert "the DataFrame's plan is not deterministic" in caplog.text
    caplog.clear()
    others = spark.range(600).selectExpr("double(id) as x", "rand() as not_used")
    sparkdl.prepare(others, PrepareConfig(path=str(tmp_path / "e"), features=[Numeric("x")]))
    assert caplog.text == ""


def test_steady_values_of_any_kind_are_no_false_alarm(spark, tmp_path, caplog) -> None:
    plus_one = F.udf(lambda value: value + 1, "long")
    rows = spark.range(500).select(
        "id",
        F.expr("if(id % 3 = 0, double('NaN'), if(id % 5 = 0, null, -0.0D))").alias("x"),
        F.expr("timestamp_micros(id)").alias("t"),
        F.expr("array(float(id), if(id % 7 = 0, null, 1.0F))").alias("a"),
        F.expr("cast(id % 4 as string)").alias("c"),
        F.expr("map('k', id)").alias("m"),
        F.expr("encode(string(id), 'utf-8')").alias("b"),
        plus_one("id").alias("u"),
    )
    config = PrepareConfig(
        path=str(tmp_path / "d"),
        features=[Numeric("x", fill="median"), Numeric("t"), Numeric("a", fill=0.0), Categorical("c"), "u"],
        keep=["m", "b"],
        splits=Split.fraction({"train": 0.8, "test": 0.2}),
    )
    ds = sparkdl.prepare(rows, config)
    assert sparkdl.prepare(rows.repartition(3), config) == ds
    assert [r.getMessage()[:5] for r in caplog.records if r.levelno >= logging.WARNING] == ["found"]


def test_sums_are_the_same_in_spark_and_in_python(spark) -> None:
    hashes = spark.range(1000).select(F.xxhash64("id").alias("h"))
    import pyarrow as pa

    theirs = hashes.agg(sums("h")).collect()[0][0]
    assert tuple(theirs) == sums_in(pa.array([row.h for row in hashes.collect()], pa.int64()))


@pytest.mark.parametrize(
    ("changes", "splits", "message"),
    [
        # Averages of a cluster: in the last digits alone, and no row's split hangs on them.
        ([Change("mean", True)], None, ""),
        ([Change("mean", True)], Split.fraction({"train": 1.0}, key="id"), ""),
        ([Change("mean", True)], Split.fraction({"train": 1.0}, key="mean"), "^column 'mean': the values change"),
        ([Change("mean", True)], Split.fraction({"train": 1.0}), "^column 'mean': the values change"),
        ([Change("mean", True), Change("id", False)], None, "^column 'id': the values change"),
        ([], None, "counted otherwise: the input changed while it was read"),
    ],
)
def test_rounding_is_blamed_where_it_decides_a_split(changes, splits, message) -> None:
    config = PrepareConfig(path="d", features=["mean"], splits=splits)
    told = blame(changes, config, "counted otherwise")
    assert bool(told) == bool(message) and re.search(message, told)


def test_fractions_that_differ_in_their_last_digits_are_prepared_with_a_warning(spark, tmp_path, caplog) -> None:
    @F.pandas_udf("double")
    def rounded_otherwise(values: pd.Series) -> pd.Series:
        return values + np.random.default_rng().integers(0, 2, len(values)) * np.spacing(values)

    rows = spark.range(1, 600).selectExpr("id", "double(id) / 3 as x").select("id", rounded_otherwise("x").alias("x"))
    splits = Split.fraction({"train": 1.0}, key="id")
    sparkdl.prepare(rows, PrepareConfig(path=str(tmp_path / "d"), features=[Numeric("x")], splits=splits))
    assert "by the last digits of fractions alone; to have the same each time, cache it" in caplog.text


@pytest.mark.parametrize(
    ("of_batch", "harmless"), [("rounding", True), ("mean", False)], ids=["rounded by batch", "centred by batch"]
)
def test_a_function_whose_values_depend_on_the_batch_is_named(spark, tmp_path, caplog, of_batch, harmless) -> None:
    """The passes hand rows to Python in batches of other sizes: a network's answers are rounded in other ways there."""

    @F.pandas_udf("float")
    def r(values: pd.Series) -> pd.Series:
        x = values.astype("float32")
        last_digit = np.spacing(x) * np.float32(len(x) % 7 % 2)
        return x + last_digit if of_batch == "rounding" else x - x.mean()

    rows = spark.range(1, 3001, 1, 2).selectExpr("sqrt(id) as x", "array(id) as a").select(r("x").alias("r"), "a")
    config = PrepareConfig(path=str(tmp_path / "d"), features=[Numeric("r"), "a"])
    if harmless:
        sparkdl.prepare(rows, config)
        assert "values of 'r' were others" in caplog.text and "by the last digits of fractions alone" in caplog.text
    else:
        with pytest.raises(DatasetError, match="^column 'r': the values change each time the DataFrame is read.*cache"):
            sparkdl.prepare(rows, config)


def test_a_file_that_grew_behind_a_dataframe_is_refused(spark, tmp_path, caplog) -> None:
    """Spark reads it up to where it ended: 20,001 rows of 25,000, the last of them cut."""
    file = tmp_path / "in" / "a.csv"
    file.parent.mkdir()

    def write(rows):
        file.write_text("x\n" + "".join(f"{i}.5\n" for i in range(rows)))

    def read():
        return spark.read.csv(str(file.parent), header=True, inferSchema=True)

    config = PrepareConfig(path=str(tmp_path / "d"), features=[Numeric("x")])
    write(20_000)
    df, cached = read(), read().where("x >= 0").cache()
    cached.count()
    write(25_000)
    with pytest.raises(DatasetError, match=r"a.csv has changed \(from \d+ to \d+ bytes\) since .*; read it again \("):
        sparkdl.prepare(df.where("x > 1"), config)
    # All rows of before are in the cache, or none is to be had.
    try:
        assert sparkdl.prepare(cached, config).split("train").rows == 20_000
        assert "the rows come from a cache, and are those of before" in caplog.text
    finally:
        cached.unpersist()
    with pytest.raises(DatasetError, match="has changed"):
        sparkdl.prepare(cached, config)
    df = read()
    assert sparkdl.prepare(df, config).split("train").rows == 25_000
    caplog.clear()
    (file.parent / "b.csv").write_text("x\n1.0\n")
    assert sparkdl.prepare(df, config).split("train").rows == 25_000
    assert "1 files came to file:" in caplog.text and "read it again" in caplog.text


def test_a_file_that_changes_while_it_is_prepared_is_refused(spark, tmp_path) -> None:
    (tmp_path / "in").mkdir()
    path = str(tmp_path / "in" / "a.csv")
    with open(path, "w") as handle:
        handle.write("x\n" + "2.0\n" * 100)

    @F.udf("double")
    def grows(value):
        with open(path, "a") as handle:
            handle.write("1.0\n")
        return value

    df = spark.read.csv(str(tmp_path / "in"), header=True, inferSchema=True).select(grows("x").alias("x"))
    with pytest.raises(DatasetError, match="has changed .* since the DataFrame was made"):
        sparkdl.prepare(df, PrepareConfig(path=str(tmp_path / "d"), features=["x"]))
