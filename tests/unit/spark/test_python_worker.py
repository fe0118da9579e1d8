"""A Spark worker does not read PySpark's archives again before each task, and the user's archives it does."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pyspark

LIB = Path(pyspark.__file__).parent / "python" / "lib"

PROGRAM = """
import importlib, sys, zipfile, zipimport
import pyspark.serializers
import mine

reads, read = [], zipimport._read_directory
zipimport._read_directory = lambda archive: (reads.append(archive), read(archive))[1]

def read_before_a_task():
    reads.clear()
    importlib.invalidate_caches()
    return sum("pyspark.zip" in archive for archive in reads), sum("mine.zip" in archive for archive in reads)

from sparkdl.spark.python_worker import drop_zip_importers
before = read_before_a_task()
drop_zip_importers()
after = read_before_a_task()
import pyspark.storagelevel
with zipfile.ZipFile(sys.argv[1], "a") as archive:
    archive.writestr("added.py", "value = 7")
drop_zip_importers()
importlib.invalidate_caches()
import added
print(pyspark.__file__.count("pyspark.zip"), before[0] > 0, before[1], *after, added.value)
"""


def test_archives_of_pyspark_are_read_once_and_others_before_each_task(tmp_path) -> None:
    own = tmp_path / "mine.zip"
    with zipfile.ZipFile(own, "w") as archive:
        archive.writestr("mine.py", "")
    path = os.pathsep.join(map(str, [own, *LIB.glob("*.zip")]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(own)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # From Python 3.13 on, an archive is read again when a module is next looked for, as `added` is.
    read_again = "1" if sys.version_info < (3, 13) else "0"
    assert done.stdout.split() == ["1", "True", "1", "0", read_again, "7"], done.stderr
