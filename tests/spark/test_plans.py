"""Plans: what prepare and fit would do, told without doing it."""

import dataclasses

import pytest

import sparkdl
from sparkdl import LaunchConfig, PrepareConfig, TrainConfig
from sparkdl.data.prepare.plan import plan_prepare
from sparkdl.features import Tensor
from sparkdl.train.plan import plan_fit
from sparkdl.train.run.made_by import MadeBy, code_of, write_made_by
from sparkdl.train.run.record import Recorded
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.run.run_record import run_record


def test_a_plan_of_prepare_names_the_columns_and_writes_nothing(digits, digits_dataset, tmp_path) -> None:
    config = PrepareConfig(path=str(tmp_path / "data"), features=[Tensor("pixels", shape=(8, 8, 1))], label="digit")
    plan = plan_prepare(digits, config)
    assert (plan.path, plan.state, plan.found) == (config.path, "new", None)
    assert plan.columns == {"pixels": "array<float>", "digit": "int"}
    assert not (tmp_path / "data").exists()
    other = dataclasses.replace(config, path=digits_dataset.path)
    # Rows from memory are named by what is in them, which a plan does not read.
    assert plan_prepare(digits, other).state == "finished if its rows are the same"
    assert plan_prepare(digits, dataclasses.replace(other, version=1)).state == "replaces another one"
    with pytest.raises(sparkdl.SchemaError, match="pixel"):
        plan_prepare(digits, dataclasses.replace(config, label="pixel"))
    (tmp_path / "mine").write_text("")
    with pytest.raises(sparkdl.DatasetError, match="which is not part of a dataset"):
        plan_prepare(digits, dataclasses.replace(config, path=str(tmp_path)))


def test_a_plan_of_fit_checks_all_that_the_driver_can_and_writes_nothing(digits_dataset, tmp_path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"), epochs=3, global_batch_size=100)
    two = LaunchConfig(num_workers=2)

    def told(config=config, launch=two):
        return plan_fit(build_model, digits_dataset, config, launch=launch).facts(launch)

    facts = {"run_dir": config.run_dir, "state": "new", "rows": 1468, "steps": 15, "epochs": 3, "ranks": 2}
    assert told() == facts
    assert not (tmp_path / "run").exists()
    with pytest.raises(sparkdl.LaunchError, match="num_workers=3 but .* has 2 slots"):
        told(launch=LaunchConfig(num_workers=3))
    with pytest.raises(sparkdl.ConfigError, match="validation='tset'"):
        told(dataclasses.replace(config, validation="tset"))
    RunDir(config.run_dir).begin(run_record(config, digits_dataset))
    assert told()["state"] == "has no checkpoint yet"
    # A run that another call began is replaced; one that "replace" began goes on.
    assert told(dataclasses.replace(config, resume="replace"))["state"] == "replaces the run there"
    replacing = dataclasses.replace(config, run_dir=str(tmp_path / "replacing"), resume="replace")
    RunDir(replacing.run_dir).begin(run_record(replacing, digits_dataset), resume="replace")
    assert told(replacing)["state"] == "has no checkpoint yet"
    assert told(dataclasses.replace(config, resume="replace", seed=1))["state"] == "replaces the run there"
    with pytest.raises(sparkdl.CheckpointError, match="config.seed was 0, is 1"):
        told(dataclasses.replace(config, seed=1))


def test_a_plan_of_a_finished_run_tells_whether_its_code_has_changed(digits_dataset, tmp_path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"), epochs=1, global_batch_size=100)
    run = RunDir(config.run_dir)
    run.begin(run_record(config, digits_dataset))
    run.finish(Recorded(history=[{"loss": 1.0}]), 1)

    def state(build_model):
        return plan_fit(build_model, digits_dataset, config, launch=LaunchConfig(num_workers=1)).state

    # As a run of before: what made it is not known.
    assert state(build_model) == "finished; build_model and callbacks may have changed, fit builds and compares"
    write_made_by(run.code, MadeBy(code=code_of(build_model, None), model={}, callbacks=[]))
    assert state(build_model) == "finished"
    assert state(lambda ds: None) == "finished; build_model may have changed, fit builds and compares"
    other = dataclasses.replace(config, callbacks=list)
    told = plan_fit(build_model, digits_dataset, other, launch=LaunchConfig(num_workers=1))
    assert told.state == "finished; callbacks may have changed, fit builds and compares"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        *("code.json", "finished.json", "history.json", "ranks.json", "run.json")
    ]


def test_spark_in_build_model_is_named_with_the_variable_that_holds_it(digits, digits_dataset, tmp_path) -> None:
    config = TrainConfig(run_dir=str(tmp_path / "run"), epochs=1, global_batch_size=100)
    session = digits.sparkSession
    one = LaunchConfig(num_workers=1)
    for given, name, kind in (
        (lambda ds: digits.count(), "digits", "DataFrame"),
        (lambda ds: session.version, "session", "SparkSession"),
    ):
        message = rf"^<lambda>'s variable '{name}', a pyspark\.sql\..*{kind}, cannot be sent to the ranks .*; ranks "
        with pytest.raises(sparkdl.ConfigError, match=message):
            plan_fit(given, digits_dataset, config, launch=one).facts(one)


def build_model(ds):
    raise AssertionError("a plan builds no model")
