"""Preflight asks the session: what Spark's own settings lead to, on a cluster that encrypts and has GPUs."""

import json
import os
import pathlib
import subprocess
import sys

import pyspark
import pytest

from sparkdl.errors import LaunchError
from sparkdl.launch.checks.preflight import check_session
from sparkdl.launch.config import LaunchConfig

pytestmark = pytest.mark.timeout(120)

DRIVER = """
import json, logging, sys
from pyspark.sql import SparkSession
from sparkdl.errors import LaunchError
from sparkdl.launch.checks.preflight import check_session

builder = SparkSession.builder.master("local-cluster[1,1,1024]")
for name, value in json.loads(sys.argv[1]).items():
    builder = builder.config(name, value)
spark = builder.getOrCreate()
logging.basicConfig(stream=sys.stdout, format="told %(levelname)s %(message)s")
for options in json.loads(sys.argv[2]):
    try:
        check_session(spark, start_timeout_s=60, **options)
        print("told ready")
    except LaunchError as error:
        print("told", error)
spark.stop()
"""


def told(settings, calls, folder):
    """What the checks of these calls say, in a driver of its own."""
    home = folder / "spark"  # its workers write below it
    home.mkdir()
    for entry in pathlib.Path(pyspark.__file__).parent.iterdir():
        if entry.name != "work":
            (home / entry.name).symlink_to(entry)
    command = [sys.executable, "-c", DRIVER, json.dumps(settings), json.dumps(calls)]
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=env)
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("told ") for line in done.stdout.splitlines() if line.startswith("told ")]


@pytest.mark.soak
def test_a_cluster_that_encrypts_and_has_gpus_is_asked(tmp_path):
    script = tmp_path / "gpus.sh"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["0", "1"]}'\n""")
    script.chmod(0o755)
    settings = {
        "spark.ui.enabled": "false",
        "spark.authenticate": "true",
        "spark.authenticate.secret": "secret",
        "spark.network.crypto.enabled": "true",
        "spark.worker.resource.gpu.amount": "2",
        "spark.worker.resource.gpu.discoveryScript": str(script),
        "spark.executor.resource.gpu.amount": "2",
        "spark.task.resource.gpu.amount": "2",
    }
    calls = [
        {"num_workers": 1, "gpus_per_worker": 2},
        {"num_workers": 1, "gpus_per_worker": 1, "allow_unencrypted": True},
        {"num_workers": 1, "gpus_per_worker": 2, "allow_unencrypted": True},
        {"num_workers": 1, "gpus_per_worker": 0, "allow_unencrypted": True},
    ]
    assert told(settings, calls, tmp_path) == [
        "spark.network.crypto.enabled=true encrypts this session's connections, but ranks talk to each other (Gloo) "
        "and to the driver unencrypted; LaunchConfig(allow_unencrypted=True) lets them",
        "gpus_per_worker=1 but spark.task.resource.gpu.amount=2; set it to 1",
        "ready",
        "WARNING spark.task.resource.gpu.amount=2 but gpus_per_worker=0: the ranks use no GPU; set gpus_per_worker=2",
        "ready",
    ]


def test_gpus_of_tasks_on_the_drivers_machine_are_refused(spark):
    with pytest.raises(LaunchError, match=r"gpus_per_worker=1 but tasks of local\[2\] own no GPUs; use local=True"):
        check_session(spark, 2, 60, gpus_per_worker=1)


def test_a_session_without_gpus_and_encryption_passes(spark, caplog):
    launch = LaunchConfig(num_workers=2)
    check_session(
        spark,
        launch.num_workers,
        launch.start_timeout_s,
        gpus_per_worker=launch.gpus_per_worker,
        allow_unencrypted=launch.allow_unencrypted,
    )
    assert caplog.messages == []
