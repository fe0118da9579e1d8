"""What training through `fit` costs: beside plain Keras, on two workers, beside Horovod's KerasEstimator, checkpoints.

    .venv/bin/python benchmarks/train.py [--repeats 5] [--parts step scaling checkpoint estimator]
        [--estimator-python PYTHON] [--json FILE]

Prints medians of paired runs, in turns, and ratios beside their limits.

- step: an epoch of plain Keras (`model.fit` over tf.data in one process) beside an epoch of `fit` with one worker, both
  with all cores. Each is the median of the epochs after the first, which compiles.
- scaling: rows/s of `fit` with two workers of one thread each, beside two plain Keras processes at once that know
  nothing of each other, of one thread and half of the rows of a step each.
  The small CNN, of short steps, shows what a step costs beside what it computes.
- checkpoint: an epoch with a checkpoint after every tenth step beside one without.
- estimator: `prepare` and `fit` on 100,000 rows of 128 floats, two workers, two epochs, beside Horovod's KerasEstimator
  on the same DataFrame (benchmarks/keras_estimator.py). It no longer runs on this stack: its Python, given by
  `--estimator-python`, has TensorFlow 2.15, pyarrow 10, petastorm 0.12.1, Spark 3.5 and Horovod 0.28.1.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

CORES = os.cpu_count() or 1
EPOCHS = 6
# name: (shape of a row, rows, rows of a step)
SETS = {
    "large cnn": ((32, 32, 3), 3_840, 256),
    "cnn": ((32, 32, 3), 7_680, 256),
    "small cnn": ((28, 28, 1), 10_240, 256),
    "mlp": ((16,), 32_000, 64),
}
STEP_LIMITS = {"cnn": 1.03, "mlp": 1.25}
SCALED = ("large cnn", "cnn", "small cnn")
SCALING_LIMIT = 0.9
ESTIMATOR_LIMIT = 0.6
ESTIMATOR_ROWS, ESTIMATOR_WIDTH, ESTIMATOR_BATCH, ESTIMATOR_EPOCHS = 100_000, 128, 1024, 2


def cnn(narrowest=16):
    """Three blocks of convolutions, as tutorials have them for CIFAR-10."""
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((32, 32, 3))])
    for filters in (narrowest, 2 * narrowest, 4 * narrowest):
        model.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    for layer in (layers.Flatten(), layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")):
        model.add(layer)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def large_cnn():
    return cnn(narrowest=32)


def small_cnn():
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def mlp():
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((16,)), layers.Dense(32, activation="relu"), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


MODELS = {"large cnn": large_cnn, "cnn": cnn, "small cnn": small_cnn, "mlp": mlp}


def rows_of(name, rows):
    """Random rows and labels."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.random((rows, *SETS[name][0]), np.float32), rng.integers(0, 10, rows).astype("int32")


def plain(name, rows, batch):
    """Epoch times of plain Keras in this process, as JSON on stdout."""
    import keras
    import tensorflow as tf

    x, y = rows_of(name, rows)
    data = tf.data.Dataset.from_tensor_slices((x, y)).cache().shuffle(4096, seed=0).batch(batch).prefetch(4)
    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(time.perf_counter() - self.began)

    MODELS[name]().fit(data, epochs=EPOCHS, verbose=0, callbacks=[Clock()])
    print("SECONDS", json.dumps(seconds))


def plain_processes(name, count, rows, batch):
    """Median epoch of so many processes at once, each with its part of the cores: seconds, the slowest one's."""
    threads = str(CORES // count)
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    env = {**os.environ, **dict.fromkeys(names, threads)}
    command = [sys.executable, __file__, "--plain", name, str(rows), str(batch)]
    processes = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    outputs = [process.communicate()[0] for process in processes]
    return max(statistics.median(json.loads(out.split("SECONDS", 1)[1])[1:]) for out in outputs)


def spark_session(cores=CORES):
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{cores}]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.ui.showConsoleProgress", "false").config("spark.log.level", "ERROR")
    return builder.config("spark.driver.memory", "4g").getOrCreate()


def prepared(name, folder):
    """The set as a prepared dataset."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import sparkdl
    from sparkdl.features import Tensor

    shape, rows, _ = SETS[name]
    x, y = rows_of(name, rows)
    pq.write_table(pa.table({"x": list(x.reshape(rows, -1)), "y": y}), folder / f"{name}.parquet")
    spark = spark_session()
    df = spark.read.parquet(str(folder / f"{name}.parquet"))
    config = sparkdl.PrepareConfig(path=str(folder / name), features=[Tensor("x", shape=shape)], label="y")
    dataset = sparkdl.prepare(df, config)
    spark.stop()
    return dataset


def fitted(name, dataset, workers, folder, **options):
    """Median epoch of `fit` with local workers: seconds; and its history."""
    import sparkdl

    config = sparkdl.TrainConfig(
        run_dir=tempfile.mkdtemp(dir=folder),
        epochs=EPOCHS,
        global_batch_size=SETS[name][2],
        **options,
    )
    launch = sparkdl.LaunchConfig(num_workers=workers, local=True, log="errors")
    build = MODELS[name]
    history = sparkdl.fit(lambda ds: build(), dataset, config, launch=launch).history
    return statistics.median(record["seconds"] for record in history[1:]), history


def in_turns(contenders, repeats):
    """What each gives, of `repeats` runs in turns."""
    values = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            values[name].append(run())
    return values


def ratio(values, one, other):
    """The median of paired ratios."""
    return statistics.median(a / b for a, b in zip(values[one], values[other], strict=True))


def shown(title, values, unit):
    print(f"  {title:<44}{statistics.median(values):>12,.3f} {unit}   ({min(values):,.3f} to {max(values):,.3f})")


def step_part(folder, repeats):
    results = {}
    for name, limit in STEP_LIMITS.items():
        _, rows, batch = SETS[name]
        dataset, steps = prepared(name, folder), -(-rows // batch)
        values = in_turns(
            {
                "plain Keras": lambda name=name, rows=rows, batch=batch: plain_processes(name, 1, rows, batch),
                "fit, 1 worker": lambda name=name, dataset=dataset: fitted(name, dataset, 1, folder)[0],
            },
            repeats,
        )
        print(f"step: {name}, {batch} rows")
        for title, seconds in values.items():
            shown(title, [1000 * s / steps for s in seconds], "ms a step")
        results[name] = ratio(values, "fit, 1 worker", "plain Keras")
        print(f"  ratio {results[name]:.3f} (limit {limit})", flush=True)
    return results


def scaling_part(folder, repeats):
    return {name: scaling_of(name, folder, repeats) for name in SCALED}


def scaling_of(name, folder, repeats):
    _, rows, batch = SETS[name]
    dataset, shares, steps = prepared(name, folder), [], -(-rows // batch)

    def two_workers():
        seconds, history = fitted(name, dataset, 2, folder)
        shares.extend(record["allreduce_share"] for record in history[1:])
        return seconds

    values = in_turns(
        {
            "2 plain processes": lambda: plain_processes(name, 2, rows // 2, batch // 2),
            "fit, 2 workers": two_workers,
        },
        repeats,
    )
    step_ms = 1000 * statistics.median(values["2 plain processes"]) / steps
    print(f"scaling: {name}, {batch} rows, a plain step of {step_ms:.1f} ms")
    for title, seconds in values.items():
        shown(title, [rows / s for s in seconds], "rows/s")
    speed, share = ratio(values, "2 plain processes", "fit, 2 workers"), statistics.median(shares)
    print(f"  ratio {speed:.3f} (limit {SCALING_LIMIT}); allreduce {100 * share:.1f} % of an epoch", flush=True)
    return {"ratio": speed, "allreduce_share": share}


def checkpoint_part(folder, repeats):
    from sparkdl import CheckpointConfig

    name = "cnn"
    dataset = prepared(name, folder)
    often = CheckpointConfig(every_steps=10)
    values = in_turns(
        {
            "after every epoch": lambda: fitted(name, dataset, 1, folder)[0],
            "and after every 10 steps": lambda: fitted(name, dataset, 1, folder, checkpoint=often)[0],
        },
        repeats,
    )
    print(f"checkpoint: {name}")
    for title, seconds in values.items():
        shown(title, seconds, "s an epoch")
    cost = ratio(values, "and after every 10 steps", "after every epoch")
    print(f"  ratio {cost:.3f}")
    return {"ratio": cost}


def ours_all_in(folder):
    """Seconds of `prepare` and `fit` on the estimator's rows, in a warm session."""
    import sparkdl

    def build(ds):
        import keras

        layers = [keras.Input((ESTIMATOR_WIDTH,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(0.001), "mse")
        return model

    spark = spark_session()
    df = spark.range(0, ESTIMATOR_ROWS, 1, 2).selectExpr(
        f"transform(sequence(1, {ESTIMATOR_WIDTH}), i -> float(rand(7) * i)) as x", "float(id % 10) as y"
    )
    df.selectExpr("sum(x[0])").collect()
    began = time.perf_counter()
    where = tempfile.mkdtemp(dir=folder)
    config = sparkdl.PrepareConfig(path=f"{where}/data", features=["x"], label="y")
    train = sparkdl.TrainConfig(
        run_dir=f"{where}/run", epochs=ESTIMATOR_EPOCHS, global_batch_size=2 * ESTIMATOR_BATCH, validation=None
    )
    result = sparkdl.fit(build, sparkdl.prepare(df, config), train, launch=sparkdl.LaunchConfig(num_workers=2))
    seconds = time.perf_counter() - began
    assert len(result.history) == ESTIMATOR_EPOCHS
    spark.stop()
    return seconds


def estimators(python, folder):
    """Seconds of KerasEstimator.fit on the same rows, in a warm session of its own."""
    arguments = [ESTIMATOR_ROWS, ESTIMATOR_WIDTH, ESTIMATOR_BATCH, ESTIMATOR_EPOCHS]
    script = Path(__file__).parent / "keras_estimator.py"
    command = [python, str(script), tempfile.mkdtemp(dir=folder), *map(str, arguments)]
    folder_of_python = str(Path(python).parent)
    env = {**os.environ, "PYSPARK_PYTHON": python, "PATH": f"{folder_of_python}{os.pathsep}{os.environ['PATH']}"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split("SECONDS", 1)[1])


def estimator_part(folder, repeats, python):
    values = in_turns(
        {"prepare + fit": lambda: ours_all_in(folder), "KerasEstimator": lambda: estimators(python, folder)}, repeats
    )
    print(f"estimator: {ESTIMATOR_ROWS:,} x {ESTIMATOR_WIDTH}, 2 workers, {ESTIMATOR_EPOCHS} epochs, all in")
    for title, seconds in values.items():
        shown(title, seconds, "s")
    cost = ratio(values, "prepare + fit", "KerasEstimator")
    print(f"  ratio {cost:.3f} (limit {ESTIMATOR_LIMIT})")
    return {"ratio": cost}


def main():
    if sys.argv[1:2] == ["--plain"]:
        return plain(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parts = {"step": step_part, "scaling": scaling_part, "checkpoint": checkpoint_part}
    parser.add_argument("--parts", nargs="+", choices=[*parts, "estimator"], default=list(parts))
    parser.add_argument("--estimator-python", help="the Python of the estimator's environment")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if "estimator" in options.parts and not options.estimator_python:
        parser.error("the estimator needs --estimator-python")
    results = {}
    with tempfile.TemporaryDirectory(prefix="sparkdl-train-") as name:
        for part in options.parts:
            if part == "estimator":
                results[part] = estimator_part(Path(name), options.repeats, options.estimator_python)
            else:
                results[part] = parts[part](Path(name), options.repeats)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return None


if __name__ == "__main__":
    main()
