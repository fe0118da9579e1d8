"""Options of the JVMs that tests start, and the archive of Spark's classes that they share."""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from paths import ROOT

ARCHIVE = ROOT / "build" / "tests" / "spark-classes.jsa"
# They live for seconds or minutes, many on few cores: compiling well what runs once took half of all processor time.
COMPILE_LITTLE = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# Half of the time of a short Spark program goes into loading classes. An archive that does not fit is not used.
OPTIONS = f"{COMPILE_LITTLE} -XX:SharedArchiveFile={ARCHIVE} -Xlog:cds*=off"

PROGRAM = """
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
rows = spark.range(100).selectExpr("id", "id % 7 AS x", "array(double(id)) AS v", "string(id) AS s")
rows.mapInArrow(lambda batches: batches, rows.schema).repartition(3).write.parquet(sys.argv[1])
read = spark.read.parquet(sys.argv[1])
read.join(read.groupBy("x").count(), "x").orderBy("id").collect()
spark.stop()
"""


def make_archive() -> None:
    """Write the archive, by a short program of Spark's, unless it is there and not older than the environment."""
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    with open(ARCHIVE.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ARCHIVE.exists() and ARCHIVE.stat().st_mtime > Path(sys.prefix, "pyvenv.cfg").stat().st_mtime:
            return
        with tempfile.TemporaryDirectory(dir=ARCHIVE.parent) as folder:
            made, program = Path(folder, ARCHIVE.name), Path(folder, "program.py")
            program.write_text(PROGRAM)
            command = [str(Path(sys.executable).parent / "spark-submit"), "--master", "local[2]"]
            command += ["--conf", "spark.ui.enabled=false", str(program), str(Path(folder, "rows"))]
            options = f"{COMPILE_LITTLE} -XX:ArchiveClassesAtExit={made}"
            env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_SUBMIT_OPTS": options}
            done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=150)
            assert done.returncode == 0, f"Spark does not run here: {done.stderr}{done.stdout}"
            made.replace(ARCHIVE)


if __name__ == "__main__":
    make_archive()
