"""Jobs as a scheduler runs them: again, as a dry run, with a log for machines, and ended by SIGTERM."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from paths import ROOT
from sparkdl.train.run.checkpoint import committed_checkpoints

LOG = f"-Dlog4j2.configurationFile={ROOT / 'conf' / 'log4j2.properties'}"
pytestmark = pytest.mark.timeout(300)

# All jobs one after the other, each with a session of its own, in one Java process. What each said, and its exit code.
SEVERAL = """
import contextlib, io, json, runpy, sys
told = []
for argv in json.loads(sys.argv[1]):
    sys.argv, code, said = argv, 0, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code
    told.append({"code": code, "said": said.getvalue()})
open("told.json", "w").write(json.dumps(told))
"""


def environment() -> dict[str, str]:
    options = f"--master local[2] --conf spark.ui.enabled=false --driver-java-options {LOG} pyspark-shell"
    path = os.pathsep.join([str(ROOT / "jobs"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYSPARK_SUBMIT_ARGS": options, "PYTHONPATH": path}


def in_a_row(folder: Path, *jobs: list[str]) -> list[dict]:
    """Run jobs, given as [name, arguments…], in a folder."""
    argvs = [[str(ROOT / "jobs" / f"{name}.py"), str(ROOT / "conf" / f"{name}.yaml"), *more] for name, *more in jobs]
    command = [sys.executable, "-c", SEVERAL, json.dumps(argvs)]
    done = subprocess.run(command, cwd=folder, env=environment(), text=True, timeout=250, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())


@pytest.mark.soak
def test_a_dry_run_tells_the_plan_and_the_same_job_twice_works_once(tmp_path) -> None:
    plan, first, again, train_plan, refused = in_a_row(
        tmp_path,
        ["prepare", "dry_run=true"],
        ["prepare", "log_format=json"],
        ["prepare", "log_format=json"],
        ["train", "dry_run=true", "launch.env={API_TOKEN: t0ps3cret}"],
        ["train", "dry_run=true", "log_format=json", "launch.num_workers=3"],
    )
    assert plan["code"] == 0 and re.search(r"dry run: dataset .*/build/digits/data \(new\) of", plan["said"]), plan
    results = [json.loads(job["said"].splitlines()[-1]) for job in (first, again)]
    assert [job["code"] for job in (first, again)] == [0, 0]
    assert results[0]["fingerprint"] == results[1]["fingerprint"] and results[0]["rows"]["train"] == 1468
    assert "found {'train': 1468" in again["said"]
    kept = yaml.safe_load((tmp_path / "build" / "digits" / "data.job.yaml").read_text())
    assert kept["source"] == "examples.digits:read" and "log_format" not in kept
    assert train_plan["code"] == 0, train_plan
    assert re.search(r"dry run: training .*/run \(new\): 20 epochs of 23 steps over 1,468 rows", train_plan["said"])
    assert not (tmp_path / "build" / "digits" / "run").exists()
    error = json.loads(refused["said"].splitlines()[-1])
    assert refused["code"] == 2 and error["exit_code"] == 2 and error["level"] == "ERROR"
    assert "num_workers=3 but local[2] has 2 slots" in error["message"]


@pytest.mark.soak
def test_a_scoring_job_twice_works_once_by_spark_and_directly(tmp_path) -> None:
    import keras
    import pyarrow as pa
    import pyarrow.parquet as pq

    import sparkdl

    model = keras.Sequential([keras.Input((), name="x"), keras.layers.Reshape((1,)), keras.layers.Rescaling(2.0)])
    sparkdl.save_model(model, str(tmp_path / "model"), inputs=["x"])
    pq.write_table(pa.table({"id": range(9), "x": [float(i) for i in range(9)]}), tmp_path / "x.parquet")
    common = ["source={path: x.parquet}", "model_dir=model", "dataset=null", "split=null", "returns=raw", "keep=[id]"]
    spark, direct = [*common, "output=by-spark"], [*common, "output=direct", "direct=true"]
    told = in_a_row(
        tmp_path,
        *(["score", *how, *more] for how in (spark, direct) for more in (["dry_run=true"], [], [], ["dry_run=true"])),
        ["score", *direct, "split=test"],
        ["score", *direct, "source=examples.digits:read"],
        *(["score", *how, *more] for how in (spark, direct) for more in (["if_exists=error"], ["if_exists=append"])),
        *(["score", *how, "if_exists=replace", *more] for how in (spark, direct) for more in (["dry_run=true"], [])),
    )
    assert [job["code"] for job in told] == [0] * 8 + [2] * 6 + [0] * 4, told
    for first in (10, 12):
        assert "already holds predictions, and if_exists='error'" in told[first]["said"]
        assert "if_exists='append' must be one of" in told[first + 1]["said"]
    for first in (14, 16):
        assert "(replaced) of columns id " in told[first]["said"] and "9 rows in 1 batch" in told[first + 1]["said"]
    for first in (0, 4):
        assert "(new) of columns id " in told[first]["said"] and "(finished)" in told[first + 3]["said"]
        assert "9 rows in 1 batches" in told[first + 1]["said"] and "found, scored" in told[first + 2]["said"]
    assert "x.parquet is not a prepared dataset" in told[8]["said"] and "source must be {path: …}" in told[9]["said"]
    for output in ("by-spark", "direct"):
        assert pq.read_table(tmp_path / output).to_pylist() == [{"id": i, "prediction": 2.0 * i} for i in range(9)]
        assert yaml.safe_load((tmp_path / f"{output}.job.yaml").read_text())["model_dir"] == "model"


USER_MODULE = """
import time
from pathlib import Path
from examples.digits import build_model

def paced():
    import keras, sparkdl

    class Pace(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3 and sparkdl.world().rank == 0:
                Path("SEEN").touch()
            time.sleep(0.2)

    return [Pace()]
"""


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).parent / "spark-submit"), str(ROOT / "jobs" / "train.py")]
    command += [str(ROOT / "conf" / "train.yaml"), *arguments]
    env = {**environment(), "PYTHONPATH": os.pathsep.join([str(folder), environment()["PYTHONPATH"]])}
    env["SPARK_CONF_DIR"] = str(folder)
    return subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.soak
def test_sigterm_ends_a_training_job_with_a_checkpoint(digits_dataset, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(USER_MODULE.replace("SEEN", str(tmp_path / "seen")))
    (tmp_path / "spark-defaults.conf").write_text("spark.master local[2]\nspark.ui.enabled false\n")
    arguments = (f"dataset={digits_dataset.path}", "run_dir=run", "epochs=2", "callbacks=mine:paced")
    job = started(tmp_path, *arguments)
    limit = time.monotonic() + 120
    while not (tmp_path / "seen").exists() and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)  # to the Java process: that is what spark-submit has become
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 143, said
    message = r"^error: training was asked to end and has a checkpoint before epoch 1, step \d+; the same call goes on"
    assert re.search(message, said, re.MULTILINE), said
    (checkpoint,) = committed_checkpoints(str(tmp_path / "run" / "checkpoints"))
    assert "epoch-00000-step-" in checkpoint and not (tmp_path / "run" / "driver.json").exists()
    (other,) = in_a_row(tmp_path, ["train", *arguments, "seed=8"])
    message = r"^error: run_dir=.* holds another run: config.seed was 7, is 8; .*$"
    assert other["code"] == 2 and re.search(message, other["said"], re.MULTILINE), other
