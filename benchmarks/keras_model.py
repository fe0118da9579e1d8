"""Horovod's KerasModel.transform on generated rows: a peer of benchmarks/score.py, which starts it.

    PYTHON benchmarks/keras_model.py FOLDER ROWS

PYTHON is an environment of its own (see benchmarks/train.py). Prints the seconds of `transform` in a warm session.
"""

import sys
import time
from pathlib import Path

WIDTH = 128


def main():
    folder, rows = sys.argv[1], int(sys.argv[2])
    import tensorflow as tf
    from horovod.spark.common.backend import SparkBackend
    from horovod.spark.common.store import LocalStore
    from horovod.spark.keras import KerasEstimator
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.ui.showConsoleProgress", "false").config("spark.driver.memory", "4g")
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    df = spark.range(0, rows, 1, 2).selectExpr(
        f"transform(sequence(1, {WIDTH}), i -> float(rand(7) * i)) as x",
        "transform(sequence(1, 10), i -> float(i)) as y",
    )
    layers = tf.keras.layers
    hidden = [layers.Dense(256, activation="relu") for _ in range(2)]
    model = tf.keras.Sequential([layers.Input((WIDTH,)), *hidden, layers.Dense(10, activation="softmax")])
    estimator = KerasEstimator(
        model=model,
        optimizer=tf.keras.optimizers.Adam(0.001),
        loss="mse",
        feature_cols=["x"],
        label_cols=["y"],
        batch_size=256,
        epochs=1,
        backend=SparkBackend(num_proc=2, use_gloo=True, verbose=0),
        store=LocalStore(str(Path(folder).resolve())),
        verbose=0,
    )
    scored = estimator.fit(df).transform(df)
    scored.write.format("noop").mode("overwrite").save()
    began = time.perf_counter()
    scored.write.format("noop").mode("overwrite").save()
    print("SECONDS", time.perf_counter() - began, flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
