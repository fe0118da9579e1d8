"""`score_parquet` while tasks and drivers are killed: the output is whole or absent, and the same call finishes it."""

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import local_cluster
import sparkdl

pytestmark = pytest.mark.timeout(1500)
ROWS, FILES = 400_000, 8

# Scores as often as it is told on standard input; each line names the output. Tasks may fail three times.
DRIVER = """
import json, sys, time
from pyspark.sql import SparkSession
import sparkdl

master, source, model_dir, conf = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
builder = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
for name, value in conf.items():
    builder = builder.config(name, value)
spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
print("READY", flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    rows = sparkdl.score_parquet(spark, source, model_dir, line.strip(), keep=["id"], batch_size=256)
    print("SCORED", rows, time.perf_counter() - began, flush=True)
spark.stop()
"""


class Driver:
    """A driver process that scores when asked."""

    def __init__(self, folder: Path, master: str = "local[2,4]", **conf: str) -> None:
        command = [sys.executable, "-c", DRIVER, master, str(folder / "in"), str(folder / "model"), json.dumps(conf)]
        env = local_cluster.environment(folder) if master.startswith("local-cluster") else dict(os.environ)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with open(folder / "driver.log", "a") as log:
            self._process = subprocess.Popen(command, env=env, cwd=folder, stderr=log, start_new_session=True, **pipes)
        assert self._told() == "READY"

    def ask(self, out: Path) -> None:
        self._process.stdin.write(f"{out}\n")
        self._process.stdin.flush()

    def scored(self) -> float:
        """Seconds of the scoring that was asked for."""
        word, rows, seconds = self._told().split()
        assert (word, rows) == ("SCORED", str(ROWS))
        return float(seconds)

    def workers(self) -> list[psutil.Process]:
        """The Python processes that score: what PySpark's daemon, itself a child of Java, has forked."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "pyspark.daemon" in process.cmdline() and "java" not in process.parent().name():
                    found.append(process)
        return found

    def kill(self) -> None:
        """kill -9, the Java process first, or after, or alone: what it started must end by itself."""
        for process in [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children()]:
            process.kill()
        self._process.wait()
        self._close()

    def end(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _told(self) -> str:
        while line := self._process.stdout.readline():
            if line.startswith(("READY", "SCORED")):
                return line.strip()
        raise AssertionError("the driver ended")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import keras

    folder = tmp_path_factory.mktemp("kills")
    (folder / "in").mkdir()
    for place, ids in enumerate(np.array_split(np.arange(ROWS), FILES)):
        x = np.stack([ids, -ids], axis=1).astype(np.float32)
        pq.write_table(pa.table({"id": ids, "x": list(x)}), folder / "in" / f"{place}.parquet", row_group_size=10_000)
    layers = keras.layers
    # The first of two equal numbers, by a way that takes a while.
    deep = [layers.Dense(256, activation="relu") for _ in range(3)]
    inputs = keras.Input((2,), name="x")
    hidden = inputs
    for layer in deep:
        hidden = layer(hidden)
    nothing = layers.Rescaling(0.0)(layers.Dense(2)(hidden))
    sparkdl.save_model(keras.Model(inputs, layers.Add()([inputs, nothing])), str(folder / "model"), inputs=["x"])
    return folder


def check_whole(out: Path) -> None:
    table = pq.read_table(out)
    ids = table.column("id").to_numpy()
    assert np.array_equal(ids, np.arange(ROWS)), "every row once, in order"
    predictions = np.stack(table.column("prediction").to_numpy())
    assert np.array_equal(predictions[:, 0], ids.astype(np.float32))
    assert (out / "_SUCCESS").exists()


def test_killed_tasks_are_done_again_without_duplicates(folder) -> None:
    driver, chance = Driver(folder), random.Random(100)
    driver.ask(folder / "warm")
    driver.scored()
    driver.ask(folder / "first")
    seconds = driver.scored()
    killed = 0
    for trial in range(10):
        out, moment = folder / f"task-{trial}", chance.uniform(0, seconds)
        driver.ask(out)
        time.sleep(moment)
        workers = driver.workers()
        if workers:
            chance.choice(workers).kill()
            killed += 1
        took = driver.scored()
        check_whole(out)
        print(f"task {trial}: killed after {moment:.2f} s of {seconds:.2f}, {took:.2f} s in all", flush=True)
    assert killed >= 8
    driver.end()
    assert not list(folder.glob(".*.scoring"))


def test_a_killed_driver_leaves_all_or_nothing_and_the_same_call_finishes(folder) -> None:
    driver, chance = Driver(folder), random.Random(200)
    driver.ask(folder / "warm-2")
    driver.scored()
    driver.ask(folder / "second")
    seconds = driver.scored()
    absent = 0
    for trial in range(10):
        out, moment = folder / f"driver-{trial}", chance.uniform(0.1 * seconds, 1.1 * seconds)
        driver.ask(out)
        time.sleep(moment)
        driver.kill()
        there = out.exists()
        absent += not there
        if there:
            check_whole(out)
        driver = Driver(folder)
        driver.ask(out)
        driver.scored()
        check_whole(out)
        print(f"driver {trial}: killed after {moment:.2f} s, output {'whole' if there else 'absent'}", flush=True)
    assert absent >= 5
    driver.end()


def test_a_reader_never_sees_a_part_of_the_output(folder) -> None:
    driver, ended, seen = Driver(folder), threading.Event(), set()
    out = folder / "read"

    def read() -> None:
        while not ended.wait(0.002):
            with contextlib.suppress(FileNotFoundError):
                seen.add(len(os.listdir(out)))

    reader = threading.Thread(target=read)
    reader.start()
    driver.ask(out)
    driver.scored()
    time.sleep(0.1)
    ended.set()
    reader.join()
    driver.end()
    assert seen == {len(os.listdir(out))}


def test_attempts_that_speculation_starts_twice_count_once(folder) -> None:
    speculation = {"interval": "20ms", "multiplier": "1.0", "quantile": "0.1", "minTaskRuntime": "20ms"}
    conf = {f"spark.speculation.{name}": value for name, value in speculation.items()}
    driver = Driver(folder, local_cluster.MASTER, **{"spark.speculation": "true"}, **conf)
    for trial in range(5):
        out = folder / f"speculation-{trial}"
        driver.ask(out)
        driver.scored()
        check_whole(out)
    driver.end()
