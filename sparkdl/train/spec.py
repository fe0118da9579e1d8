"""Specify for rank processes what they do: train a run, or evaluate a model. Frozen values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparkdl.data.dataset import Dataset
from sparkdl.train.config import TrainConfig
from sparkdl.train.run.made_by import UNKNOWN_CODE, Code
from sparkdl.train.run.run_dir import RunDir

__all__ = ["EvaluateSpec", "TrainSpec"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """Hold all that a rank needs to train.

    Attributes:
        run: the folder of the run.
        checkpoint: the path of the checkpoint to continue from, or None.
        code: the fingerprints of build_model, callbacks and augment.
    """

    build_model: Callable[[Dataset], Any]
    dataset: Dataset
    config: TrainConfig
    run: RunDir
    checkpoint: str | None = None
    code: Code = UNKNOWN_CODE


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSpec:
    """Hold all that a rank needs to evaluate."""

    model_dir: str
    dataset: Dataset
    split: str
    global_batch_size: int
    custom_objects: Mapping[str, Any] | None = None
    safe_mode: bool = True
    exactness: str = "strict"
