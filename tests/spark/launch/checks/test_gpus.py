"""GPUs, by Spark's own resource scheduler: each rank sees its own and no other's. The devices are made up, and only
their addresses are looked at."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import local_cluster

pytestmark = pytest.mark.timeout(180)

DRIVER = """
import json, logging, os, sys, threading
from pyspark.sql import SparkSession
import sparkdl

master, out, conf = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
builder = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
for name, value in conf.items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()

def visible():
    return os.environ["CUDA_VISIBLE_DEVICES"], os.environ.get("CUDA_DEVICE_ORDER")

def ranks(workers, gpus):
    try:
        launch = sparkdl.LaunchConfig(num_workers=workers, gpus_per_worker=gpus, log="errors")
        return sparkdl.run(visible, launch=launch)
    except sparkdl.SparkDLError as error:
        return f"{type(error).__name__}: {error}"

def worker_variable(batches):
    import os

    import pyarrow as pa

    for _ in batches:
        yield pa.RecordBatch.from_arrays([pa.array([os.environ.get("CUDA_VISIBLE_DEVICES", "unset")])], names=["v"])

told = {"gpus": ranks(2, 1)}
if isinstance(told["gpus"], str):
    open(out, "w").write(json.dumps(told))
    spark.stop()
    sys.exit()
told |= {"cpus": ranks(2, 0), "wrong": ranks(2, 2), "many": ranks(3, 1)}
rows = spark.range(2, numPartitions=2).mapInArrow(worker_variable, "v string").collect()
told["workers"] = [row["v"] for row in rows]
together = {}
threads = [threading.Thread(target=lambda n=n: together.update({n: ranks(1, 1)})) for n in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(60)
told["together"] = list(together.values())
open(out, "w").write(json.dumps(told))
spark.stop()
"""

# Each worker of a host needs addresses of its own: they are handed out by making folders, which only one can.
HAND_OUT = """#!/bin/sh
for address in 4 7; do
  if mkdir "{folder}/taken-$address" 2>/dev/null; then
    echo "{{\\"name\\": \\"gpu\\", \\"addresses\\": [\\"$address\\"]}}"; exit
  fi
done
"""
SAME = """#!/bin/sh
echo '{{"name": "gpu", "addresses": ["0", "1"]}}'
"""


def run_driver(folder: Path, master: str, script: str, amount: str):
    discovery = folder / "gpus.sh"
    discovery.write_text(script.format(folder=folder))
    discovery.chmod(0o755)
    conf = {
        "spark.worker.resource.gpu.amount": amount,
        "spark.worker.resource.gpu.discoveryScript": str(discovery),
        "spark.executor.resource.gpu.amount": amount,
        "spark.task.resource.gpu.amount": "1",
    }
    command = [sys.executable, "-c", DRIVER, master, str(folder / "told.json"), json.dumps(conf)]
    env = local_cluster.environment(folder)
    done = subprocess.run(command, env=env, cwd=folder, text=True, timeout=150, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text()), done.stderr


@pytest.mark.parametrize(
    ("master", "script", "amount", "addresses"),
    [
        ("local-cluster[1,2,1024]", SAME, "2", ["0", "1"]),
        pytest.param("local-cluster[2,1,1024]", HAND_OUT, "1", ["4", "7"], marks=pytest.mark.soak),
    ],
    ids=["two slots of one executor", "two executors of one host"],
)
def test_each_rank_sees_its_own_gpu(master, script, amount, addresses, tmp_path):
    told, log = run_driver(tmp_path, master, script, amount)
    assert sorted(told["gpus"]) == [[address, "PCI_BUS_ID"] for address in addresses]
    assert told["cpus"] == [["", None]] * 2 and "gpus_per_worker=0: the ranks use no GPU" in log
    # Two runs at once in one session: each has one slot with its GPU.
    assert sorted(run[0][0] for run in told["together"]) == addresses
    assert told["wrong"].startswith("LaunchError: gpus_per_worker=2 but spark.task.resource.gpu.amount=1")
    assert told["many"].startswith(f"LaunchError: num_workers=3 but {master} has 2 slots in all")
    # What a rank sees is not left in the Python worker that Spark uses again.
    assert told["workers"] == ["unset", "unset"]


@pytest.mark.soak
def test_executors_of_one_host_that_report_the_same_gpu_are_refused(tmp_path):
    told, _ = run_driver(tmp_path, "local-cluster[2,1,1024]", SAME.replace('"0", "1"', '"0"'), "1")
    assert told["gpus"].startswith("LaunchError: ranks 0 and 1 on ")
    assert "both got GPU 0" in told["gpus"]
