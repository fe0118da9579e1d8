"""A Horovod that is missing, or was built for another TensorFlow or for none, is told with what to run."""

import json
import subprocess
import sys
from pathlib import Path

import horovod
import pytest

from paths import FIXTURES, TESTS

BUILD = "build it for the TensorFlow that is installed (docs/install.md; for GPUs too): pip install "

PROGRAM = """
import sys
sys.path[:0] = sys.argv[1:2]
import sparkdl
from groups import age_model

if __name__ == "__main__":
    if not sys.argv[3]:
        sys.modules["horovod"] = None
    dataset = sparkdl.open_dataset(sys.argv[2])
    config = sparkdl.TrainConfig(run_dir=sys.argv[4], epochs=1, global_batch_size=7)
    try:
        sparkdl.fit(age_model, dataset, config, launch=sparkdl.LaunchConfig(num_workers=2, local=True))
    except sparkdl.SparkDLError as error:
        print(f"{type(error).__name__}: {error}".splitlines()[0])
"""


def told(tmp_path: Path, installed: str) -> str:
    """Return the first line of the error of a fit, in a process of its own."""
    (tmp_path / "program.py").write_text(PROGRAM)
    arguments = [str(TESTS), str(FIXTURES / "dataset-v1"), installed, str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout or done.stderr


def test_no_horovod(tmp_path) -> None:
    assert told(tmp_path, "").startswith(f"LaunchError: Horovod is not installed; {BUILD}")


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"tensorflow": "2.6.0"}, "Horovod was built for TensorFlow 2.6.0, and this is TensorFlow 2."),
        ({"pytorch": "1.13.1"}, "Horovod was built without TensorFlow; "),
    ],
)
def test_another_build(tmp_path, metadata, why) -> None:
    """The installed Horovod's own files, beside another note of what they were built for."""
    (tmp_path / "horovod").mkdir()
    for file in Path(horovod.__file__).parent.iterdir():
        if file.name != "metadata.json":
            (tmp_path / "horovod" / file.name).symlink_to(file)
    (tmp_path / "horovod" / "metadata.json").write_text(json.dumps(metadata))
    line = told(tmp_path, "yes")
    assert why in line and BUILD in line
