"""A driver program for clusters in tests: prepare, train and score the digits as a JSON file says; tell as another one.

    spark-submit tests/cluster/driver.py what.json told.json

The first file holds a list of steps, `[name, options]` each; the second one gets what came of each. A step that raises
one of the library's errors tells it, and the next one follows.
"""

import json
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import sparkdl
from sparkdl import CheckpointConfig, LaunchConfig, PrepareConfig, Split, TrainConfig
from sparkdl.features import Categorical, Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))
from examples.digits import read

WAIT_LIMIT_S = 60


def build_model(ds):
    """A small network with weights in float64."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    layers = keras.layers
    widths = [layers.Dense(32, activation="relu"), layers.Dense(len(ds.classes), activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Rescaling(1 / 16), layers.Flatten(), *widths])
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def paced(folder, pause_s):
    """Callbacks that leave a file for each step of rank 0, and pause after each."""
    import keras

    class Pace(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if sparkdl.world().rank == 0:
                (Path(folder) / f"step-{self.steps}").touch()
            time.sleep(pause_s)

    return [Pace()]


def prepare(spark, path):
    splits = Split.fraction({"train": 0.8, "val": 0.1, "test": 0.1}, seed=7, key="id")
    inputs = {"features": [Tensor("pixels", shape=(8, 8, 1))], "label": Categorical("digit"), "keep": ["id"]}
    ds = sparkdl.prepare(read(spark), PrepareConfig(path=path, splits=splits, seed=7, **inputs))
    return {name: ds.split(name).rows for name in ds.splits}


def fit(spark, dataset, run_dir, launch, pace=None, **options):
    """The history, and what each rank's host did in the first epoch."""
    options = {"epochs": 3, "global_batch_size": 100, "seed": 3, **options}
    if "checkpoint" in options:
        options["checkpoint"] = CheckpointConfig(**options["checkpoint"])
    callbacks = partial(paced, *pace) if pace else None
    config = TrainConfig(run_dir=run_dir, callbacks=callbacks, **options)
    result = sparkdl.fit(build_model, sparkdl.open_dataset(dataset), config, launch=LaunchConfig(**launch))
    return {"history": result.history, "model": result.model_dir}


def score(spark, dataset, model):
    """The share of right classes in the test split, and the hosts that scored."""
    from pyspark.sql import functions as F

    rows = sparkdl.split(read(spark).repartition(6), sparkdl.open_dataset(dataset)).where("split = 'test'")
    scored = sparkdl.transform(rows, model, output_col="predicted", returns="class")
    told = scored.agg(F.avg((F.col("predicted") == F.col("digit")).cast("double")), F.count("*")).first()
    return {"accuracy": told[0], "rows": told[1]}


def hosts(spark, launch):
    """The host of each rank as it calls itself, and its place."""

    def place():
        import dataclasses
        import socket

        return {**dataclasses.asdict(sparkdl.world()), "name": socket.gethostname()}

    return sparkdl.run(place, launch=LaunchConfig(**launch))


def wait(spark, file, slots=0):
    """Until the file is there, and the application has so many slots."""

    def ready():
        return Path(file).exists() and spark.sparkContext.defaultParallelism >= slots

    limit = time.monotonic() + WAIT_LIMIT_S
    while not ready() and time.monotonic() < limit:
        time.sleep(0.1)
    return ready()


STEPS = {"prepare": prepare, "fit": fit, "score": score, "hosts": hosts, "wait": wait}


def main(what, target):
    """Do the steps, and tell after each one."""
    import logging

    from pyspark.sql import SparkSession

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("sparkdl").setLevel(logging.INFO)
    spark = SparkSession.builder.getOrCreate()
    told = []
    for name, options in json.loads(Path(what).read_text()):
        began = time.monotonic()
        try:
            answer = {"value": STEPS[name](spark, **options)}
        except sparkdl.SparkDLError as error:
            traceback.print_exc()
            answer = {"error": str(error), "type": type(error).__name__}
        told.append({**answer, "seconds": time.monotonic() - began, "step": name})
        Path(target).write_text(json.dumps(told))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
