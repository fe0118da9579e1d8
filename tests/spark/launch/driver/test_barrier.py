"""Ranks as tasks of a Spark barrier job."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from processes import is_alive, wait_until
from sparkdl.errors import LaunchError, WorkerError
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.run import launch_ranks, run
from sparkdl.launch.worker.emit import emit
from sparkdl.launch.world import world

pytestmark = pytest.mark.timeout(120)
TWO = LaunchConfig(num_workers=2, log="errors")


def rank_number():
    return world().rank


def test_values_come_in_rank_order(spark):
    assert run(rank_number, launch=TWO) == [0, 1]


def allreduce():
    import horovod.tensorflow as hvd
    import tensorflow as tf

    hvd.init()
    return float(hvd.allreduce(tf.constant(float(hvd.rank() + 1)), op=hvd.Sum))


def test_two_ranks_sum_with_horovod(spark):
    assert run(allreduce, launch=TWO) == [3.0, 3.0]


def ports_that_are_listened_on():
    return [found.laddr.port for found in psutil.net_connections("tcp") if found.status == "LISTEN"]


def test_the_driver_listens_on_the_port_that_is_asked_for(spark):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        launch = LaunchConfig(num_workers=2, driver_port=port)
        with pytest.raises(LaunchError, match=f"cannot listen on 127.0.0.1:{port} .*; driver_port=0 takes any free"):
            run(rank_number, launch=launch)
    assert all(port in ports for ports in run(ports_that_are_listened_on, launch=launch))


def fail_on_rank_1():
    emit({"pid": os.getpid()})
    if world().rank == 1:
        raise ValueError("boom")
    threading.Event().wait()


def test_after_an_error_on_one_rank_no_rank_is_left_and_the_session_runs_the_next(spark):
    pids = {}
    started = time.monotonic()
    with pytest.raises(WorkerError, match="rank 1/2 on .* failed: ValueError: boom"):
        launch_ranks(fail_on_rank_1, launch=TWO, on_event=lambda rank, event: pids.update({rank: event["pid"]}))
    assert time.monotonic() - started < 10
    assert not any(map(is_alive, pids.values()))
    assert run(rank_number, launch=TWO) == [0, 1]


def wait_in_all_ranks():
    emit({"pid": os.getpid()})
    threading.Event().wait()


def test_a_cancelled_job_is_told_as_that_and_the_session_runs_the_next(spark):
    pids = {}

    def on_event(rank, event):
        pids[rank] = event["pid"]
        if len(pids) == 2:
            spark.sparkContext.cancelAllJobs()

    with pytest.raises(LaunchError, match="the Spark job of 2 ranks was cancelled: "):
        launch_ranks(wait_in_all_ranks, launch=TWO, on_event=on_event)
    wait_until(lambda: not any(map(is_alive, pids.values())), 10)
    assert run(rank_number, launch=TWO) == [0, 1]


def test_a_killed_python_worker_is_a_lost_rank_and_leaves_no_process(spark):
    pids = {}

    def on_event(rank, event):
        pids[rank] = event["pid"]
        if len(pids) == 2:
            os.kill(psutil.Process(pids[1]).parent().ppid(), signal.SIGKILL)

    with pytest.raises(WorkerError, match=r"rank 1/2 on .* was lost: .* \(Python worker exited") as raised:
        launch_ranks(wait_in_all_ranks, launch=TWO, on_event=on_event)
    assert raised.value.rank == 1
    wait_until(lambda: not any(map(is_alive, pids.values())), 10)
    assert run(rank_number, launch=TWO) == [0, 1]


def test_four_runs_from_four_threads_all_finish(spark):
    values = {}

    def one(number):
        values[number] = run(rank_number, launch=TWO)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert values == {number: [0, 1] for number in range(4)}


def exit_3_on_rank_0():
    if world().rank == 0:
        os._exit(3)
    threading.Event().wait()


def test_a_rank_that_exits_is_named(spark):
    with pytest.raises(WorkerError, match="rank 0/2 on .* exited with code 3"):
        run(exit_3_on_rank_0, launch=TWO)


def test_large_values_come_back(spark):
    # 512 MB together, by far more than the JVM of this session could hold.
    assert [len(value) for value in run(lambda: bytes(256 << 20), launch=TWO)] == [256 << 20] * 2


def test_too_many_workers_are_refused_before_anything_runs(spark):
    started = time.monotonic()
    with pytest.raises(LaunchError, match=r"num_workers=5 but local\[2\] has 2 slots in all; use num_workers <= 2"):
        run(rank_number, launch=LaunchConfig(num_workers=5))
    assert time.monotonic() - started < 2


def test_fewer_ranks_than_wanted_run_where_that_is_allowed(spark, caplog):
    assert run(rank_number, launch=LaunchConfig(num_workers=5, min_workers=2, log="errors")) == [0, 1]
    assert "num_workers=5 but local[2] has 2 slots; the run goes on with them" in caplog.text


def slot_holder(folder):
    """A function for Spark that holds its slot until a file appears. Workers lack this module."""

    def hold(batches):
        import os
        import time

        open(f"{folder}/held", "w").close()
        limit = time.monotonic() + 60
        while not os.path.exists(f"{folder}/free") and time.monotonic() < limit:
            time.sleep(0.05)
        yield from batches

    return hold


@pytest.mark.soak
def test_ranks_that_find_no_slots_in_time_are_a_launch_error(spark, tmp_path):
    held = spark.range(1, numPartitions=1).mapInArrow(slot_holder(str(tmp_path)), "id long")
    thread = threading.Thread(target=held.collect)
    thread.start()
    wait_until((tmp_path / "held").exists, 30)
    try:
        with pytest.raises(LaunchError, match="0 of 2 ranks started within start_timeout_s=1;"):
            run(rank_number, launch=LaunchConfig(num_workers=2, start_timeout_s=1))
    finally:
        (tmp_path / "free").touch()
        thread.join()
    assert run(rank_number, launch=TWO) == [0, 1]


def test_the_reused_python_workers_environment_is_unchanged(spark):
    def worker():
        return psutil.Process().parent().ppid()  # the rank's parent is its reaper

    def worker_environment(batches):
        import os

        import pyarrow as pa

        for _ in batches:
            text = "\n".join(name for name in sorted(os.environ) if "HOROVOD" in name)
            yield pa.RecordBatch.from_arrays([pa.array([os.getpid()]), pa.array([text])], names=["pid", "text"])

    workers = set(run(worker, launch=TWO))
    rows = spark.range(2, numPartitions=2).mapInArrow(worker_environment, "pid long, text string").collect()
    assert workers & {row["pid"] for row in rows}, "no worker was reused"
    assert {row["text"] for row in rows} == {""}


def test_the_job_description_of_the_caller_is_kept(spark):
    context = spark.sparkContext
    context.setJobDescription("mine")
    try:
        run(rank_number, launch=TWO)
        assert context.getLocalProperty("spark.job.description") == "mine"
    finally:
        context.setLocalProperty("spark.job.description", None)


DRIVER = """
import os, sys, threading
from pyspark.sql import SparkSession
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.run import run
SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
run(lambda: (print("up", os.getpid(), flush=True), threading.Event().wait()),
    launch=LaunchConfig(num_workers=2, log="all"))
"""


def test_killing_the_driver_leaves_no_rank():
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stderr=subprocess.PIPE, text=True, env=env)
    with driver:
        assert driver.stderr is not None
        pids = []
        while len(pids) < 2:
            line = driver.stderr.readline()
            assert line, "the driver ended before its ranks were up"
            if " up " in line:
                pids.append(int(line.split(" up ")[1]))
        assert all(map(is_alive, pids))
        driver.send_signal(signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)), 5)


def test_without_a_session_the_error_says_what_to_do():
    code = (
        "from sparkdl.launch.config import LaunchConfig; from sparkdl.launch.run import run\n"
        "run(print, launch=LaunchConfig(num_workers=2))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "LaunchError: no SparkSession is active; start one, or run on this machine with local=True" in done.stderr
