"""MNIST by spark-submit on two ranks: at least 99 % of the test images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paths import DATA, ROOT


@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} does not exist; SPARKDL_DATA names the folder with MNIST")
@pytest.mark.timeout(3600)
def test_a_plain_cnn_recognizes_99_of_100_digits(tmp_path) -> None:
    submit = [str(Path(sys.executable).parent / "spark-submit"), "--master", "local[2]"]
    command = [*submit, str(ROOT / "jobs" / "examples" / "mnist.py"), str(DATA), str(tmp_path)]
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    assert figures["test_accuracy"] >= 0.99
