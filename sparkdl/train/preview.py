"""What `fit` would do, without doing it: all that the driver checks, and how far the run is.

Runs on the driver; starts no rank and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.config import LaunchConfig, TrainConfig
from sparkdl.data.dataset import Dataset
from sparkdl.launch.run import check_launch
from sparkdl.train.checkpoint import read_checkpoint
from sparkdl.train.fit import check_places, check_training, closure_limit, option_defaults, run_record
from sparkdl.train.run_dir import RunDir
from sparkdl.train.trainer import TrainTask, train_rank

if TYPE_CHECKING:
    from keras import Model

__all__ = ["preview_fit"]


def preview_fit(
    build_model: Callable[[Dataset], Model], dataset: Dataset, config: TrainConfig, *, launch: LaunchConfig
) -> dict[str, Any]:
    """What `fit` with these arguments would do: `state` ("new", "finished" or "goes on before epoch 2, step 8"), rows,
    steps of an epoch, epochs, ranks.

    Raises what `fit` raises before it starts ranks; a model that cannot be trained is known in the ranks only.
    """
    check_places(dataset, launch)
    check_training(build_model, dataset, config)
    run = RunDir(storage.absolute(config.run_dir))
    there = run.check(run_record(config, dataset), config.resume, option_defaults())
    task = TrainTask(build_model=build_model, dataset=dataset, config=config, run=run)
    ranks = check_launch(train_rank, (task,), launch=launch, closure_limit=closure_limit(dataset))
    rows = dataset.split("train").rows
    return {
        "run_dir": run.path,
        "state": _state(run, config.epochs) if there else "new",
        "rows": rows,
        "steps": -(-rows // config.global_batch_size),
        "epochs": config.epochs,
        "ranks": ranks,
    }


def _state(run: RunDir, epochs: int) -> str:
    if run.result(epochs) is not None:
        return "finished"
    checkpoint = run.latest_checkpoint()
    return f"goes on before {read_checkpoint(checkpoint).position}" if checkpoint else "has no checkpoint yet"
