"""The main job from end to end, on 1,797 real images of handwritten digits: prepare, train, score. `make demo` runs it.

The functions `read` and `build_model` are also what conf/prepare.yaml, conf/train.yaml and conf/score.yaml name.
"""

import logging
import os
import sys
import time
from pathlib import Path

import numpy as np

import sparkdl
from sparkdl import LaunchConfig, PrepareConfig, Split, TrainConfig
from sparkdl.features import Categorical, Tensor


def read(spark):
    """Raw rows: id, pixels (64 numbers from 0 to 16), digit. The images come with scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = [(i, p.tolist(), int(d)) for i, (p, d) in enumerate(zip(digits.data, digits.target, strict=True))]
    return spark.createDataFrame(rows, "id long, pixels array<float>, digit int")


def build_model(ds):
    """A small convolutional network; runs in every rank."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="pixels"),
            layers.Rescaling(1 / 16),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu"),
            layers.Dense(len(ds.classes), activation="softmax", name="digit"),
        ]
    )
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def session(folder):
    """A Spark session on two cores of this machine; Spark's own log goes to a file."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    (folder / "events").mkdir(parents=True)
    terminal = os.dup(2)
    with open(folder / "spark.log", "wb") as log:
        os.dup2(log.fileno(), 2)  # the Java process inherits it
        try:
            return (
                SparkSession.builder.master("local[2]")
                .appName("sparkdl digits")
                .config("spark.ui.enabled", "false")
                .config("spark.ui.showConsoleProgress", "false")
                .config("spark.eventLog.enabled", "true")
                .config("spark.eventLog.compress", "false")
                .config("spark.eventLog.dir", (folder / "events").as_uri())
                .getOrCreate()
            )
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def draw(path, history, confusion, samples):
    """The picture: curves of loss and accuracy, the confusion matrix, sample digits with their predictions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=(15, 8.5), layout="constrained")
    curves, grid = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    *axes, matrix = curves.subplots(1, 3)
    epochs = [record["epoch"] + 1 for record in history]
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        axis.plot(epochs, [record[name] for record in history], label="train")
        axis.plot(epochs, [record[f"val_{name}"] for record in history], label="validation")
        axis.set(title=name.capitalize(), xlabel="epoch")
        axis.legend()
    matrix.imshow(confusion, cmap="Blues")
    matrix.set(title="Test rows", xlabel="predicted", ylabel="digit", xticks=range(10), yticks=range(10))
    for i, j in np.argwhere(confusion):
        matrix.text(j, i, confusion[i, j], ha="center", va="center", color="white" if i == j else "black")
    for axis, row in zip(grid.subplots(2, 12).flat, samples, strict=False):
        right = row.predicted == row.digit
        axis.imshow(np.reshape(row.pixels, (8, 8)), cmap="gray_r")
        title = f"{row.predicted}" if right else f"{row.predicted}, not {row.digit}"
        axis.set_title(title, color="black" if right else "red")
        axis.axis("off")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    """Prepare, train on two ranks, score the held-out rows in SQL, show what came out."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("sparkdl.progress").setLevel(logging.INFO)
    folder = (Path("build") / "demo" / time.strftime("run-%Y%m%d-%H%M%S")).absolute()
    data, run, picture = folder / "data", folder / "train", folder / "digits.png"
    splits = Split.fraction({"train": 0.8, "val": 0.1, "test": 0.1}, seed=7, key="id")
    inputs = {"features": [Tensor("pixels", shape=(8, 8, 1))], "label": Categorical("digit"), "keep": ["id"]}
    spark = session(folder)
    try:
        print("prepare: Spark reads, divides, encodes and writes Parquet", flush=True)
        began = time.monotonic()
        raw = read(spark)
        ds = sparkdl.prepare(raw, PrepareConfig(path=str(data), splits=splits, seed=7, **inputs))
        speeds = {"prepare": sum(ds.split(name).rows for name in ds.splits) / (time.monotonic() - began)}

        print("train: 2 ranks in a barrier stage, fed by Petastorm, reduced by Horovod", flush=True)
        config = TrainConfig(run_dir=str(run), epochs=20, global_batch_size=64, seed=7)
        result = sparkdl.fit(build_model, ds, config, launch=LaunchConfig(num_workers=2))
        speeds["train"] = max(record["rows_per_second"] for record in result.history)

        print("score: one SQL query over the raw held-out rows", flush=True)
        began = time.monotonic()
        sparkdl.register_udf(spark, "predict_digit", result.model_dir, returns="class")
        sparkdl.split(raw, ds).createOrReplaceTempView("digits")
        query = "SELECT *, predict_digit(pixels) AS predicted FROM digits WHERE split = 'test' ORDER BY id"
        scored = spark.sql(query).collect()
        speeds["score"] = len(scored) / (time.monotonic() - began)
    finally:
        spark.stop()

    confusion = np.zeros((10, 10), dtype=int)
    np.add.at(confusion, ([row.digit for row in scored], [row.predicted for row in scored]), 1)
    draw(picture, result.history, confusion, sorted(scored, key=lambda row: row.digit == row.predicted))
    print(f"\ntest accuracy {np.trace(confusion) / confusion.sum():.4f} over {len(scored)} held-out rows")
    print("confusion matrix (row: digit, column: prediction)", confusion, sep="\n")
    figures = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
    print(f"rows/s, start-up included but for training: {figures}")
    places = {"dataset": ds.path, "model": result.model_dir, "picture": picture, "log of Spark": folder / "spark.log"}
    print("\n".join(f"{name}: {place}" for name, place in places.items()))


if __name__ == "__main__":
    main()
