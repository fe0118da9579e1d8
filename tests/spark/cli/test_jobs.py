"""The jobs as users start them: spark-submit, from another folder, installed or from a zip."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import local_cluster
import sparkdl
from paths import ROOT

pytestmark = pytest.mark.timeout(300)


def submit(
    job: str, *arguments: str, cwd: Path, options: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a job of this repository by spark-submit in another folder."""
    log4j = f"-Dlog4j2.configurationFile={ROOT / 'conf' / 'log4j2.properties'}"
    command = [str(Path(sys.executable).parent / "spark-submit"), "--master", "local[2]"]
    command += ["--conf", "spark.ui.enabled=false", "--driver-java-options", log4j, *options]
    command += [str(ROOT / "jobs" / f"{job}.py"), str(ROOT / "conf" / f"{job}.yaml"), *arguments]
    env = env or {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # spark-submit hands Python's stderr on as stdout.
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(command, cwd=cwd, env=env, text=True, timeout=200, **both)


def test_prepare_train_and_score_one_by_one(tmp_path) -> None:
    prepared = submit("prepare", cwd=tmp_path)
    assert prepared.returncode == 0, prepared.stdout
    assert "train 1,468, val 164, test 165 rows" in prepared.stdout
    trained = submit("train", "epochs=4", "launch.num_workers=2", cwd=tmp_path)
    assert trained.returncode == 0, trained.stdout
    assert "epoch 4/4" in trained.stdout and "model " in trained.stdout
    evaluated = submit("evaluate", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stdout
    figures = json.loads((tmp_path / "build" / "digits" / "evaluation.json").read_text())
    assert figures["accuracy"] > 0.9 and figures["split"] == "test"
    scored = submit("score", "label=digit", cwd=tmp_path)
    assert scored.returncode == 0 and "165 rows in " in scored.stdout, scored.stdout
    assert f"evaluated: {{'accuracy': {round(figures['accuracy'], 4)}" in scored.stdout
    folder = tmp_path / "build" / "digits" / "predictions"
    assert json.loads((folder / "_score.json").read_text())["rows"] == 165
    rows = pq.read_table(folder).to_pylist()
    assert len(rows) == 165 and rows[0].keys() == {"id", "pixels", "digit", "prediction"}
    assert sum(row["digit"] == row["prediction"] for row in rows) > 0.9 * len(rows)


@pytest.mark.soak
def test_raw_rows_are_evaluated_as_their_prepared_rows(tmp_path) -> None:
    assert submit("prepare", cwd=tmp_path).returncode == 0
    assert submit("train", "epochs=1", "launch.num_workers=2", cwd=tmp_path).returncode == 0
    assert submit("evaluate", cwd=tmp_path).returncode == 0
    raw = ("source=examples.digits:read", "label=digit", "output=of-raw-rows.json")
    assert submit("evaluate", *raw, cwd=tmp_path).returncode == 0
    figures = json.loads((tmp_path / "build" / "digits" / "evaluation.json").read_text())
    of_raw_rows = json.loads((tmp_path / "of-raw-rows.json").read_text())
    assert of_raw_rows["loss"] == pytest.approx(figures["loss"], rel=1e-4)


@pytest.mark.soak
def test_train_runs_on_executors_that_are_processes_of_their_own(digits_dataset, tmp_path) -> None:
    env, options = local_cluster.environment(tmp_path), ("--master", local_cluster.MASTER)
    where = (f"dataset={digits_dataset.path}", "run_dir=run", "epochs=1")
    trained = submit("train", *where, cwd=tmp_path, options=options, env=env)
    assert trained.returncode == 0 and "epoch 1/1" in trained.stdout, trained.stdout
    assert (tmp_path / "run" / "model").is_dir()
    # What each executor printed.
    assert [folder.name for folder in sorted((tmp_path / "spark" / "work").glob("app-*/*"))] == ["0", "1"]


@pytest.mark.parametrize(
    ("job", "arguments", "message"),
    [
        pytest.param("prepare", ["labels=x"], "unknown option 'labels'; did you mean 'label'?", marks=pytest.mark.soak),
        pytest.param("train", ["epoch=3"], "unknown option 'epoch'; did you mean 'epochs'?", marks=pytest.mark.soak),
        ("train", ["dataset=nowhere"], "no prepared dataset at "),
        pytest.param("evaluate", ["split=null"], "dataset and split go together", marks=pytest.mark.soak),
        pytest.param("score", ["source={path: nowhere}"], "source .* cannot be read", marks=pytest.mark.soak),
    ],
)
def test_an_error_of_ours_is_one_line_and_exit_code_2(tmp_path, job, arguments, message) -> None:
    failed = submit(job, *arguments, cwd=tmp_path)
    lines = [line for line in failed.stdout.splitlines() if line.startswith("error: ")]
    assert failed.returncode == 2 and len(lines) == 1 and re.search(message, lines[0]), failed.stdout
    assert "Traceback" not in failed.stdout


USER_MODULE = """
def read(spark):
    import sparkdl
    print("driver uses", sparkdl.__file__)
    return spark.range(60).selectExpr("id", "double(id) as x", "double(id % 7) as y")

def build_model(ds):
    import keras, sparkdl
    print("rank uses", sparkdl.__file__)
    model = keras.Sequential([keras.Input(()), keras.layers.Reshape((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.soak
def test_the_jobs_run_from_a_zip_without_the_package_installed(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "sparkdl.zip", "w") as archive:
        package = Path(sparkdl.__file__).parent
        for file in (*package.rglob("*.py"), *package.rglob("*.j2")):
            archive.write(file, file.relative_to(package.parent))
    (tmp_path / "mine.py").write_text(USER_MODULE)
    sent = ("--py-files", f"{tmp_path / 'sparkdl.zip'},{tmp_path / 'mine.py'}")
    columns = ("features=[x]", "label=y", "keep=[]", "splits=null", "path=data", "source=mine:read")
    prepared = submit("prepare", *columns, cwd=tmp_path, options=sent)
    assert prepared.returncode == 0 and re.search("driver uses .*sparkdl.zip", prepared.stdout), prepared.stdout
    run = ("dataset=data", "build_model=mine:build_model", "run_dir=run", "epochs=1")
    trained = submit("train", *run, cwd=tmp_path, options=sent)
    assert trained.returncode == 0 and re.search("rank uses .*sparkdl.zip", trained.stdout), trained.stdout
    rows = ("source=mine:read", "model_dir=run/model", "dataset=null", "split=null", "returns=raw", "output=scored")
    scored = submit("score", *rows, cwd=tmp_path, options=sent)
    assert scored.returncode == 0, scored.stdout
    assert pq.read_table(tmp_path / "scored").num_rows == 60


def test_a_failing_rank_prints_its_traceback_and_exits_with_1(digits_dataset, tmp_path) -> None:
    (tmp_path / "mine.py").write_text(USER_MODULE + "\ndef broken(ds):\n    return 1 / 0\n")
    sent = ("--py-files", str(tmp_path / "mine.py"))
    broken = (f"dataset={digits_dataset.path}", "build_model=mine:broken", "run_dir=run")
    failed = submit("train", *broken, cwd=tmp_path, options=sent)
    assert failed.returncode == 1
    assert re.search("error: rank ./2 .*ZeroDivisionError", failed.stdout) and "return 1 / 0" in failed.stdout
