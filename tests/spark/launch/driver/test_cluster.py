"""Ranks on executors that are processes of their own, as on a cluster: one driver process goes through all of it."""

import json
import subprocess
import sys

import pytest

import local_cluster

pytestmark = pytest.mark.timeout(300)

DRIVER = """
import dataclasses, json, sys, threading
import psutil
from pyspark.sql import SparkSession
import sparkdl

builder = SparkSession.builder.master(sys.argv[1]).config("spark.ui.enabled", "false")
spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
two = sparkdl.LaunchConfig(num_workers=2, log="errors")

def executor():
    return next(p for p in psutil.Process().parents() if p.name() == "java")

def place():
    return dataclasses.asdict(sparkdl.world()), executor().pid

def add():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    return float(hvd.allreduce(tf.constant(hvd.rank() + 1.0), op=hvd.Sum))

def fail_on_rank_1(how):
    if sparkdl.world().rank == 1:
        if how == "executor":
            executor().kill()
        else:
            raise ValueError("boom")
    threading.Event().wait()

def error_of(how):
    try:
        return sparkdl.run(fail_on_rank_1, how, launch=two)
    except sparkdl.WorkerError as error:
        return {"text": str(error), "rank": error.rank, "host": error.host}

told = {"places": sparkdl.run(place, launch=two), "sums": sparkdl.run(add, launch=two)}
told |= {how: error_of(how) for how in ("exception", "executor")}
told["places after"] = sparkdl.run(place, launch=two)
open(sys.argv[2], "w").write(json.dumps(told))
spark.stop()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the driver's runs brought back, by name."""
    folder = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-c", DRIVER, local_cluster.MASTER, str(folder / "told.json")]
    env = local_cluster.environment(folder)
    done = subprocess.run(command, env=env, cwd=folder, text=True, timeout=250, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


def test_ranks_of_two_executors_know_their_places(told) -> None:
    (first, executor_0), (second, executor_1) = told["places"]
    assert executor_0 != executor_1
    # Both executors are on this host.
    expected = [
        {"rank": r, "size": 2, "local_rank": r, "local_size": 2, "cross_rank": 0, "cross_size": 1} for r in (0, 1)
    ]
    assert [first, second] == [{**place, "host": first["host"]} for place in expected]


def test_they_sum_with_horovod(told) -> None:
    assert told["sums"] == [3.0, 3.0]


def test_an_exception_names_its_rank(told) -> None:
    error = told["exception"]
    assert error["text"].splitlines()[0] == f"rank 1/2 on {error['host']} failed: ValueError: boom"


def test_a_killed_executor_is_blamed_and_the_session_runs_the_next(told) -> None:
    error = told["executor"]
    assert error["rank"] == 1 and f"rank 1/2 on {error['host']} was lost" in error["text"].splitlines()[0]
    assert [place["rank"] for place, _ in told["places after"]] == [0, 1]
    before, after = ({executor for _, executor in told[key]} for key in ("places", "places after"))
    assert len(before & after) == 1
