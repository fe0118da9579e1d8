"""Build the record of a run, and check a folder by it. Runs on the driver."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.model.signature import Signature
from sparkdl.train.class_weight import class_weights, upgraded
from sparkdl.train.config import TrainConfig
from sparkdl.train.run.run_dir import RunDir

__all__ = ["run_check", "run_record"]

# The record of a function that is given; its code is compared by `made_by`.
GIVEN = "given"
# Options that may change when a run is continued; functions are compared by `made_by`.
NOT_THE_RESULT = ("run_dir", "epochs", "callbacks", "checkpoint", "resume", "max_restarts", "reader", "exactness")


def run_record(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    """Return a run's record, as JSON: the data and options that must stay the same when the run is continued."""
    options = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name not in NOT_THE_RESULT}
    if config.initial_model is not None:
        options["initial_model"] = Signature.read(storage.absolute(config.initial_model)).content_hash
    options["augment"] = None if config.augment is None else GIVEN
    weights = class_weights(config.class_weight, dataset)
    options["class_weight"] = list(weights) if isinstance(weights, tuple) else weights
    return {"dataset": {"fingerprint": dataset.fingerprint}, "config": options}


def run_check(run: RunDir, config: TrainConfig, dataset: Dataset) -> Callable[[str], bool]:
    """Return `RunDir.check` for this run as a function of `TrainConfig.resume`."""
    known = {f.name: f.default for f in dataclasses.fields(config) if f.name not in NOT_THE_RESULT}
    defaults = {name: default for name, default in known.items() if default is not dataclasses.MISSING}
    upgrade = partial(upgraded, dataset=dataset)
    return partial(run.check, run_record(config, dataset), defaults=defaults, upgrade=upgrade)
