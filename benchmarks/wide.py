"""How long hundreds of number columns take, as one input each and as one input together, in one run.

    .venv/bin/python benchmarks/wide.py [--columns 1200] [--rows 300] [--json FILE]

Prints seconds of prepare, of a fit of one epoch on one rank, of transform and of score_parquet, for `Numeric("x0"), …`
and for `Numeric(["x0", …], name="numbers")`: the time is that of Spark's plans, not of the rows.
"""

import argparse
import functools
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)


def build_model(ds):
    import keras

    inputs = {name: keras.Input(encoder.shape or (1,), name=name) for name, encoder in ds.features.items()}
    together = list(inputs.values())
    joined = together[0] if len(together) == 1 else keras.layers.Concatenate()(together)
    model = keras.Model(inputs if len(inputs) > 1 else together[0], keras.layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    return model


def timed(function):
    begin = time.perf_counter()
    result = function()
    return result, time.perf_counter() - begin


def measure(spark, folder, raw, features):
    """The seconds of each verb by its name."""
    import sparkdl
    from sparkdl import LaunchConfig, PrepareConfig, TrainConfig

    config = PrepareConfig(path=f"{folder}/data", features=features, label="label")
    run = TrainConfig(run_dir=f"{folder}/run", epochs=1, global_batch_size=32)
    launch = LaunchConfig(num_workers=1, local=True, log="errors")
    df, seconds = spark.read.parquet(raw), {}
    dataset, seconds["prepare"] = timed(lambda: sparkdl.prepare(df, config))
    result, seconds["fit"] = timed(lambda: sparkdl.fit(build_model, dataset, run, launch=launch))
    model = result.model_dir
    _, seconds["transform"] = timed(lambda: sparkdl.transform(df, model).select("prediction").collect())
    score = functools.partial(sparkdl.score_parquet, spark, raw, model, f"{folder}/out", keep=["label"])
    _, seconds["score_parquet"] = timed(score)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=1200)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyspark.sql import SparkSession

    from sparkdl.features import Numeric

    names = [f"x{number}" for number in range(arguments.columns)]
    rng, rows = np.random.default_rng(0), arguments.rows
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("OFF")
    ways = {"one each": [Numeric(name) for name in names], "together": [Numeric(names, name="numbers")]}
    with tempfile.TemporaryDirectory() as folder:
        raw = f"{folder}/raw.parquet"
        pq.write_table(pa.table({name: rng.normal(size=rows) for name in [*names, "label"]}), raw)
        # What a session does once is not the columns' time.
        measure(spark, f"{folder}/first", raw, [Numeric("x0")])
        found = {way: measure(spark, f"{folder}/{way}", raw, features) for way, features in ways.items()}
    spark.stop()
    print(f"{arguments.columns} columns, {rows} rows: seconds, and the share of the second way")
    for verb in found["together"]:
        each, together = found["one each"][verb], found["together"][verb]
        print(f"  {verb:14s} {each:6.1f} {together:6.1f}   {together / each:.2f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
