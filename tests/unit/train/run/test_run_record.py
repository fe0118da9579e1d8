"""A run is continued with the options that it was begun with."""

import dataclasses

import pytest

from paths import FIXTURES
from sparkdl import CheckpointError, TrainConfig, open_dataset
from sparkdl.train.run.checkpoint import Position, write_checkpoint
from sparkdl.train.run.record import Recorded
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.run.run_record import run_record

DATASET = str(FIXTURES / "dataset-v1")


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"lr_scaling": "sqrt"}, "config.lr_scaling was None, is 'sqrt'"),
        ({"warmup_epochs": 0.5}, "config.warmup_epochs was 0, is 0.5"),
        ({"target": "inputs"}, "config.target was 'label', is 'inputs'"),
        ({"steps_per_epoch": 4}, "config.steps_per_epoch was None, is 4"),
        ({"sync_every": 4}, "config.sync_every was 1, is 4"),
        ({"validation_every": 2}, "config.validation_every was 1, is 2"),
        ({"augment": lambda inputs, seed: inputs}, "config.augment was None, is 'given'"),
        ({"global_batch_size": 16}, "config.global_batch_size was 8, is 16"),
    ],
)
def test_another_option_is_another_run(tmp_path, options, difference) -> None:
    dataset, run = open_dataset(DATASET), RunDir(str(tmp_path / "run"))
    given = {"run_dir": run.path, "epochs": 1, "global_batch_size": 8}
    record = run_record(TrainConfig(**given), dataset)
    assert not run.check(record, "auto")
    run.begin(record)
    assert run.check(run_record(TrainConfig(**{**given, "epochs": 9}), dataset), "auto")
    other = run_record(TrainConfig(**{**given, **options}), dataset)
    with pytest.raises(CheckpointError, match=f"holds another run: {difference}; choose another run_dir, or resume='"):
        run.check(other, "auto")
    with pytest.raises(CheckpointError, match="already holds a run, .*; choose another run_dir, or resume='replace'"):
        run.check(record, "never")


@pytest.mark.parametrize(
    ("position", "least", "done"),
    [
        (Position(3, 0), 3, "3 epochs"),
        (Position(2, 7), 3, "2 epochs and 7 steps"),
        (Position(5, 1), 6, "5 epochs and 1 step"),
    ],
)
def test_epochs_that_are_done_are_not_taken_back(tmp_path, position, least, done) -> None:
    run = RunDir(str(tmp_path / "run"))
    assert run.result(2) is None
    write_checkpoint(run.checkpoints, position, {}, [])
    assert run.result(least) is None
    message = f"epochs=2 but run_dir=.* has trained {done} already; ask for at least {least}, choose another run_dir"
    with pytest.raises(CheckpointError, match=message):
        run.result(2)
    run.finish(Recorded(history=[{"loss": 1.0}]), 2)  # asked for two, stopped, and later for more
    assert run.result(2) == [{"loss": 1.0}]


def test_class_weights_are_recorded_by_code(tmp_path) -> None:
    dataset = open_dataset(DATASET)
    label = dataclasses.replace(next(e for e in dataset.encoders if e.name == "job"), name="job", is_label=True)
    dataset = dataclasses.replace(dataset, label_encoders=(dataclasses.replace(label, vocabulary=("a", "1")),))

    def recorded(**weights):
        config = TrainConfig(run_dir=str(tmp_path), epochs=1, global_batch_size=8, class_weight=weights["of"])
        return run_record(config, dataset)["config"]["class_weight"]

    assert recorded(of={"1": 20}) == recorded(of={1: 20.0}) == [1.0, 20.0] != recorded(of={"a": 20})
