"""The demo, as `make demo` starts it: the whole way, quietly, with a picture and a good model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def barrier_stages(folder: Path) -> list[int]:
    """The number of tasks of each barrier stage in Spark's event log."""
    tasks = []
    for file in folder.rglob("*"):
        lines = file.read_text().splitlines() if file.is_file() and not file.name.endswith(".crc") else []
        for event in map(json.loads, lines):
            if event["Event"] == "SparkListenerStageCompleted":
                stage = event["Stage Info"]
                if any(rdd.get("Barrier") for rdd in stage["RDD Info"]):
                    tasks.append(stage["Number of Tasks"])
    return tasks


def test_the_demo_goes_the_whole_way(tmp_path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYSPARK_PYTHON"}
    program = [sys.executable, str(ROOT / "jobs" / "examples" / "digits.py")]
    done = subprocess.run(program, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no library speaks on the terminal"
    assert float(re.search(r"test accuracy ([0-9.]+) over 165", done.stdout).group(1)) >= 0.97
    assert len(re.findall(r"^epoch \d+/20 .* rows/s", done.stdout, re.MULTILINE)) == 20
    (run,) = (tmp_path / "build" / "demo").iterdir()
    assert (run / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert barrier_stages(run / "events") == [2]
