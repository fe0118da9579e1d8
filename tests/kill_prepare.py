"""Kill a prepare at a moment, as a host that dies would, and see what is left. Used by tests/spark and tests/soak.

Run as a program, it is the prepare that is killed: `kill_prepare.py SOURCE DATASET`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

import sparkdl
from sparkdl import DatasetError, PrepareConfig, Split
from sparkdl.data import generations
from sparkdl.features import Categorical, Numeric

ROWS = 200_000


def write_source(spark, folder):
    """Files to prepare. Returns their folder."""
    path = str(folder / "source")
    columns = ["id", "rand(1) as x", "array(rand(2), rand(3), rand(4)) as v", "string(id % 50) as word", "id % 3 as y"]
    spark.range(0, ROWS, 1, 4).selectExpr(*columns).write.parquet(path)
    return path


def config(path, **options):
    """Features that need every pass: moments, a vocabulary, the write."""
    return PrepareConfig(
        path=path,
        features=[Numeric("x"), "v", Categorical("word")],
        label=Categorical("y"),
        keep=["id"],
        splits=Split.fraction({"train": 0.9, "test": 0.1}, seed=1, key="id"),
        **options,
    )


def whole(spark, dataset):
    """Whether every row of a dataset is there, once, by reading all of it."""
    train, test = (sparkdl.read_prepared(spark, dataset.path, name).select("id") for name in ("train", "test"))
    found = train.union(test)
    return found.count() == ROWS and found.distinct().count() == ROWS


def standing(path):
    """The dataset at a path, or None."""
    try:
        return sparkdl.open_dataset(path)
    except DatasetError as error:
        assert "no prepared dataset" in str(error), error
        return None


def start(source, path):
    """A prepare in a process and a JVM of its own; returns when it begins."""
    child = subprocess.Popen(
        [sys.executable, __file__, source, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    line = child.stdout.readline()
    assert line == "begin\n", line
    return child


def kill(child):
    """End the process, its JVM and its Python workers (a process group of their own) at once."""
    family = psutil.Process(child.pid).children(recursive=True)
    for process in [*family, psutil.Process(child.pid)]:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=20)
    child.wait(20)
    child.stdout.close()


def duration(source, path):
    """Seconds that a prepare takes when nobody kills it."""
    child = start(source, path)
    began = time.monotonic()
    assert child.stdout.readline() == "end\n"
    taken = time.monotonic() - began
    child.wait(60)
    child.stdout.close()
    return taken


def wait_for_write(path, old):
    """Until the first part of a new generation is there."""
    before = {old.generation} if old else set()
    end = time.monotonic() + 100
    while time.monotonic() < end:
        names = os.listdir(path) if os.path.isdir(path) else []
        if any("." not in name for name in set(names) - before):
            return
        time.sleep(0.002)
    raise TimeoutError("the prepare wrote no part")


def trial(spark, source, folder, *, seed, seconds, has_old, in_write, monkeypatch):
    """Kill one prepare after a random part of `seconds`; check what is left and what the next prepares make of it.

    Args:
        has_old: begin with a dataset at the path.
        in_write: count the seconds from the first part on, not from the start.
    """
    path = str(folder / f"data-{seed}")
    old = sparkdl.prepare(spark.read.parquet(source), config(path, seed=10)) if has_old else None
    delay = random.Random(seed).uniform(0, seconds)
    child = start(source, path)
    if in_write:
        wait_for_write(path, old)
    time.sleep(delay)
    kill(child)
    left = standing(path)
    what = "none" if left is None else "old" if left == old else "new"
    names = sorted(os.listdir(path)) if os.path.isdir(path) else []
    since = "the first part" if in_write else "the start"
    print(f"seed {seed}: killed {delay:.2f} s of {seconds:.2f} s after {since}, found {what}, left {len(names)} names")
    assert what != "none" or old is None
    assert left is None or whole(spark, left)
    # Nobody waits a minute in a test: what has been silent for a moment counts as dead.
    monkeypatch.setattr(generations.Lease, "expiry_s", 0.5)
    time.sleep(1)
    again = sparkdl.prepare(spark.read.parquet(source), config(path))
    assert (again == left) == (what == "new") and whole(spark, again)
    last = sparkdl.prepare(spark.read.parquet(source), config(path, seed=11))
    assert sorted(os.listdir(path)) == sorted(["dataset.json", last.generation, again.generation])
    for dataset in (last, again):
        files = {str(f.relative_to(path)) for f in (Path(path) / dataset.generation).iterdir()}
        assert files == {part.file for part in dataset.parts}
    return what


def main():
    from pyspark.sql import SparkSession

    source, path = sys.argv[1:]
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.sql.shuffle.partitions", "4").getOrCreate()
    rows = spark.read.parquet(source)
    print("begin", flush=True)
    sparkdl.prepare(rows, config(path))
    print("end", flush=True)


if __name__ == "__main__":
    main()
