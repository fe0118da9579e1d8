"""Executors that cannot reach the driver's port: ranks run all the same, through the log folder."""

import json
import subprocess
import sys

import pytest

import local_cluster

pytestmark = pytest.mark.timeout(180)

# The tasks are told a port of the driver on which nobody listens, as behind a firewall that refuses.
DRIVER = """
import json, logging, socket, sys, threading, time
from pyspark.sql import SparkSession
import sparkdl
from sparkdl.launch.protocol.channel import ControlServer
from sparkdl.launch.worker.emit import emit
from sparkdl.launch.run import launch_ranks

with socket.create_server(("", 0)) as unused:
    closed_port = unused.getsockname()[1]
ControlServer.port = property(lambda self: closed_port)
logging.basicConfig(level=logging.WARNING)
folder = sys.argv[2]
spark = SparkSession.builder.master(sys.argv[1]).config("spark.ui.enabled", "false").getOrCreate()

def speak():
    rank = sparkdl.world().rank
    print(f"hello from {rank}")
    emit({"rank": rank})
    return bytes([rank]) * (20 << 20)

def fail():
    if sparkdl.world().rank == 1:
        raise ValueError("boom")
    threading.Event().wait()

def launched(fn, **options):
    launch = sparkdl.LaunchConfig(num_workers=2, log="all", **options)
    events = []
    try:
        values = launch_ranks(fn, launch=launch, on_event=lambda rank, event: events.append((rank, event)))
        return {"values": [value == bytes([rank]) * (20 << 20) for rank, value in enumerate(values)], "events": events}
    except sparkdl.SparkDLError as error:
        return {"error": f"{type(error).__name__}: {error}"}

told = {"run": launched(speak, log_dir=folder), "failure": launched(fail, log_dir=folder), "refused": launched(speak)}
with sparkdl.WorkerGroup(sparkdl.LaunchConfig(num_workers=2, log="errors", log_dir=f"{folder}-group")) as group:
    told["group"] = [sparkdl.run(lambda: sparkdl.world().rank, launch=group) for _ in range(2)]
open(sys.argv[3], "w").write(json.dumps(told))
spark.stop()
"""


@pytest.mark.soak
def test_ranks_speak_with_a_driver_they_cannot_reach_through_the_log_folder(tmp_path):
    logs = tmp_path / "logs"
    command = [sys.executable, "-c", DRIVER, local_cluster.MASTER, str(logs), str(tmp_path / "told.json")]
    env = local_cluster.environment(tmp_path)
    done = subprocess.run(command, env=env, cwd=tmp_path, text=True, timeout=150, capture_output=True)
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["run"]["values"] == [True, True]
    assert told["group"] == [[0, 1], [0, 1]]
    assert sorted(told["run"]["events"]) == [[0, {"rank": 0}], [1, {"rank": 1}]]
    assert "cannot reach the driver at " in done.stderr and "they speak through the folder" in done.stderr
    assert "[rank 1] hello from 1" in done.stderr
    assert "failed: ValueError: boom" in told["failure"]["error"]
    assert "cannot reach the driver at " in told["refused"]["error"] and "set log_dir" in told["refused"]["error"]
    # Each launch has its folder with a file for each rank; the mailboxes are gone.
    first, second = sorted(logs.iterdir())
    assert [file.name for file in sorted(first.iterdir())] == ["rank-0000.log", "rank-0001.log"]
    lines = (first / "rank-0001.log").read_text().splitlines()
    assert lines[0].startswith("sparkdl: rank 1/2 ") and lines[1:] == ["hello from 1"]
    assert "ValueError: boom" in told["failure"]["error"] and str(second / "rank-0001.log") in told["failure"]["error"]
