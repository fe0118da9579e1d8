"""What a driver needs whose executors are processes of their own: `local-cluster`, a cluster on one machine."""

import os
import sys
from pathlib import Path

import pyspark

import jvm
import sparkdl

MASTER = "local-cluster[2,1,1024]"


def environment(folder: Path, *paths: Path) -> dict[str, str]:
    """The variables of such a driver. All that Spark writes goes into the folder.

    Args:
        folder: an empty one.
        paths: where it and its executors find more modules.
    """
    path = [*map(str, paths), str(Path(sparkdl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "JDK_JAVA_OPTIONS": jvm.OPTIONS,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(entry for entry in path if entry),
        "SPARK_HOME": str(_spark_home(folder / "spark")),
        "SPARK_LOCAL_DIRS": str(folder / "spark-local"),
    }


def _spark_home(folder: Path) -> Path:
    # Spark's own files as links: local-cluster writes what its executors print into the folder `work` beside them.
    folder.mkdir()
    for entry in Path(pyspark.__file__).parent.iterdir():
        if entry.name != "work":
            (folder / entry.name).symlink_to(entry)
    return folder
