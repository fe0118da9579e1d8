"""Check on the driver, before any rank starts, how `fit` and `evaluate` were called."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import cloudpickle

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.errors import ConfigError, near_miss, shown
from sparkdl.launch.checks.payload_size import MAX_CLOSURE_BYTES
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.group import WorkerGroup, launch_of
from sparkdl.train.checks.initial_model import check_initial_model
from sparkdl.train.class_weight import class_weights
from sparkdl.train.config import TrainConfig

__all__ = ["check_launch_config", "check_places", "check_training", "closure_limit"]


def check_training(build_model: object, dataset: Dataset, config: TrainConfig) -> None:
    """Raise ConfigError for arguments of `fit` with which nothing can be trained, as far as the driver can tell."""
    if not callable(build_model):
        raise ConfigError(
            f"build_model={shown(build_model)} must be a function of the dataset; it is called in every rank"
        )
    _check_function(build_model)
    if not isinstance(config, TrainConfig):
        raise ConfigError(f"config={shown(config)} must be a TrainConfig")
    if config.target == "label" and not dataset.label_encoders:
        raise ConfigError(
            "the dataset has no label; prepare it with PrepareConfig(label=…), or train an autoencoder with "
            "TrainConfig(target='inputs')"
        )
    class_weights(config.class_weight, dataset)
    if config.initial_model is not None:
        initial = storage.absolute(config.initial_model)
        check_initial_model(initial, dataset, config.target, weights=config.initial_weights)
    # "val" is the default, and a dataset need not have it.
    if config.validation not in (None, "val", *dataset.splits):
        raise ConfigError(
            f"validation={shown(config.validation)} is not a split of {dataset.path}"
            + near_miss(str(config.validation), dataset.splits)
        )


def _check_function(build_model: Callable[..., object]) -> None:
    """Raise ConfigError if `build_model` is a model instead of a function, or does not take one argument."""
    kinds = [f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(build_model).__mro__]
    if "keras.Layer" in kinds or "tf_keras.Layer" in kinds:
        raise ConfigError(
            f"build_model={type(build_model).__name__} {getattr(build_model, 'name', '')!r} is a model; give the "
            "function that makes and compiles it, as def build_model(dataset): each rank calls it"
        )
    try:
        parameters = inspect.signature(build_model)
    except (TypeError, ValueError):  # some callables have no signature
        return
    try:
        parameters.bind(None)
    except TypeError as error:
        raise ConfigError(
            f"build_model{parameters} must take the dataset as its one argument ({error}); write it as "
            "def build_model(dataset)"
        ) from error


def check_places(dataset: object, launch: object) -> None:
    """Raise ConfigError unless these are a Dataset, and a LaunchConfig or a WorkerGroup of no more ranks than lanes."""
    if not isinstance(dataset, Dataset):
        raise ConfigError(f"dataset={shown(dataset)} must be a Dataset; open a path by sparkdl.open_dataset(path)")
    check_launch_config(launch)
    assert isinstance(launch, LaunchConfig | WorkerGroup)
    if (num_workers := launch_of(launch).num_workers) > dataset.lanes:
        raise ConfigError(
            f"num_workers={num_workers} but {dataset.path} has {dataset.lanes} lanes; use at most "
            f"{dataset.lanes} workers or prepare with PrepareConfig(lanes=…)"
        )


def check_launch_config(launch: object) -> None:
    """Raise ConfigError unless this is a LaunchConfig or a WorkerGroup."""
    if not isinstance(launch, LaunchConfig | WorkerGroup):
        raise ConfigError(f"launch={shown(launch)} must be a LaunchConfig or a WorkerGroup")


def closure_limit(dataset: Dataset) -> int:
    """Return the bytes that a task may take: the limit of the user's part, and the dataset with its vocabulary."""
    return MAX_CLOSURE_BYTES + len(cloudpickle.dumps(dataset))
