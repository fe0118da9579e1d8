"""The commands of docs/clusters.md, and the archive on hosts that have nothing but Spark.

    .venv/bin/python -m pytest tests/soak/test_cluster_docs.py -s

As root, with iproute2. About five minutes.
"""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyspark
import pytest

from hosts import missing
from standalone import ROOT, SparkCluster

pytestmark = [pytest.mark.timeout(1800), pytest.mark.skipif(bool(missing()), reason=missing())]
DOC = (ROOT / "docs" / "clusters.md").read_text()
COMMANDS = [text for marked, text in re.findall(r"^```bash( not-run)?\n(.*?)^```$", DOC, re.M | re.S) if not marked]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder as a user has it: jobs, conf, and what `make pack` needs and makes."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("jobs", "conf", "docker", "scripts", "sparkdl"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(Path(sys.executable).parents[1])
    return folder


@pytest.fixture(scope="module")
def spark_home(tmp_path_factory) -> Path:
    """Spark by itself, outside of the environment, as a cluster has it."""
    target = tmp_path_factory.mktemp("opt") / "spark"
    source = Path(pyspark.__file__).parent
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def pack(folder: Path) -> Path:
    """What `make pack` does once the environment is made; the archive."""
    found = list(folder.glob("dist/*.tar.gz"))
    if not found:
        began = time.monotonic()
        done = subprocess.run(["scripts/pack.sh"], cwd=folder, text=True, capture_output=True, timeout=600)
        assert done.returncode == 0, done.stderr
        print(f"\n{done.stdout.strip()}; {time.monotonic() - began:.0f} s", flush=True)
        found = list(folder.glob("dist/*.tar.gz"))
    (archive,) = found
    return archive


def test_the_commands_run_as_they_are_written(folder, tmp_path) -> None:
    archive = pack(folder)
    with SparkCluster(tmp_path / "cluster") as cluster:
        env = cluster.environment("driver")
        for text in COMMANDS:
            command = text.replace("dist/sparkdl-env-0.1.0-py3.11.tar.gz", str(archive.relative_to(folder)))
            if command == "make pack\n":
                continue
            began = time.monotonic()
            done = cluster.driver.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=env, timeout=400)
            print(f"{command.strip()}\n  -> {time.monotonic() - began:.0f} s", flush=True)
            assert done.returncode == 0, done.stdout
            if "log_format=json" in command:
                assert '"state": "finished"' in done.stdout or '"state": "new"' in done.stdout, done.stdout
    assert list((folder / "build" / "digits" / "run").glob("model/model.keras"))
    assert list((folder / "build" / "digits" / "predictions").glob("*.parquet"))


def test_the_demo_of_the_compose_file_runs_on_two_hosts(folder, tmp_path) -> None:
    with SparkCluster(tmp_path / "cluster") as cluster:
        env = {**cluster.environment("driver"), "SPARKDL_HOME": str(folder)}
        done = cluster.driver.run([str(folder / "docker" / "demo.sh")], cwd=tmp_path, env=env, timeout=400)
    assert done.returncode == 0, done.stdout
    assert list((tmp_path / "build" / "digits" / "predictions").glob("*.parquet"))
    assert len(list((tmp_path / "events").iterdir())) == 3


USER_MODULE = """
def where(ds):
    import keras, sys, horovod, sparkdl, tensorflow
    for module in (keras, horovod, sparkdl, tensorflow):
        print("uses", module.__file__)
    print("python", sys.executable)
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(len(ds.classes), "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


def test_hosts_without_checkout_and_environment_train_and_score_from_the_archive(folder, spark_home, tmp_path) -> None:
    archive = pack(folder)
    here = tmp_path / "user"
    here.mkdir()
    for name in ("jobs", "conf"):
        shutil.copytree(folder / name, here / name)
    (here / "mine.py").write_text(USER_MODULE)
    # The driver's own environment is the archive too, unpacked somewhere.
    (here / "env").mkdir()
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(here / "env")], check=True)
    hidden = {ROOT, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve(), folder}
    workers = {name: {"hidden": sorted(hidden)} for name in ("worker-1", "worker-2")}
    # scikit-learn, which brings the demo's images, is no part of the archive: the raw rows are written here.
    env = {"SPARK_HOME": str(spark_home), "PYTHONPATH": "", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    env["PYSPARK_PYTHON"] = "./env/bin/python"
    env["PYSPARK_DRIVER_PYTHON"] = str(here / "env" / "bin" / "python")
    rows = write_rows(here)
    options = ("--archives", f"{archive}#env", "--py-files", str(here / "mine.py"))
    with SparkCluster(tmp_path / "cluster", workers, env=env, settings="spark.executor.memory 800m\n") as cluster:
        for host in ("worker-1", "worker-2"):
            for place in hidden:
                listed = cluster.network.hosts[host].run(["ls", "-A", str(place)], cwd=tmp_path)
                # One that lies in another is hidden with it.
                assert listed.stdout == "" or "No such file" in listed.stdout, (host, place, listed.stdout)
        jobs = {
            "prepare": ("version=1",),
            "train": ("epochs=2", "build_model=mine:where", "launch.num_workers=2", "launch.log=all"),
            "score": ("dataset=null", "split=null"),
        }
        said = {}
        for job, more in jobs.items():
            source = () if job == "train" else (f"source={{path: {rows}}}",)
            arguments = (f"jobs/{job}.py", f"conf/{job}.yaml", *source, *more)
            began = time.monotonic()
            done = cluster.submit(*options, *arguments, cwd=here, timeout=500)
            print(f"{job} from the archive: {time.monotonic() - began:.0f} s", flush=True)
            assert done.returncode == 0, done.stdout
            said[job] = done.stdout
    used = re.findall(r"uses (\S+)", said["train"]) + re.findall(r"python (/\S+)", said["train"])
    assert len(used) >= 10 and all("/env/" in place and "app-" in place for place in used), used
    assert list((here / "build" / "digits" / "predictions").glob("*.parquet"))


def write_rows(folder: Path) -> Path:
    """The digits as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = pa.array([row.tolist() for row in digits.data.astype("float32")], pa.list_(pa.float32()))
    numbers = {"id": pa.array(range(len(pixels)), pa.int64()), "digit": pa.array(digits.target.tolist(), pa.int32())}
    target = folder / "raw"
    target.mkdir()
    pq.write_table(pa.table({**numbers, "pixels": pixels}), target / "digits.parquet")
    return target
