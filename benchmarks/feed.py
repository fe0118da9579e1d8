"""How fast a rank is fed, beside the limits and Petastorm's own ways, on the same rows in one run.

    .venv/bin/python benchmarks/feed.py [--rows 800000] [--repeats 5] [--sets scalars vector tensors] [--json FILE]

Prints a table of rows/s (medians of passes over all rows, the contenders taking turns) and ratios. Peers read what
Spark's own `df.write.parquet` wrote; our feed reads what `sparkdl.prepare` wrote of the same rows, shuffled. Every feed
gives batches of 1,024 rows to tf.data; ours in the epochs of one iterator, as in training, the others opened anew for
each pass, which takes them less than a hundredth of it. The limits beside them: scans (pyarrow row groups, read and
thrown away, with the same threads) of both folders, and a plain copy of the rows' bytes in memory. Petastorm's own ways
run beside pyarrow before 15 alone (`make setup STACK=oldest`); with a newer one a line says that they are left out.
"""

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)

BATCH = 1024
THREADS = os.cpu_count() or 1

STREAMING = "our feed, streaming"
IN_MEMORY = "our feed, in memory"

# name: (columns as Spark expressions over `id`, share of --rows)
SETS = {
    "scalars": ([f"float(rand({i})) as f{i}" for i in range(40)], 1.0),
    "vector": (["transform(sequence(1, 128), i -> float(rand(7) * i)) as x"], 1.0),
    "tensors": (["transform(sequence(1, 12288), i -> cast((id + i) % 100 as tinyint)) as x"], 0.05),
}


def write_sets(spark, name, rows, folder):
    """The rows as Spark writes them, and prepared. Returns both places."""
    import sparkdl
    from sparkdl.features import Tensor

    columns, share = SETS[name]
    df = spark.range(0, int(rows * share), 1, 8).selectExpr("id", "int(id % 10) as label", *columns)
    plain = folder / f"{name}-plain"
    df.drop("id").write.parquet(str(plain))
    features = [c for c in df.columns if c not in ("id", "label")]
    dtype = "uint8" if name == "tensors" else None
    config = sparkdl.PrepareConfig(
        path=str(folder / f"{name}-prepared"), features=[Tensor(c, dtype=dtype) for c in features], label="label"
    )
    return plain, sparkdl.prepare(spark.read.parquet(str(plain)), config)


def scan(files):
    """Row groups read by pyarrow with all threads, and thrown away."""
    import pyarrow.parquet as pq

    def read(file):
        part = pq.ParquetFile(file, memory_map=True)
        return sum(part.read_row_group(g, use_threads=False).num_rows for g in range(part.num_row_groups))

    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(read, files))


def consume(dataset):
    """Rows of a tf.data dataset, counted in the graph, as training consumes it."""
    import tensorflow as tf

    def rows(*element):
        return tf.shape(tf.nest.flatten(element)[0])[0]

    return int(dataset.map(rows).reduce(0, lambda total, more: total + more))


def our_feed(dataset, epochs, **options):
    """Epochs of one iterator, as in training: each call takes the next epoch, counted in the graph."""
    import tensorflow as tf

    from sparkdl import ReaderConfig
    from sparkdl.data.feed.feed import Feed
    from sparkdl.data.feed.tensors import step_dataset

    train = dataset.split("train")
    reader = ReaderConfig(**options)
    feed = Feed(dataset, train, rank=0, world_size=1, global_batch_size=BATCH, seed=0, reader=reader, cores=THREADS)
    steps = feed.plan(0).steps
    iterator = iter(step_dataset(feed, dataset.layout, range(epochs)))

    @tf.function
    def epoch(iterator):
        rows = tf.constant(0)
        for _ in tf.range(steps):
            _, (inputs, *_) = next(iterator)
            rows += tf.shape(tf.nest.flatten(inputs)[0])[0]
        return rows

    return lambda: int(epoch(iterator))


def memory_copy(dataset):
    """As many bytes as the rows have, copied from one used piece of memory to another, by as many threads."""
    import numpy as np

    rows, width = 4096, dataset.layout.dtype.itemsize
    total = dataset.split("train").rows
    pieces = [np.ones((2, rows * width), np.uint8) for _ in range(THREADS)]

    def copy(piece):
        for _ in range(total // rows // THREADS):
            np.copyto(piece[0], piece[1])
        return total // rows // THREADS * rows

    def run():
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(pool.map(copy, pieces))

    return run


def petastorm_runs():
    """Tell whether Petastorm's own readers run here: they call `pyarrow.parquet.ParquetDatasetPiece` and its kin."""
    import pyarrow.parquet as pq

    return hasattr(pq, "ParquetDatasetPiece")


def petastorm_converter(spark, plain, cache):
    from petastorm.spark import SparkDatasetConverter, make_spark_converter

    spark.conf.set(SparkDatasetConverter.PARENT_CACHE_DIR_URL_CONF, f"file://{cache}")
    converter = make_spark_converter(spark.read.parquet(str(plain)))

    def run():
        with converter.make_tf_dataset(batch_size=BATCH, num_epochs=1, workers_count=THREADS) as data:
            return consume(data)

    return run


def petastorm_unbatched(plain):
    from petastorm import make_batch_reader
    from petastorm.tf_utils import make_petastorm_dataset

    with make_batch_reader(f"file://{plain}", num_epochs=1, workers_count=THREADS) as reader:
        return consume(make_petastorm_dataset(reader).unbatch().batch(BATCH))


def measured(contenders, repeats):
    """Rows/s of each: the median of `repeats` runs, in turns, after one turn that warms up."""
    speeds = {name: [] for name in contenders}
    for turn in range(repeats + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            rows = run()
            if turn:
                speeds[name].append(rows / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in speeds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=800_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--json")
    options = parser.parse_args()
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{THREADS}]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.driver.memory", "4g").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    folder, results = Path(tempfile.mkdtemp(prefix="sparkdl-feed-")), {}
    try:
        for name in options.sets:
            print(name, flush=True)
            plain, dataset = write_sets(spark, name, options.rows, folder)
            prepared = [str(Path(dataset.path) / part.file) for part in dataset.parts]
            contenders = {
                STREAMING: our_feed(dataset, options.repeats + 1, in_memory=False),
                IN_MEMORY: our_feed(dataset, options.repeats + 1, in_memory=True, memory=16 << 30),
                "plain scan of Spark's Parquet": lambda plain=plain: scan(sorted(plain.glob("*.parquet"))),
                "scan of the prepared parts": lambda prepared=prepared: scan(prepared),
                "copy in memory": memory_copy(dataset),
            }
            if petastorm_runs():
                contenders |= {
                    "Petastorm's converter": petastorm_converter(spark, plain, folder / f"{name}-cache"),
                    "make_petastorm_dataset + unbatch + batch": lambda plain=plain: petastorm_unbatched(plain),
                }
            else:
                print("  Petastorm's own ways are left out: they need pyarrow before 15", flush=True)
            results[name] = measured(contenders, options.repeats)
            for title, speed in results[name].items():
                print(f"  {title:<46}{speed:>14,.0f} rows/s", flush=True)
    finally:
        spark.stop()
        shutil.rmtree(folder)
    for name, speeds in results.items():
        for ours in (STREAMING, IN_MEMORY):
            peers = [title for title in speeds if title not in (STREAMING, IN_MEMORY)]
            print(f"{name}: {ours} is " + ", ".join(f"{speeds[ours] / speeds[title]:.2f} x {title}" for title in peers))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
