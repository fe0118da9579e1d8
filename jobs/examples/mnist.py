"""A plain CNN on MNIST's 70,000 PNG files in Parquet: 99 % of the test images within minutes on two cores.

    spark-submit --master 'local[2]' jobs/examples/mnist.py FOLDER OUT

FOLDER holds mnist_train.parquet and mnist_test.parquet (path, label, content: the bytes of a PNG file). OUT is a new
folder for the dataset and the run. The last line is what came out, as JSON.
"""

import json
import logging
import sys
import time

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import sparkdl
from sparkdl import LaunchConfig, PrepareConfig, Split, TrainConfig
from sparkdl.features import Categorical, Image

EPOCHS = 6


def build_model(ds):
    """Two convolutions, dropout, one hidden layer; runs in every rank."""
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1), name="content"),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(128, activation="relu"),
            layers.Dense(len(ds.classes), activation="softmax", name="label"),
        ]
    )
    # From a rate that is large for this model to a small one: a cosine over all steps.
    rate = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * ds.split("train").rows // 128, alpha=0.02)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main():
    """Prepare the images, train on two ranks, score the test images as raw PNG files."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stdout)
    logging.getLogger("sparkdl.progress").setLevel(logging.INFO)
    source, out = (folder.rstrip("/") for folder in sys.argv[1:])
    spark = SparkSession.builder.appName("sparkdl mnist").getOrCreate()
    try:
        train, test = (spark.read.parquet(f"{source}/mnist_{name}.parquet") for name in ("train", "test"))
        rows = train.withColumn("split", F.lit("train")).unionByName(test.withColumn("split", F.lit("test")))
        config = PrepareConfig(
            path=f"{out}/data",
            features=[Image("content", height=28, width=28, channels=1)],
            label=Categorical("label"),
            splits=Split.column("split", names=("train", "test")),
            seed=1,
        )
        began = time.monotonic()
        ds = sparkdl.prepare(rows, config)
        prepared = time.monotonic()
        training = TrainConfig(run_dir=f"{out}/run", epochs=EPOCHS, global_batch_size=128, validation=None, seed=1)
        result = sparkdl.fit(build_model, ds, training, launch=LaunchConfig(num_workers=2))
        trained = time.monotonic()
        scored = sparkdl.transform(test, result.model_dir, returns="class", output_col="predicted")
        right = scored.where("predicted = label").count()
        figures = {
            "test_accuracy": right / test.count(),
            "prepare_seconds": round(prepared - began, 1),
            "fit_seconds": round(trained - prepared, 1),
            "score_seconds": round(time.monotonic() - trained, 1),
            "training_rows_per_second": round(max(record["rows_per_second"] for record in result.history)),
        }
    finally:
        spark.stop()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
