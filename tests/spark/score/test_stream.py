"""Structured Streaming over a folder of files: every new file is scored once, also after a restart."""

import time

import pytest

import sparkdl
from sparkdl.features import Numeric


@pytest.fixture
def model_dir(tmp_path) -> str:
    import keras

    model = keras.Sequential([keras.Input((), name="x"), keras.layers.Reshape((1,)), keras.layers.Rescaling(2.0)])
    sparkdl.save_model(model, str(tmp_path / "model"), inputs=[Numeric("x", scale="none")])
    return str(tmp_path / "model")


def test_new_files_are_scored_exactly_once_across_restarts(spark, tmp_path, model_dir) -> None:
    incoming, out = tmp_path / "in", tmp_path / "out"
    incoming.mkdir()
    metrics = sparkdl.ScoreMetrics(spark)

    def arrive(first: int, last: int) -> None:
        rows = spark.range(first, last, numPartitions=1).selectExpr("id", "if(id = 3, null, double(id)) as x")
        rows.write.mode("append").parquet(str(incoming))

    def run() -> None:
        stream = spark.readStream.schema("id long, x double").parquet(str(incoming))
        column = sparkdl.predict_udf(model_dir, on_error="null")
        scored = sparkdl.transform(stream, model_dir, on_error="null", metrics=metrics).withColumn("again", column("x"))
        query = (
            scored.where("again is null or again >= 0")
            .writeStream.format("parquet")
            .option("path", str(out))
            .option("checkpointLocation", str(tmp_path / "checkpoint"))
            .trigger(availableNow=True)
            .start()
        )
        assert query.awaitTermination(60) and query.exception() is None

    arrive(0, 10)
    run()
    arrive(10, 15)
    run()
    run()
    rows = sorted(spark.read.parquet(str(out)).collect())
    assert [row.id for row in rows] == list(range(15))
    for row in rows:
        assert row.prediction == row.again == (None if row.id == 3 else 2.0 * row.id)
        assert (row.prediction_error is None) == (row.id != 3)
    assert metrics.figures()["rows"] == 15 and metrics.figures()["bad_rows"] == 1


def test_a_stream_that_is_stopped_leaves_no_task(spark, tmp_path, model_dir) -> None:
    stream = (
        spark.readStream.format("rate")
        .option("rowsPerSecond", 50)
        .load()
        .selectExpr("value as id", "double(value) as x")
    )
    query = sparkdl.transform(stream, model_dir).writeStream.format("memory").queryName("scored").start()
    while not query.recentProgress or not query.recentProgress[-1]["numInputRows"]:
        assert query.isActive, query.exception()
        query.awaitTermination(0.2)
    query.stop()
    assert not query.isActive and query.exception() is None
    # Spark ends the tasks and tells its status tracker a moment later, from threads of its own.
    limit = time.monotonic() + 30
    while spark.sparkContext.statusTracker().getActiveStageIds() and time.monotonic() < limit:
        time.sleep(0.05)
    assert spark.sparkContext.statusTracker().getActiveStageIds() == []
    assert all(row.prediction == 2.0 * row.id for row in spark.table("scored").collect())
