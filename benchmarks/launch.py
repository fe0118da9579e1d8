"""How long ranks take to start and to end, beside plain processes and `horovod.spark.run`, in one warm session.

    .venv/bin/python benchmarks/launch.py [--repeats 5] [--ranks 32] [--json FILE]

Prints seconds (medians, the contenders taking turns), then what is compared: differences, ratios and their limits. The
session is `local[2]`. Two plain Python processes that import the same, at once, are the limit for two ranks that import
Horovod and TensorFlow.
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

SPARK_TRIVIAL = "sparkdl.run, 2 ranks, trivial"
SPARK_IMPORT = "sparkdl.run, 2 ranks, import"
PLAIN_IMPORT = "2 plain processes, import"
SPARK_ALLREDUCE = "sparkdl.run, 2 ranks, allreduce"
HOROVOD_ALLREDUCE = "horovod.spark.run, 2 ranks, allreduce"
LOCAL_TRIVIAL = "local, 2 ranks, trivial"
LOCAL_ALLREDUCE = "local, 2 ranks, allreduce"
LOCAL_MANY = "local, {} ranks, trivial"
GROUP_ALLREDUCE = "worker group, 2 ranks, allreduce"
LOCAL_GROUP_ALLREDUCE = "local worker group, 2 ranks, allreduce"
FIRST_STEP = "sparkdl.fit, 2 ranks, to its first step"
GROUP_FIRST_STEP = "worker group, fit to its first step"
LOCAL_GROUP_FIRST_STEP = "local worker group, fit to its first step"

TRIVIAL_LIMIT_S = 3.0
IMPORT_LIMIT_S = 2.5
RATIO_GOAL = 0.5
FIRST_STEP_GOAL_S = 1.0


def rank():
    import sparkdl

    return sparkdl.world().rank


def import_horovod():
    import horovod.tensorflow  # noqa: F401


def allreduce():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    return float(hvd.allreduce(tf.constant(hvd.rank() + 1.0), op=hvd.Sum))


def plain_import():
    """Two Python processes that import at once what the ranks import, without Spark and without us."""
    command = [sys.executable, "-c", "import horovod.tensorflow"]
    processes = [subprocess.Popen(command) for _ in range(2)]
    codes = [process.wait() for process in processes]
    assert codes == [0, 0], codes


def ours(fn, expected, *, num_workers=2, local=False, launch=None):
    """A run of ours that must bring back these values."""
    import sparkdl

    launch = launch or sparkdl.LaunchConfig(num_workers=num_workers, local=local, log="errors")

    def run():
        values = sparkdl.run(fn, launch=launch)
        assert values == expected, values

    return run


def horovod_spark():
    """Horovod's own way to run the same function in the same session; None, and why, where it can't be imported."""
    try:
        from horovod.spark import run as horovod_run
    except Exception as error:  # whatever it needs of an older stack
        print(f"horovod.spark cannot be imported: {type(error).__name__}: {error}")
        return None

    def run():
        values = horovod_run(allreduce, num_proc=2, use_gloo=True, verbose=0)
        assert values == [3.0, 3.0], values

    return run


def small_dataset(spark, folder):
    """Two columns and a label, 512 rows."""
    import sparkdl
    from sparkdl.features import Numeric

    rows = spark.range(512).selectExpr("double(id) AS a", "double(id % 7) AS b", "double(id % 2) AS y")
    features = [Numeric("a"), Numeric("b")]
    return sparkdl.prepare(rows, sparkdl.PrepareConfig(path=f"{folder}/data", features=features, label=Numeric("y")))


def small_model(ds):
    import keras

    inputs = [keras.Input((1,), name=name) for name in ds.features]
    output = keras.layers.Dense(1)(keras.layers.Dense(8, activation="relu")(keras.layers.Concatenate()(inputs)))
    model = keras.Model(inputs, output)
    model.compile("adam", "mse")
    return model


def first_step(dataset, folder, launch):
    """From the call of `fit` until rank 0 has taken its first step; returns these seconds."""
    import sparkdl

    def callbacks():
        import keras

        def note(batch, logs):
            if batch == 0 and sparkdl.world().rank == 0:
                Path(folder, "first").write_text(str(time.time()))

        return [keras.callbacks.LambdaCallback(on_train_batch_end=note)]

    def run():
        run_dir = tempfile.mkdtemp(dir=folder)
        config = sparkdl.TrainConfig(run_dir=f"{run_dir}/run", epochs=1, global_batch_size=64, callbacks=callbacks)
        began = time.time()
        sparkdl.fit(small_model, dataset, config, launch=launch)
        return float(Path(folder, "first").read_text()) - began

    return run


def measured(contenders, repeats):
    """Seconds of each: of `repeats` runs, in turns, after one turn that warms up. A run may return its own seconds."""
    seconds = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            own = run()
            if turn:
                seconds[name].append(time.perf_counter() - began if own is None else own)
    return seconds


def session():
    """A warm Spark session with two task slots."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").appName("benchmark of launches")
    for key, value in {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def compare(medians):
    """What the numbers mean, as lines."""
    extra = medians[SPARK_IMPORT] - medians[PLAIN_IMPORT]
    yield f"trivial run: {medians[SPARK_TRIVIAL]:.2f} s (limit {TRIVIAL_LIMIT_S:g} s)"
    yield f"import in ranks: {extra:.2f} s more than in plain processes (limit {IMPORT_LIMIT_S:g} s)"
    if HOROVOD_ALLREDUCE in medians:
        ratio = medians[SPARK_ALLREDUCE] / medians[HOROVOD_ALLREDUCE]
        yield f"start and allreduce: {ratio:.2f} x horovod.spark.run"
        ratio = medians[GROUP_ALLREDUCE] / medians[HOROVOD_ALLREDUCE]
        yield f"start and allreduce in a worker group: {ratio:.2f} x horovod.spark.run (goal {RATIO_GOAL:g})"
    first = medians[GROUP_FIRST_STEP]
    yield f"call of fit to its first step, in a worker group: {first:.2f} s (goal {FIRST_STEP_GOAL_S:g} s)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ranks", type=int, default=32, help="ranks of the large local run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import sparkdl

    spark = session()
    contenders = {
        SPARK_TRIVIAL: ours(rank, [0, 1]),
        SPARK_IMPORT: ours(import_horovod, [None, None]),
        PLAIN_IMPORT: plain_import,
        SPARK_ALLREDUCE: ours(allreduce, [3.0, 3.0]),
        HOROVOD_ALLREDUCE: horovod_spark(),
        LOCAL_TRIVIAL: ours(rank, [0, 1], local=True),
        LOCAL_ALLREDUCE: ours(allreduce, [3.0, 3.0], local=True),
        LOCAL_MANY.format(options.ranks): ours(rank, [*range(options.ranks)], num_workers=options.ranks, local=True),
    }
    seconds = measured({name: run for name, run in contenders.items() if run}, options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        dataset = small_dataset(spark, folder)
        plain, local = sparkdl.LaunchConfig(num_workers=2), sparkdl.LaunchConfig(num_workers=2, local=True)
        seconds |= measured({FIRST_STEP: first_step(dataset, folder, plain)}, options.repeats)
        # A group holds the session's slots: no contender without it can run beside it.
        for launch, names in (
            (plain, (GROUP_ALLREDUCE, GROUP_FIRST_STEP)),
            (local, (LOCAL_GROUP_ALLREDUCE, LOCAL_GROUP_FIRST_STEP)),
        ):
            with sparkdl.WorkerGroup(launch) as group:
                runs = ours(allreduce, [3.0, 3.0], launch=group), first_step(dataset, folder, group)
                seconds |= measured(dict(zip(names, runs, strict=True)), options.repeats)
    spark.stop()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:<42}{medians[name]:>8.2f} s   ({min(values):.2f} to {max(values):.2f})")
    print("\n".join(compare(medians)))
    if options.json:
        options.json.write_text(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
