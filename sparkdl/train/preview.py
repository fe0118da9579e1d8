"""What `fit` would do, without doing it: all that the driver checks, and how far the run is.

Runs on the driver; starts no rank and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.run import check_launch
from sparkdl.train.checks.check_call import check_places, check_training, closure_limit
from sparkdl.train.config import TrainConfig
from sparkdl.train.entry import train_rank
from sparkdl.train.run.checkpoint import read_checkpoint
from sparkdl.train.run.made_by import changed_code, code_of
from sparkdl.train.run.replace import goes_on
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.run.run_record import run_check
from sparkdl.train.spec import TrainTask

if TYPE_CHECKING:
    from keras import Model

__all__ = ["preview_fit"]


def preview_fit(
    build_model: Callable[[Dataset], Model], dataset: Dataset, config: TrainConfig, *, launch: LaunchConfig
) -> dict[str, Any]:
    """What `fit` with these arguments would do: `state` ("new", "finished", "goes on before epoch 2, step 8", "replaces
    the run there", or that the code has changed), rows, steps of an epoch, epochs, ranks.

    Raises what `fit` raises before it starts ranks; what model `build_model` gives is known in the ranks only.
    """
    check_places(dataset, launch)
    check_training(build_model, dataset, config)
    run = RunDir(storage.absolute(config.run_dir))
    code = code_of(build_model, config.callbacks)
    task = TrainTask(build_model=build_model, dataset=dataset, config=config, run=run, code=code)
    check = run_check(run, config, dataset)
    if config.resume == "replace" and not goes_on(run, check, code, epochs=config.epochs):
        state = "replaces the run there" if storage.exists(run.record) else "new"
    else:
        there = check("auto" if config.resume == "replace" else config.resume)
        state = _state(task) if there else "new"
    ranks = check_launch(train_rank, (task,), launch=launch, closure_limit=closure_limit(dataset))
    rows = dataset.split("train").rows
    return {
        "run_dir": run.path,
        "state": state,
        "rows": rows,
        "steps": -(-rows // config.global_batch_size),
        "epochs": config.epochs,
        "ranks": ranks,
    }


def _state(task: TrainTask) -> str:
    run = task.run
    if run.result(task.config.epochs) is not None:
        changed = changed_code(run, task.code)
        return "finished" if changed is None else f"finished; {changed} may have changed, fit builds and compares"
    checkpoint = run.latest_checkpoint()
    return f"goes on before {read_checkpoint(checkpoint).position}" if checkpoint else "has no checkpoint yet"
