"""Train and evaluate on ranks: `fit` and `evaluate`.

Runs on the driver; checks what can be checked before any rank starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle

from sparkdl import storage
from sparkdl.config import LaunchConfig, TrainConfig, require_positive
from sparkdl.data.dataset import Dataset
from sparkdl.errors import ConfigError, near_miss, shown
from sparkdl.launch.closure import MAX_CLOSURE_BYTES
from sparkdl.launch.run import launch_ranks
from sparkdl.model.signature import Signature
from sparkdl.report import TrainingProgress
from sparkdl.train.run_dir import RunDir
from sparkdl.train.trainer import EvaluateTask, TrainTask, evaluate_rank, train_rank

if TYPE_CHECKING:
    from keras import Model

__all__ = ["TrainResult", "evaluate", "fit"]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What `fit` gives back.

    Attributes:
        history: one dict per epoch: epoch, loss, metrics, val_*, lr, seconds, rows_per_second, data_wait_seconds.
        model_dir: the trained model, for predict_udf, transform, evaluate and load_model.
    """

    history: list[dict[str, Any]]
    model_dir: str


def fit(
    build_model: Callable[[Dataset], Model], dataset: Dataset, config: TrainConfig, *, launch: LaunchConfig
) -> TrainResult:
    """Train a Keras model, data-parallel, with the same result on any number of ranks.

    Args:
        build_model: called in every rank with the dataset; imports keras itself; returns a compiled model.
        dataset: a prepared dataset with a label.
        config: what determines the result.
        launch: where the ranks run.

    Raises:
        ConfigError: more workers than lanes, no label.
        CheckpointError: run_dir already holds something or cannot be written.
        ModelError: the model cannot be trained exactly; the message names why.
        LaunchError: the ranks could not be started.
        WorkerError: a rank failed: its traceback is in the message.
    """
    _check(dataset, launch)
    _check_training(build_model, dataset, config)
    run = RunDir(storage.absolute(config.run_dir))
    run.claim()
    config = dataclasses.replace(config, run_dir=run.path)
    task = TrainTask(build_model=build_model, dataset=dataset, config=config, model_dir=run.model)
    with TrainingProgress() as progress:
        histories = launch_ranks(
            train_rank,
            (task,),
            launch=launch,
            description=f"sparkdl fit {run.path}",
            on_event=progress.on_event,
            log_dir=run.logs,
            closure_limit=_closure_limit(dataset),
        )
    run.write_history(histories[0])
    return TrainResult(histories[0], run.model)


def evaluate(
    model_dir: str,
    dataset: Dataset,
    split: str = "test",
    *,
    launch: LaunchConfig,
    global_batch_size: int = 1024,
    safe_mode: bool = True,
) -> dict[str, Any]:
    """Loss and metrics of a trained model over all rows of a split, exact for any number of ranks.

    Args:
        model_dir: as in `result.model_dir`.
        dataset: a dataset prepared with the same features.
        split: which rows.
        launch: where the ranks run.
        global_batch_size: rows of one step over all ranks; the result does not depend on it.
        safe_mode: Keras' own; see `load_model`.

    Raises:
        ModelError: no model there.
        ConfigError: the dataset's features are not the model's; more workers than lanes.
        DatasetError: no such split.
    """
    _check(dataset, launch)
    model_dir = storage.absolute(model_dir)
    require_positive("global_batch_size", global_batch_size)
    signature = Signature.read(model_dir)
    trained = [encoder.to_json() for encoder in (*signature.inputs, *signature.labels)]
    if trained != [encoder.to_json() for encoder in (*dataset.encoders, *dataset.label_encoders)]:
        raise ConfigError(
            f"features and labels of {dataset.path} are not encoded as the model in {model_dir} was trained; "
            "evaluate it on the dataset that it was trained on"
        )
    dataset.split(split)
    task = EvaluateTask(
        model_dir=model_dir, dataset=dataset, split=split, global_batch_size=global_batch_size, safe_mode=safe_mode
    )
    results = launch_ranks(
        evaluate_rank,
        (task,),
        launch=launch,
        description=f"sparkdl evaluate {model_dir}",
        closure_limit=_closure_limit(dataset),
    )
    return dict(results[0])


def _check_training(build_model: object, dataset: Dataset, config: TrainConfig) -> None:
    if not callable(build_model):
        raise ConfigError(
            f"build_model={shown(build_model)} must be a function of the dataset; it is called in every rank"
        )
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"config={shown(config)} must be a TrainConfig")
    if not dataset.label_encoders:
        raise ConfigError("the dataset has no label; prepare it with PrepareConfig(label=…)")
    # "val" is the default, and a dataset need not have it.
    if config.validation not in (None, "val", *dataset.splits):
        raise ConfigError(
            f"validation={shown(config.validation)} is no split of {dataset.path}"
            + near_miss(str(config.validation), dataset.splits)
        )


def _check(dataset: object, launch: object) -> None:
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"dataset={shown(dataset)} must be a Dataset; open a path by sparkdl.open_dataset(path)")
    if not isinstance(launch, LaunchConfig):
        raise ConfigError(f"launch={shown(launch)} must be a LaunchConfig")
    if launch.num_workers > dataset.lanes:
        raise ConfigError(
            f"num_workers={launch.num_workers} but {dataset.path} has {dataset.lanes} lanes; use at most "
            f"{dataset.lanes} workers or prepare with PrepareConfig(lanes=…)"
        )


def _closure_limit(dataset: Dataset) -> int:
    """The limit for what a user sends to the ranks does not count the library's own: a vocabulary may be large."""
    return MAX_CLOSURE_BYTES + len(cloudpickle.dumps(dataset))
