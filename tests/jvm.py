"""Options of the JVMs that tests start, which live for seconds.

Run as a program, it makes what most of their start-up is saved with: `python tests/jvm.py`, once in an environment.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyspark

# Spark's classes as the JVM has them in memory, read and verified: a driver starts in half of the processor time
# (https://docs.oracle.com/en/java/javase/17/vm/class-data-sharing.html). A JVM with other jars, or another Java, goes
# without them.
ARCHIVE = Path(sys.prefix) / "spark-classes.jsa"
# Without the second compiler they take half of the processor time that is left.
_SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_QUIET = "-Xlog:cds=off -Xlog:cds+dynamic=off -Xlog:class+path=off"
OPTIONS = f"{_SHORT_LIVED} -XX:SharedArchiveFile={ARCHIVE} {_QUIET}" if ARCHIVE.exists() else _SHORT_LIVED

# What most tests do; the classes that it needs are those of the archive.
PROGRAM = """
import sys
from pyspark.sql import SparkSession
import sparkdl
from sparkdl.features import Categorical

spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
rows = spark.range(100).selectExpr("id", "double(id) as x", "array(rand(1), rand(2)) as v", "string(id % 3) as word")
rows.write.parquet(sys.argv[1] + "/rows")
features = ["x", "v", Categorical("word")]
splits = sparkdl.Split.fraction({"train": 0.9, "test": 0.1}, seed=1, key="id")
config = sparkdl.PrepareConfig(path=sys.argv[1] + "/data", features=features, keep=["id"], splits=splits)
sparkdl.prepare(spark.read.parquet(sys.argv[1] + "/rows"), config)
sparkdl.read_prepared(spark, sys.argv[1] + "/data", "train").collect()
sparkdl.run(sparkdl.world, launch=sparkdl.LaunchConfig(num_workers=2, log="errors"))
spark.stop()
"""


def main() -> None:
    """Make the archive, unless there is one of the Spark that is installed."""
    if ARCHIVE.exists() and ARCHIVE.stat().st_mtime > (Path(pyspark.__file__).parent / "jars").stat().st_mtime:
        return
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
        made = Path(folder) / ARCHIVE.name
        options = f"{_SHORT_LIVED} {_QUIET} -XX:ArchiveClassesAtExit={made}"
        env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_SUBMIT_OPTS": options}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, folder], env=env, cwd=folder, text=True, timeout=300, capture_output=True
        )
        # The JVM, which outlives the program by the time of writing, holds its output open.
        if made.exists():
            made.replace(ARCHIVE)
        else:  # as where Java comes without an archive of its own classes, which this one is added to
            print(f"The tests go without an archive of Spark's classes: {done.stdout[-500:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
