"""A model's life in Spark's Python workers: loaded once, in small closures, never another one than was asked for."""

import json
import logging
import re
import shutil
import threading
import time
from pathlib import Path

import cloudpickle
import pytest

import sparkdl
from sparkdl import ConfigError, ModelError, progress
from sparkdl.data.features.text import TextEncoder
from sparkdl.spark.errors import errors_from_workers


def pid_model(folder: Path, *, scale: float = 1.0):
    """A model that predicts the number of the process it runs in, and the class that it needs."""
    import keras

    class Process(keras.layers.Layer):
        def call(self, x):
            import os

            import tensorflow as tf

            number = tf.numpy_function(lambda: float(os.getpid()), [], tf.float64, stateful=True)
            return tf.zeros_like(x) + tf.cast(tf.reshape(number, ()), x.dtype)

    model = keras.Sequential([keras.Input((1,), name="x"), Process(), keras.layers.Rescaling(scale)])
    sparkdl.save_model(model, str(folder), inputs=["x"])
    return str(folder), {"Process": Process}


def scores(factor: float, folder: Path) -> str:
    """The directory of a model that multiplies."""
    import keras

    model = keras.Sequential([keras.Input((1,), name="x"), keras.layers.Rescaling(factor)])
    sparkdl.save_model(model, str(folder), inputs=["x"])
    return str(folder)


@pytest.fixture(scope="module")
def numbers(spark):
    return spark.range(400, numPartitions=4).selectExpr("id", "float(id) as x")


def test_a_model_is_loaded_once_in_each_worker_whatever_asks_for_it(spark, numbers, tmp_path) -> None:
    model_dir, own = pid_model(tmp_path / "m")
    metrics = sparkdl.ScoreMetrics(spark)
    how = {"metrics": metrics, "custom_objects": own}
    processes: set[float] = set()

    def score(way: str) -> None:
        if way == "transform":
            scored = sparkdl.transform(numbers, model_dir, **how)
        else:
            scored = numbers.select(sparkdl.predict_udf(model_dir, **how)("x").alias("prediction"))
        processes.update(row.prediction for row in scored.distinct().select("prediction").collect())

    # One after the other, made anew each time, and four at once.
    for way in ("transform", "udf", "transform", "udf"):
        score(way)
    queries = [threading.Thread(target=score, args=(way,)) for way in ("transform", "udf") * 2]
    for query in queries:
        query.start()
    for query in queries:
        query.join()
    figures = metrics.figures()
    assert figures["model_loads"] == len(processes) and figures["rows"] == 8 * 400
    assert figures["seconds"] >= figures["predict_seconds"] > 0 and figures["load_seconds"] > 0
    metrics.save(str(tmp_path / "score.json"))
    assert json.loads((tmp_path / "score.json").read_text()) == figures


def test_the_tasks_of_a_job_are_counted_while_it_runs(spark, caplog) -> None:
    seen = []

    def look(batches):
        yield from batches

    def counted(bar, tasks):
        """What is counted once Spark's listener has heard of the end of so many tasks; it lags behind the job's."""
        limit = time.monotonic() + 30
        while (found := bar._tasks())[1] < tasks and time.monotonic() < limit:
            time.sleep(0.05)
        return found

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, logger="sparkdl.progress"):
        patch.setattr(progress, "_TELL_SECONDS", 0.05)
        with progress.TasksProgress(spark, "write") as bar:
            spark.range(8, numPartitions=4).mapInArrow(look, "id long").collect()
            seen.append(counted(bar, 4))
            spark.range(8, numPartitions=3).mapInArrow(look, "id long").collect()
            seen.append(counted(bar, 7))
        spark.range(8, numPartitions=5).collect()
        assert bar._tasks() == seen[-1], "jobs after the block count"
    assert seen == [(4, 4), (7, 7)]
    assert caplog.messages and all(re.fullmatch(r"write: \d of \d tasks", line) for line in caplog.messages)


def test_a_closure_is_small_whatever_the_vocabulary(tmp_path) -> None:
    import keras

    words = tuple(f"a rather long word that is number {i}" for i in range(20_000))
    model = keras.Sequential([keras.Input((4,), name="note", dtype="int32"), keras.layers.Embedding(20_002, 2)])
    model_dir = str(tmp_path / "m")
    sparkdl.save_model(model, model_dir, inputs=[TextEncoder("note", words, 4, "")])
    assert len(cloudpickle.dumps(sparkdl.predict_udf(model_dir))) < 100_000


def test_a_replaced_model_is_refused_and_never_scored_by_an_old_udf(numbers, tmp_path) -> None:
    model_dir = scores(2.0, tmp_path / "m")
    scored = sparkdl.transform(numbers, model_dir)
    shutil.rmtree(model_dir)
    scores(3.0, tmp_path / "m")
    with pytest.raises(ModelError, match="holds another model than when the UDF was made"), errors_from_workers():
        scored.collect()
    again = sparkdl.transform(numbers, model_dir).where("id = 5").collect()
    assert [row.prediction for row in again] == [15.0]


def test_a_model_file_that_was_changed_is_refused(tmp_path) -> None:
    model_dir = scores(2.0, tmp_path / "m")
    file = tmp_path / "m" / "model.keras"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="is not the file that its signature.json tells of"):
        sparkdl.load_model(model_dir)


def test_a_signature_of_a_newer_version_is_refused_on_the_driver(numbers, tmp_path) -> None:
    model_dir = scores(2.0, tmp_path / "m")
    file = tmp_path / "m" / "signature.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    with pytest.raises(ModelError, match="format_version 99"):
        sparkdl.transform(numbers, model_dir)


def test_old_models_make_room_within_the_budget(numbers, tmp_path) -> None:
    """Runs in this process: what a worker holds is the same code."""
    from sparkdl.score.options import ScoreOptions
    from sparkdl.score.worker import model_cache
    from sparkdl.score.worker.metrics import Figures
    from sparkdl.score.worker.spec import score_spec

    options = ScoreOptions(batch_size=8, device="cpu")
    tasks = [score_spec(scores(factor, tmp_path / str(factor)), options)[0] for factor in (2.0, 3.0, 4.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_cache, "_MODELS", type(model_cache._MODELS)())
        patch.setattr(model_cache, "_weights_bytes", lambda model: 40)
        patch.setattr(model_cache, "MODELS_BYTES", 100)
        figures = Figures()
        first, second = (model_cache.loaded_model(task, figures) for task in tasks[:2])
        assert model_cache.loaded_model(tasks[0], figures) is first
        model_cache.loaded_model(tasks[2], figures)
        # The second is the one that was not used for longest.
        assert model_cache.loaded_model(tasks[0], figures) is first and figures.values["model_loads"] == 3
        assert model_cache.loaded_model(tasks[1], figures) is not second and len(model_cache._MODELS) == 2


def test_a_gpu_that_is_asked_for_and_missing_is_told() -> None:
    """Runs in this process: a worker does the same."""
    from sparkdl.score.worker.device import prepare_tensorflow

    with pytest.raises(ConfigError, match="device='gpu' but TensorFlow on .* sees no GPU .Spark gave the task none"):
        prepare_tensorflow("gpu")
