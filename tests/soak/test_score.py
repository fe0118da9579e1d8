"""Scoring on executors of their own, and a million images of which two cannot be scored."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import functions as F

import local_cluster
import sparkdl
from sparkdl.features import Image

pytestmark = pytest.mark.timeout(500)

DRIVER = """
import json, os, sys, threading
import keras
from pyspark.sql import SparkSession
import sparkdl
from sparkdl.features import Tensor
from sparkdl.spark.errors import own_error_in

class Process(keras.layers.Layer):
    # The process that predicts, and the GPU that it was given.
    def call(self, x):
        import os
        import tensorflow as tf

        def seen():
            return float(os.getpid()), float(os.environ.get("CUDA_VISIBLE_DEVICES", "-1") or "-1")

        pid, gpu = tf.numpy_function(seen, [], [tf.float64, tf.float64], stateful=True)
        return tf.zeros_like(x) + tf.cast(tf.stack([tf.reshape(pid, ()), tf.reshape(gpu, ())]), x.dtype)

master, folder, conf = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
builder = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
for name, value in conf.items():
    builder = builder.config(name, value)
spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
model_dir = folder + "/model"
# Doubles: the number of a process is more than float32 can tell apart.
model = keras.Sequential([keras.Input((2,), name="x", dtype="float64"), Process(dtype="float64")])
sparkdl.save_model(model, model_dir, inputs=[Tensor("x", shape=(2,), dtype="float64")])
metrics = sparkdl.ScoreMetrics(spark)
how = {"metrics": metrics, "custom_objects": {"Process": Process}}
rows = spark.range(4000, numPartitions=8).selectExpr("id", "array(double(id), 0D) as x")
seen = set()

def score(way):
    if way == "transform":
        scored = sparkdl.transform(rows, model_dir, **how)
    else:
        scored = rows.withColumn("prediction", sparkdl.predict_udf(model_dir, **how)("x"))
    seen.update(tuple(row.prediction) for row in scored.select("prediction").distinct().collect())

for way in ("transform", "udf", "transform", "udf"):
    score(way)
queries = [threading.Thread(target=score, args=(way,)) for way in ("transform", "udf") * 2]
for query in queries:
    query.start()
for query in queries:
    query.join()
told = {"seen": sorted(seen), "figures": metrics.figures()}
try:
    sparkdl.transform(rows, model_dir, device="gpu", **how).collect()
except Exception as error:
    told["gpu"] = str(own_error_in(str(error)))
open(folder + "/told.json", "w").write(json.dumps(told))
spark.stop()
"""


def told_by_cluster(folder: Path, **conf: str) -> dict:
    command = [sys.executable, "-c", DRIVER, local_cluster.MASTER, str(folder), json.dumps(conf)]
    env = local_cluster.environment(folder)
    done = subprocess.run(command, env=env, cwd=folder, text=True, timeout=250, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


def test_a_model_is_loaded_once_in_each_worker_of_every_executor(tmp_path) -> None:
    told = told_by_cluster(tmp_path)
    processes = {pid for pid, _ in told["seen"]}
    assert len(processes) >= 2 and told["figures"]["model_loads"] == len(processes)
    assert told["figures"]["rows"] == 8 * 4000


def test_a_worker_sees_the_gpu_that_spark_gave_its_task_and_says_if_tensorflow_has_none(tmp_path) -> None:
    script = tmp_path / "gpus.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["3"]}'\n""")
    script.chmod(0o755)
    amounts = {f"spark.{who}.resource.gpu.amount": "1" for who in ("worker", "executor", "task")}
    told = told_by_cluster(tmp_path, **amounts, **{"spark.worker.resource.gpu.discoveryScript": str(script)})
    assert {gpu for _, gpu in told["seen"]} == {3.0}
    assert "device='gpu' but TensorFlow on" in told["gpu"] and "Spark gave the task 3" in told["gpu"]


def png(pixel: int) -> bytes:
    from PIL import Image as Pillow

    content = io.BytesIO()
    Pillow.new("L", (4, 4), pixel).save(content, "PNG")
    return content.getvalue()


def test_two_bad_rows_in_a_million_are_flagged_and_no_other(spark, tmp_path) -> None:
    import keras

    inputs = keras.Input((4, 4, 1), name="face", dtype="uint8")
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1.0)(inputs))
    model_dir = str(tmp_path / "model")
    sparkdl.save_model(keras.Model(inputs, mean), model_dir, inputs=[Image("face", height=4, width=4, channels=1)])
    faces = spark.createDataFrame([(pixel, png(pixel)) for pixel in range(256)], "pixel long, face binary")
    rows = spark.range(1_000_000).withColumn("pixel", F.col("id") % 256).join(F.broadcast(faces), "pixel")
    face = F.expr("CASE id WHEN 123456 THEN null WHEN 654321 THEN substring(face, 1, 45) ELSE face END")
    metrics = sparkdl.ScoreMetrics(spark)
    scored = sparkdl.transform(rows.withColumn("face", face), model_dir, on_error="null", metrics=metrics)
    scored.select("id", "pixel", "prediction", "prediction_error").write.parquet(str(tmp_path / "scored"))
    scored = spark.read.parquet(str(tmp_path / "scored"))
    bad = {row.id: row.prediction_error for row in scored.where("prediction is null").collect()}
    assert bad.keys() == {123_456, 654_321}
    assert "null without a policy" in bad[123_456] and "image cannot be decoded" in bad[654_321]
    good = scored.where("prediction_error is null and abs(prediction - pixel) < 1e-3").agg(F.countDistinct("id"))
    assert good.first()[0] == 999_998
    assert (metrics.figures()["rows"], metrics.figures()["bad_rows"]) == (1_000_000, 2)
