"""Spark's workers run another Python than the driver: it is told, with the way out."""

import os
import subprocess
import sys
import venv

import pyspark

PROGRAM = """
import sys
from pyspark.sql import SparkSession
import sparkdl
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
rows = spark.range(10).selectExpr("double(id) as x")
for work in (
    lambda: sparkdl.prepare(rows, sparkdl.PrepareConfig(path=sys.argv[1], features=["x"])),
    lambda: sparkdl.run(print, launch=sparkdl.LaunchConfig(num_workers=1)),
):
    try:
        work()
    except sparkdl.SparkDLError as error:
        print("told", type(error).__name__, error, sep="|")
"""


def test_a_program_whose_environment_is_not_activated_is_told_so(tmp_path) -> None:
    venv.create(tmp_path / "bare")
    env = {**os.environ, "PATH": f"{tmp_path / 'bare' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    env.pop("PYSPARK_PYTHON", None)
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "program.py", str(tmp_path / "data")],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=150,
    )
    told = [line.split("told|")[1].split("|") for line in done.stdout.splitlines() if "told|" in line]
    assert [kind for kind, _ in told] == ["ConfigError", "LaunchError"], done.stdout + done.stderr
    for _, message in told:
        # What Spark itself misses comes first.
        old = pyspark.__version__.startswith("3.5") and sys.version_info >= (3, 12)
        assert f"the executors have no {'setuptools' if old else 'pyarrow'}" in message
        assert f"Spark's workers run 'python3', this program {sys.executable}: activate its environment" in message
        assert message.endswith(f"or set PYSPARK_PYTHON={sys.executable}, before the session is made")
