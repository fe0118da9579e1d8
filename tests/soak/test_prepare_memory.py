"""The driver of a prepare holds descriptions of parts, never rows: 100 times the rows, and hardly a byte more.

    .venv/bin/python -m pytest tests/soak/test_prepare_memory.py -s

Executors are processes of their own here (local-cluster), so that the driver's memory is the driver's alone.
"""

import json
import subprocess
import sys

import pytest

CHILD = """
import json, sys
import psutil
from pyspark.sql import SparkSession
import sparkdl
folder, rows = sys.argv[1], int(sys.argv[2])
spark = (
    SparkSession.builder.master("local-cluster[1,2,1024]").config("spark.ui.enabled", "false")
    .config("spark.driver.memory", "512m").config("spark.ui.showConsoleProgress", "false").getOrCreate()
)
columns = ["id", "float(rand(1)) as a", "float(rand(2)) as b", "float(rand(3)) as c", "float(rand(4)) as d"]
spark.range(0, rows, 1, 8).selectExpr(*columns).write.parquet(folder + "/source")
df = spark.read.parquet(folder + "/source")
config = sparkdl.PrepareConfig(path=folder + "/data", features=["a", "b", "c", "d"], keep=["id"])
ds = sparkdl.prepare(df, config)
runtime = spark._jvm.java.lang.Runtime.getRuntime()
for _ in range(3):
    spark._jvm.java.lang.System.gc()
heap = runtime.totalMemory() - runtime.freeMemory()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps({"rows": ds.split("train").rows, "parts": len(ds.parts), "heap_mb": heap / 2**20,
                  "python_peak_mb": int(peak) / 1024}))
spark.stop()
"""


def measure(folder, rows):
    folder.mkdir()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(rows)], capture_output=True, text=True, timeout=900
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout.splitlines()[-1])


@pytest.mark.timeout(1800)
def test_the_drivers_memory_does_not_grow_with_the_rows(tmp_path) -> None:
    small, large = (measure(tmp_path / str(rows), rows) for rows in (100_000, 10_000_000))
    print(small, large, sep="\n")
    assert large["rows"] == 100 * small["rows"]
    assert large["heap_mb"] < small["heap_mb"] + 32
    assert large["python_peak_mb"] < small["python_peak_mb"] + 16
