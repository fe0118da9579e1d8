"""Horovod's KerasEstimator on generated rows: a peer of benchmarks/train.py, which starts it.

    PYTHON benchmarks/keras_estimator.py FOLDER ROWS WIDTH BATCH EPOCHS

PYTHON is an environment of its own (see benchmarks/train.py). Prints the seconds of `fit` in a warm session.
"""

import sys
import time
from pathlib import Path


def main():
    folder, (rows, width, batch, epochs) = sys.argv[1], map(int, sys.argv[2:])
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
        f"transform(sequence(1, {width}), i -> float(rand(7) * i)) as x", "float(id % 10) as y"
    )
    df.selectExpr("sum(x[0])").collect()
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input((width,)), layers.Dense(64, activation="relu"), layers.Dense(1)])
    estimator = KerasEstimator(
        model=model,
        optimizer=tf.keras.optimizers.Adam(0.001),
        loss="mse",
        feature_cols=["x"],
        label_cols=["y"],
        batch_size=batch,
        epochs=epochs,
        backend=SparkBackend(num_proc=2, use_gloo=True, verbose=0),
        store=LocalStore(str(Path(folder).resolve())),
        verbose=0,
    )
    began = time.perf_counter()
    estimator.fit(df)
    print("SECONDS", time.perf_counter() - began, flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
