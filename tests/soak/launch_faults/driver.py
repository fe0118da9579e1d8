"""A driver process that plays the cases it is told of, one after the other, in one session.

Run as `python -m launch_faults.driver LAUNCHER`. Requests are JSON lines on its input; each answer is a file.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import sparkdl
from launch_faults.marks import mark, wait_until
from launch_faults.play import WAIT_LIMIT_S, play
from launch_faults.table import CLUSTER, LOCAL, STALL_TIMEOUT_S, Case
from sparkdl import LaunchConfig


def session(launcher):
    """The launcher's Spark session; None where it needs none."""
    if launcher == LOCAL:
        return None
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(launcher).appName("launch faults")
    builder = builder.config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
    if launcher == CLUSTER:
        builder = builder.config("spark.executor.memory", "1g")
    return builder.getOrCreate()


def cancel_when_ready(spark, folder):
    """A thread that cancels all jobs once the ranks are at their places."""

    def cancel():
        if wait_until((folder / "ready").exists, WAIT_LIMIT_S):
            mark(folder)
            spark.sparkContext.cancelAllJobs()

    thread = threading.Thread(target=cancel, daemon=True)
    thread.start()
    return thread


def launched(case):
    """Where the ranks of a case run."""
    launch = LaunchConfig(num_workers=2, local=case.launcher == LOCAL, log="errors")
    if case.stalls:
        launch = dataclasses.replace(launch, stall_timeout_s=STALL_TIMEOUT_S)
    return launch


def call(fn, *args, launch):
    """What came of a run: its values, or its error as data; and when."""
    try:
        answer = {"values": sparkdl.run(fn, *args, launch=launch)}
    except BaseException as error:  # KeyboardInterrupt is one of the cases
        answer = {"at": time.time(), "text": str(error), "types": [kind.__name__ for kind in type(error).__mro__]}
        answer |= {"rank": getattr(error, "rank", None), "host": getattr(error, "host", "")}
    return {"at": time.time(), **answer}


def rank_number():
    return sparkdl.world().rank


def answer(request, spark, launcher):
    """Play one case, or a run that must succeed."""
    if "case" not in request:
        return call(rank_number, launch=LaunchConfig(num_workers=2, local=launcher == LOCAL, log="errors"))
    case, folder = Case(**request["case"]), Path(request["folder"])
    if case.what.by == "driver":
        cancel_when_ready(spark, folder)
    return call(play, case, folder, launch=launched(case))


def main():
    warnings.simplefilter("ignore")
    # What a shell starts in the background ignores Ctrl-C; so would this, where the trials run there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    launcher = sys.argv[1]
    spark = session(launcher)
    for line in sys.stdin:
        request = json.loads(line)
        target = Path(request["answer"])
        target.with_suffix(".part").write_text(json.dumps(answer(request, spark, launcher)))
        os.rename(target.with_suffix(".part"), target)
    if spark is not None:
        spark.stop()


if __name__ == "__main__":
    main()
