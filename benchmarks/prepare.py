"""What `prepare` costs beside the cheapest job that does as much: `df.orderBy(rand(7)).write.parquet`.

    .venv/bin/python benchmarks/prepare.py [--rows 1000000] [--repeats 3] [--sets scalars vector] [--json FILE]

Both read the same Parquet files and take turns in one Spark session; prints medians in seconds and their ratio.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

# name: (columns as Spark expressions over `id`, share of --rows)
SETS = {
    "scalars": ([f"float(rand({i})) as f{i}" for i in range(40)], 4.0),
    "vector": (["transform(sequence(1, 128), i -> float(rand(7) * i)) as x"], 1.0),
}


def session():
    """A local Spark session; threads as many as cores."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{os.cpu_count()}]").appName("benchmark of prepare")
    for key, value in {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "4g",
        "spark.log.level": "ERROR",
    }.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def write_source(spark, name, rows, folder):
    """The rows as Parquet files, as Spark writes them. Returns the folder."""
    columns, share = SETS[name]
    plain = folder / f"{name}-plain"
    df = spark.range(0, int(rows * share), 1, 8).selectExpr("id", "int(id % 10) as label", *columns)
    df.write.parquet(str(plain))
    return str(plain)


def spark_alone(spark, source, target):
    """A global shuffle by Spark, to Parquet."""
    from pyspark.sql import functions as F

    spark.read.parquet(source).orderBy(F.rand(7)).write.parquet(target)


def ours(spark, source, target):
    """The same rows as a prepared dataset, of features that need no fitting."""
    import sparkdl

    df = spark.read.parquet(source)
    features = [name for name in df.columns if name not in ("id", "label")]
    splits = sparkdl.Split.fraction({"train": 0.8, "val": 0.1, "test": 0.1}, seed=7, key="id")
    sparkdl.prepare(
        df, sparkdl.PrepareConfig(path=target, features=features, label="label", keep=["id"], splits=splits, seed=7)
    )


def seconds(work, spark, source, target):
    """The time of one run, into a folder that is removed afterwards."""
    start = time.perf_counter()
    work(spark, source, target)
    taken = time.perf_counter() - start
    shutil.rmtree(target)
    return taken


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    spark = session()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets:
            source = write_source(spark, name, options.rows, Path(folder))
            target = str(Path(folder) / "target")
            times = {"orderBy": [], "prepare": []}
            for work in (spark_alone, ours):
                seconds(work, spark, source, target)  # the JVM compiles what both use
            for _ in range(options.repeats):
                times["orderBy"].append(seconds(spark_alone, spark, source, target))
                times["prepare"].append(seconds(ours, spark, source, target))
            medians = {key: statistics.median(values) for key, values in times.items()}
            found[name] = {**medians, "ratio": medians["prepare"] / medians["orderBy"], "all": times}
            print(
                f"{name}: {int(options.rows * SETS[name][1]):,} rows; orderBy.write {medians['orderBy']:.1f} s, "
                f"prepare {medians['prepare']:.1f} s, ratio {found[name]['ratio']:.2f}",
                flush=True,
            )
            shutil.rmtree(source)
    spark.stop()
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
