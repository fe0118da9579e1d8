"""Several fits in one driver, two drivers at once, and executors with other packages than the driver's.

In local mode and on executors that are processes of their own.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import local_cluster
import sparkdl

pytestmark = pytest.mark.timeout(600)
MASTERS = ("local[4]", "local-cluster[4,1,1024]")

SESSION = """
import json, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pyspark.sql import SparkSession
import sparkdl

builder = SparkSession.builder.master(sys.argv[1]).config("spark.ui.enabled", "false")
spark = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
"""

FITS = """
rows = spark.range(400).selectExpr("array(double(id % 20), double(id % 3)) as x", "double(id % 7) as y")
ds = sparkdl.prepare(rows, sparkdl.PrepareConfig(path=sys.argv[2] + "/data", features=["x"], label="y"))

def build_model(ds):
    import keras
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", "mse")
    return model

def stamps(number):
    def make():
        import keras
        file = f"{sys.argv[2]}/{number}-{sparkdl.world().rank}"
        def stamp(word):
            return lambda logs=None: open(f"{file}-{word}", "w").write(str(time.time()))
        return [keras.callbacks.LambdaCallback(on_train_begin=stamp("begin"), on_train_end=stamp("end"))]
    return make

def fit(number):
    where = f"{sys.argv[2]}/run-{number}"
    config = sparkdl.TrainConfig(run_dir=where, epochs=2, global_batch_size=50, callbacks=stamps(number))
    result = sparkdl.fit(build_model, ds, config, launch=sparkdl.LaunchConfig(num_workers=2, start_timeout_s=120))
    return [record["loss"] for record in result.history]

fits = int(sys.argv[3])
with ThreadPoolExecutor(fits) as threads:
    losses = list(threads.map(fit, range(fits)))
print("LOSSES", json.dumps(losses))
spark.stop()
"""


def start(master: str, folder: Path, fits: int) -> subprocess.Popen[str]:
    """A driver with so many fits of two workers at once."""
    folder.mkdir()
    source = folder / "driver.py"
    source.write_text(SESSION + FITS.replace("sys.argv[2]", repr(str(folder))))
    command = [sys.executable, str(source), master, "-", str(fits)]
    env, pipes = local_cluster.environment(folder), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, cwd=folder, text=True, **pipes)


def losses_of(driver: subprocess.Popen[str]) -> list[list[float]]:
    out, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err
    return json.loads(out.split("LOSSES", 1)[1])


def most_at_once(folder: Path, fits: int) -> int:
    """The most fits that trained at the same moment."""

    def span(number: int) -> tuple[float, float]:
        first = min(float((folder / f"{number}-{rank}-begin").read_text()) for rank in (0, 1))
        return first, max(float((folder / f"{number}-{rank}-end").read_text()) for rank in (0, 1))

    spans = [span(number) for number in range(fits)]
    return max(sum(begin <= moment <= end for begin, end in spans) for moment, _ in spans)


@pytest.mark.parametrize("master", MASTERS)
def test_four_fits_of_two_workers_share_four_slots(master, tmp_path) -> None:
    began = time.monotonic()
    losses = losses_of(start(master, tmp_path / "driver", 4))
    print(f"{master}: four fits in {time.monotonic() - began:.0f} s, session and dataset included")
    assert len(losses) == 4 and all(one == losses[0] for one in losses)
    # They train for less than a second each, so that two need not meet; three cannot.
    assert most_at_once(tmp_path / "driver", 4) <= 2


@pytest.mark.parametrize("master", MASTERS)
def test_two_drivers_at_once(master, tmp_path) -> None:
    drivers = [start(master, tmp_path / name, 1) for name in ("one", "two")]
    first, second = [losses_of(driver) for driver in drivers]
    assert first == second


OTHERS = """
spark.range(2, numPartitions=2).mapInArrow(lambda batches: batches, "id long").collect()  # the executors are up
began = time.monotonic()
try:
    sparkdl.run(print, launch=sparkdl.LaunchConfig(num_workers=2))
    told = "nothing"
except sparkdl.SparkDLError as error:
    told = f"{type(error).__name__}: {error}"
print("TOLD", json.dumps([told, time.monotonic() - began]))
spark.stop()
"""


def other_sparkdl(folder: Path) -> None:
    package = shutil.copytree(Path(sparkdl.__file__).parent, folder / "sparkdl")
    version = (package / "version.py").read_text()
    assert f'__version__ = "{sparkdl.__version__}"' in version
    (package / "version.py").write_text(version.replace(sparkdl.__version__, "0.0.7"))
    # What the driver sends could not even be read there.
    place = package / "launch" / "worker" / "place.py"
    assert "class TaskPlan:" in place.read_text()
    place.write_text(place.read_text().replace("TaskPlan", "Plan"))


def other_distribution(name: str):
    def make(folder: Path) -> None:
        info = folder / f"{name.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")

    return make


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            other_sparkdl,
            f"the driver has sparkdl {sparkdl.__version__}, but the executors have sparkdl 0.0.7; send .* --py-files",
        ),
        (other_distribution("tensorflow"), "the driver has TensorFlow .*, but .* TensorFlow 1.2.3; spark.pyspark.pyth"),
        (other_distribution("keras"), "the driver has Keras .*, but .* Keras 1.2.3; spark.pyspark.python"),
        (other_distribution("horovod"), "the driver has Horovod .*, but .* Horovod 1.2.3; spark.pyspark.python"),
    ],
    ids=["sparkdl", "TensorFlow", "Keras", "Horovod"],
)
def test_executors_with_other_packages_are_told_in_one_line(make, says, tmp_path) -> None:
    make(tmp_path / "other")
    changed = f'.config("spark.executorEnv.PYTHONPATH", {str(tmp_path / "other")!r}).config("spark.ui.enabled"'
    source = SESSION.replace('.config("spark.ui.enabled"', changed) + OTHERS
    command = [sys.executable, "-c", source, local_cluster.MASTER]
    env = local_cluster.environment(tmp_path)
    done = subprocess.run(command, env=env, cwd=tmp_path, text=True, timeout=200, capture_output=True)
    assert done.returncode == 0, done.stderr
    told, seconds = json.loads(done.stdout.split("TOLD", 1)[1])
    print(f"{seconds:.1f} s: {told}")
    assert re.search(says, told) and "\n" not in told
