"""Configure training. Runs on the driver; the values travel to ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from sparkdl.checks import (
    as_path,
    named_options,
    require,
    require_exactness,
    require_seed,
    require_target,
    require_whole,
)
from sparkdl.data.augment_form import takes_targets
from sparkdl.data.reader_config import ReaderConfig
from sparkdl.errors import shown

__all__ = ["CheckpointConfig", "TrainConfig"]

MODES = ("auto", "min", "max")
INITIAL_WEIGHTS = ("all", "matching")
RESUMES = ("auto", "never", "must", "replace")


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """Configure when a run saves checkpoints, and how many it keeps. These options never change the result.

    Raises ConfigError for a value out of range.
    """

    every_epochs: int = 1
    """The number of epochs between two checkpoints; the last epoch has one in any case."""

    every_steps: int | None = None
    """The number of steps between two checkpoints within an epoch, which is the most that a restart repeats; None: no
    checkpoints within epochs."""

    keep: int = 3
    """The number of newest checkpoints that are kept."""

    monitor: str | None = None
    """The name of a metric in the history, such as "val_loss"; the model of the epoch with the best value is kept as
    `result.best_model_dir`. None: no such model is kept."""

    mode: str = "auto"
    """The best value of `monitor`: "min" or "max"; "auto" takes the direction that Keras' metric states, and "min" for
    a loss. "auto" is refused for a user's metric that states no direction."""

    def __post_init__(self) -> None:
        require_whole("checkpoint.every_epochs", self.every_epochs)
        if self.every_steps is not None:
            require_whole("checkpoint.every_steps", self.every_steps)
        require_whole("checkpoint.keep", self.keep)
        good = self.monitor is None or (isinstance(self.monitor, str) and self.monitor != "")
        require(good, f"checkpoint.monitor={shown(self.monitor)} must be a name in the history, or None")
        require(self.mode in MODES, f"checkpoint.mode={shown(self.mode)} must be one of {', '.join(MODES)}")


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Configure what determines the trained model, together with the dataset and `build_model`.

    Raises ConfigError for a value out of range.
    """

    run_dir: str
    """Folder or URL of this run: the model, the history, checkpoints, logs. It must not hold another run; the
    same run is continued."""

    epochs: int
    """The number of epochs, in all; may grow when a run is continued."""

    global_batch_size: int
    """Rows of one step over all ranks together; the last step of an epoch may be shorter."""

    steps_per_epoch: int | None = None
    """None: an epoch is a pass over the train split. A number: an epoch is this many steps, and the next epoch goes on
    where it ended. Passes follow each other, each in its own order, and each row comes once in a pass; an epoch may be
    shorter or longer than a pass. History, validation, callbacks, checkpoints and `warmup_epochs` go by epochs."""

    seed: int = 0
    """Seed of initial weights, of dropout and of the order of every pass."""

    validation: str | None = "val"
    """The split that is evaluated after each epoch, if the dataset has the split; None evaluates nothing."""

    validation_every: int = 1
    """The number of epochs from one validation to the next. The run's last epoch is validated in any case, as is an
    epoch within which `stop_training` ends the run. Other epochs lack val_* in the history and in callbacks' logs."""

    target: str = "label"
    """The values that the loss compares the model's outputs with: "label"; or, for autoencoders, "inputs": the bare
    array of a dataset with one feature, else a dict by the features' names. With "inputs" a label is left out, and the
    dataset needs no label."""

    callbacks: Callable[[], list[Any]] | None = None
    """A function that is called in every rank and returns Keras callbacks. The callbacks see logs reduced over all
    ranks. Return a callback that writes files on rank 0 only, where `sparkdl.world().rank` is 0."""

    augment: Callable[..., Any] | None = None
    """A function that changes each training row, and no row of a validation: (inputs, seed) to inputs, or (inputs,
    targets, seed) to (inputs, targets), of one row and in TensorFlow, in the shapes and dtypes in which it gets them.
    It must draw by its seed alone, int64 ``(2,)``, as `tf.image.stateless_random_…` do: that is drawn by `seed` of this
    configuration, the pass and the row, so that the result depends on neither workers nor interruptions."""

    class_weight: Mapping[str | int, float] | Mapping[str, Mapping[str | int, float]] | None = None
    """The weight of each class of the one categorical label, by its name, or by its code (0, 1, … in `ds.classes`)
    where classes are strings; a class that is not named has 1. For several labels by the output that bears the label's
    name: ``{"kind": {"cat": 2.0}}``. A number that may be the name of one class and the code
    of another is refused. The weight of a class multiplies the sample weight, in training and not in validation."""

    lr_scaling: str | None = None
    """None: the learning rate is the user's. "linear": the rate is multiplied by k, the rows of an update divided by
    32, the batch size of Keras' `fit`, for which the rate is assumed to be tuned; "sqrt": by the root of k. The rows of
    an update are global_batch_size times the steps whose gradients are accumulated, whatever the number of workers.
    What callbacks read and set, and what is saved, is the user's rate; the history holds the product."""

    warmup_epochs: float = 0
    """The number of epochs over which the learning rate grows by the same amount with each step: from the user's rate
    to the scaled rate, if the scaled rate is higher, else from the rate divided by the number of warm-up steps."""

    gradient_accumulation_steps: int = 1
    """Steps whose gradients are averaged into one update, by Keras' own mechanism in every optimizer of the model."""

    sync_every: int = 1
    """1: every step is that of the global batch, on any number of workers. k > 1, local SGD for slow networks: workers
    take steps on their rows of the batch alone, and their weights, optimizers and layers' states are averaged, weighted
    by rows, after each k steps of an epoch and at its end. The result depends on the number of workers; history, report
    and model say so. With one worker it does nothing."""

    compression: str | None = None
    """None, or "fp16": gradients are half-precision floats on their way between ranks."""

    sync_batch_norm: bool = False
    """True: all BatchNormalization layers normalize by the moments of the global batch. False: by the moments of a
    rank's rows, unless the layer has synchronized=True."""

    exactness: str = "strict"
    """The treatment of a loss, metric or layer whose value depends on how rows are divided among workers: "strict"
    refuses it by name on several workers; "per_worker" computes it on each worker's rows and averages by rows, warns
    once, and marks history, report and model. With one worker everything is computed as in plain Keras."""

    initial_model: str | None = None
    """A model directory whose weights the run starts from, instead of those that `build_model` draws. Its features and
    classes must be encoded as the dataset's, and its layers have the same names and shapes in the same order, unless
    `initial_weights` is "matching"."""

    initial_weights: str = "all"
    """The weights that are taken from `initial_model`: "all"; or "matching", those of layers with the same name and
    shapes, and of what Keras' preprocessing layers have learned. A layer that takes features or gives an output
    directly takes weights only where these are encoded as they were. `TrainResult.initial_layers` names all layers."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are saved, and how many are kept."""

    resume: str = "auto"
    """The treatment of a `run_dir` that may hold a run: "auto" continues this very run from its last checkpoint, or
    returns its result if it is finished, and refuses another run; "never" refuses any run; "must" refuses a folder that
    holds nothing to continue; "replace" trains anew whatever run is there, finished or another: the old run is moved to
    `<run_dir>.replaced` until the new run has finished, and then deleted. An interrupted run that "replace" began
    continues when the same call is made again."""

    max_restarts: int = 2
    """How often a run starts again by itself, from its last checkpoint, after a rank's process or host was lost. An
    exception in the user's code, and a rank that hangs, are errors at once."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """How the ranks read the dataset: threads, memory, cache."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_dir", as_path("run_dir", self.run_dir))
        require_whole("epochs", self.epochs)
        require_whole("global_batch_size", self.global_batch_size)
        if self.steps_per_epoch is not None:
            require_whole("steps_per_epoch", self.steps_per_epoch)
        require_seed(self.seed)
        good = self.validation is None or isinstance(self.validation, str)
        require(good, f"validation={shown(self.validation)} must be the name of a split, or None")
        good = self.callbacks is None or callable(self.callbacks)
        require(good, "callbacks must be a function that returns a list of Keras callbacks")
        require_whole("validation_every", self.validation_every)
        if self.augment is not None:
            takes_targets(self.augment)
        require_target(self.target)
        object.__setattr__(self, "class_weight", _plain_class_weight(self.class_weight))
        good = self.class_weight is None or self.target == "label"
        require(good, "class_weight is for a label, and target='inputs' has none; use PrepareConfig(weight=…)")
        good = self.lr_scaling in (None, "linear", "sqrt")
        require(good, f"lr_scaling={shown(self.lr_scaling)} must be None, 'linear' or 'sqrt'")
        good = isinstance(self.warmup_epochs, (int, float)) and not isinstance(self.warmup_epochs, bool)
        good = good and 0 <= self.warmup_epochs < math.inf
        require(good, f"warmup_epochs={shown(self.warmup_epochs)} must be a number of at least 0")
        require_whole("gradient_accumulation_steps", self.gradient_accumulation_steps)
        good = self.compression in (None, "fp16")
        require(
            good, f"compression={shown(self.compression)} must be None or 'fp16'; Horovod sums no other short floats"
        )
        good = isinstance(self.sync_batch_norm, bool)
        require(good, f"sync_batch_norm={shown(self.sync_batch_norm)} must be True or False")
        self._check_sync_every()
        require_exactness(self.exactness)
        if self.initial_model is not None:
            object.__setattr__(self, "initial_model", as_path("initial_model", self.initial_model))
        good = self.initial_weights in INITIAL_WEIGHTS
        require(good, f"initial_weights={shown(self.initial_weights)} must be one of {', '.join(INITIAL_WEIGHTS)}")
        good = self.initial_weights == "all" or self.initial_model is not None
        require(good, "initial_weights='matching' must come with initial_model, the model that they are taken from")
        good = isinstance(self.checkpoint, CheckpointConfig)
        require(good, f"checkpoint={shown(self.checkpoint)} must be a CheckpointConfig")
        require(self.resume in RESUMES, f"resume={shown(self.resume)} must be one of {', '.join(RESUMES)}")
        require_whole("max_restarts", self.max_restarts, least=0)
        good = isinstance(self.reader, ReaderConfig)
        require(good, f"reader={shown(self.reader)} must be a ReaderConfig")

    def _check_sync_every(self) -> None:
        """Raise ConfigError for options that have no meaning where ranks take steps alone."""
        require_whole("sync_every", self.sync_every)
        if self.sync_every == 1:
            return
        name = f"sync_every={self.sync_every} must be 1 with"
        require(
            self.gradient_accumulation_steps == 1,
            f"{name} gradient_accumulation_steps={self.gradient_accumulation_steps}; use a larger global_batch_size",
        )
        require(
            self.compression is None, f"{name} compression={self.compression!r}, which is of gradients; leave it out"
        )
        require(not self.sync_batch_norm, f"{name} sync_batch_norm=True, which needs all ranks in each step")
        steps = self.checkpoint.every_steps if isinstance(self.checkpoint, CheckpointConfig) else None
        good = steps is None or steps % self.sync_every == 0
        require(
            good,
            f"checkpoint.every_steps={steps} must be a multiple of sync_every={self.sync_every}, the steps after which "
            "all workers have the same weights",
        )


def _plain_class_weight(value: object) -> dict[Any, Any] | None:
    """Convert the weights to dicts of Python values, as in run.json; numpy values may come from `numpy.unique`."""
    if isinstance(value, Mapping) and value and all(isinstance(weights, Mapping) for weights in value.values()):
        for name in value:
            require(isinstance(name, str), f"class_weight names {shown(name)}; name an output, or give numbers")
        return {str(name): _plain_class_weight(weights) for name, weights in value.items()}
    if value is None:
        return None
    good = isinstance(value, Mapping) and len(value) > 0
    require(good, f"class_weight={shown(value)} must map classes to weights")
    plain: dict[str | int, float] = {}
    for name, weight in dict(value).items():  # type: ignore[call-overload]
        require(isinstance(name, (str, Integral)), f"class_weight names {shown(name)}; name a class, or its code")
        good = isinstance(weight, Real) and not isinstance(weight, bool) and 0 <= float(weight) < math.inf
        require(good, f"class_weight[{shown(name)}]={shown(weight)} must be a number of at least 0")
        plain[str(name) if isinstance(name, str) else int(name)] = float(weight)
    return plain
