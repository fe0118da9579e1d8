"""A run is continued with the options that it was begun with."""

from pathlib import Path

import pytest

from sparkdl import CheckpointError, TrainConfig, open_dataset
from sparkdl.train.fit import run_record
from sparkdl.train.run_dir import RunDir

DATASET = str(Path(__file__).resolve().parent.parent / "fixtures" / "dataset-v1")


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"lr_scaling": "sqrt"}, "config.lr_scaling was None, is 'sqrt'"),
        ({"warmup_epochs": 0.5}, "config.warmup_epochs was 0, is 0.5"),
        ({"target": "inputs"}, "config.target was 'label', is 'inputs'"),
        ({"global_batch_size": 16}, "config.global_batch_size was 8, is 16"),
    ],
)
def test_another_option_is_another_run(tmp_path, options, difference) -> None:
    dataset, run = open_dataset(DATASET), RunDir(str(tmp_path / "run"))
    given = {"run_dir": run.path, "epochs": 1, "global_batch_size": 8}
    run.begin(run_record(TrainConfig(**given), dataset), "auto")
    run.begin(run_record(TrainConfig(**{**given, "epochs": 9}), dataset), "auto")
    with pytest.raises(CheckpointError, match=f"holds another run: {difference}; choose a new folder"):
        run.begin(run_record(TrainConfig(**{**given, **options}), dataset), "auto")
