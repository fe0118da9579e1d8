"""The configurations: what to prepare, what to train, where to run.

Built on the driver by users and jobs; frozen values that travel to ranks. `TrainConfig` is what determines the result,
`LaunchConfig` is where it runs and may change between runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from sparkdl.data.features import Feature, as_feature
from sparkdl.data.split import Split
from sparkdl.errors import ConfigError, shown

__all__ = ["CheckpointConfig", "LaunchConfig", "PrepareConfig", "ReaderConfig", "TrainConfig", "require_positive"]

# Twice the largest worker count of common clusters' powers of two, times three: it divides evenly over 2, 3, 4, 6, 8,
# 12, 16, 24, 32, 48, 64 workers and to within 5 % over every other number up to 16 (docs/decisions/0003).
DEFAULT_LANES = 192

LOG_CHOICES = ("rank0", "all", "errors")
MODES = ("auto", "min", "max")
RESUMES = ("auto", "never", "must")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_positive(name: str, value: object) -> None:
    """Raise ConfigError unless the value is a whole number of at least 1."""
    good = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    _require(good, f"{name}={shown(value)} must be a whole number of at least 1")


def _require_seconds(name: str, value: object, *, least: float) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least
    _require(good, f"{name}={shown(value)} must be at least {least:g} seconds")


def _path(name: str, value: object) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    _require(isinstance(text, str) and text != "", f"{name}={shown(value)} must be a folder or a URL")
    return str(text)


def _require_seed(value: object) -> None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    _require(good, f"seed={shown(value)} must be a whole number from 0 to 2**63 - 1")


def _require_class_weight(value: object) -> None:
    if value is None:
        return
    good = isinstance(value, Mapping) and len(value) > 0
    _require(good, f"class_weight={shown(value)} must map classes to weights")
    for name, weight in dict(value).items():  # type: ignore[call-overload]
        good = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf
        _require(good, f"class_weight[{shown(name)}]={shown(weight)} must be a number of at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """Where ranks run, and for how long to wait for them. It never changes the result.

    Raises ConfigError for a value out of range.
    """

    num_workers: int
    """Ranks, one process each. In a Spark job every rank takes one task slot."""

    local: bool = False
    """Run the ranks as child processes of the driver, without Spark."""

    gpus_per_worker: int = 0
    """GPUs of each rank: from its task's own Spark resources or, with `local=True`, from this machine's. A rank sees
    these alone; with 0 it sees none."""

    allow_unencrypted: bool = False
    """Run although the Spark session encrypts its connections. What the ranks send each other, and the driver, is not
    encrypted."""

    min_workers: int | None = None
    """The fewest ranks to run with where the session has too few slots, at the start or at a restart; None:
    `num_workers`. Local ranks always find their place."""

    start_timeout_s: float = 60.0
    """Seconds to wait until every rank has a slot and its process has started."""

    stall_timeout_s: float = 300.0
    """Seconds that a rank may go without progress before the run fails: its process is stopped, or neither its main
    thread (1 % of a core) nor all its threads and child processes together (30 %) use the processor, and it emits no
    event. Waiting for another rank is no progress. `float("inf")` waits for ever."""

    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for the rank processes, set before TensorFlow is imported."""

    log: str = "rank0"
    """Whose output reaches the driver's terminal: "rank0", "all" (each line names its rank) or "errors" (none; a
    failing rank's last lines are in the error)."""

    log_dir: str | None = None
    """Folder or URL for each rank's whole output, one folder for each launch; all hosts must see it. Where executors
    cannot reach the driver's port they speak with it through this folder. None: `fit` uses `logs` in its run
    directory, `run` and `evaluate` keep none."""

    def __post_init__(self) -> None:
        require_positive("num_workers", self.num_workers)
        _require(isinstance(self.local, bool), f"local={shown(self.local)} must be True or False")
        if self.min_workers is not None:
            require_positive("min_workers", self.min_workers)
            fewer = self.min_workers <= self.num_workers
            _require(fewer, f"min_workers={self.min_workers} must not be more than num_workers={self.num_workers}")
        good = isinstance(self.gpus_per_worker, int) and not isinstance(self.gpus_per_worker, bool)
        good = good and self.gpus_per_worker >= 0
        _require(good, f"gpus_per_worker={shown(self.gpus_per_worker)} must be a whole number of at least 0")
        good = isinstance(self.allow_unencrypted, bool)
        _require(good, f"allow_unencrypted={shown(self.allow_unencrypted)} must be True or False")
        _require_seconds("start_timeout_s", self.start_timeout_s, least=0.001)
        _require_seconds("stall_timeout_s", self.stall_timeout_s, least=1)
        _require(isinstance(self.env, Mapping), f"env={shown(self.env)} must map names to values")
        _require(self.log in LOG_CHOICES, f"log={shown(self.log)} must be one of {', '.join(LOG_CHOICES)}")
        if self.log_dir is not None:
            object.__setattr__(self, "log_dir", _path("log_dir", self.log_dir))
        for name, value in self.env.items():
            good = isinstance(name, str) and isinstance(value, str)
            _require(good, f"env[{shown(name)}]={shown(value)}: names and values must be strings")
        own_gpus = self.gpus_per_worker > 0 and "CUDA_VISIBLE_DEVICES" in self.env
        _require(not own_gpus, "env must not set CUDA_VISIBLE_DEVICES with gpus_per_worker: each rank gets its own")


@dataclass(frozen=True, slots=True)
class PrepareConfig:
    """How a DataFrame becomes a prepared dataset.

    Raises ConfigError for a value out of range or for names used twice.
    """

    _: KW_ONLY

    path: str
    """Folder or URL of the dataset."""

    features: tuple[Feature, ...]
    """The model's inputs, in the order of the UDF's arguments. A bare column name means `Tensor(name)`."""

    label: Feature | tuple[Feature, ...] | None = None
    """The target: a feature, several (a model with several outputs), or None."""

    weight: str | None = None
    """A numeric column with each row's sample weight, or None."""

    keep: tuple[str, ...] = ()
    """Columns stored beside the features as they are, and not fed to the model: ids, for instance."""

    splits: Split | None = None
    """How rows are divided; None puts all of them into "train"."""

    seed: int = 0
    """Seed of the stored order."""

    lanes: int = DEFAULT_LANES
    """Sequences that an epoch interleaves, and so the largest number of workers. Part of the epoch's order."""

    version: str | int | None = None
    """Names the input where its plan cannot (it runs Python, or reads no files): the same config, version and files, if
    there are any, find the finished dataset. The plan is not looked at; give a changed program another version."""

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # the one way to normalise a field of a frozen dataclass
        set_(self, "path", _path("path", self.path))
        _require(
            isinstance(self.features, (list, tuple)), f"features={shown(self.features)} must be a list of features"
        )
        set_(self, "features", tuple(as_feature(f) for f in self.features))
        _require(len(self.features) > 0, "features=[] must name at least one feature")
        if isinstance(self.label, (list, tuple)):
            labels = tuple(as_feature(f) for f in self.label)
            _require(len(labels) > 0, "label=[] must name at least one feature; use label=None for none")
            set_(self, "label", labels if len(labels) > 1 else labels[0])
        elif self.label is not None:
            set_(self, "label", as_feature(self.label))
        _require(isinstance(self.keep, (list, tuple)), f"keep={shown(self.keep)} must be a list of column names")
        set_(self, "keep", tuple(self.keep))
        _require(all(isinstance(name, str) for name in self.keep), f"keep={shown(self.keep)} must hold column names")
        _require(
            self.weight is None or isinstance(self.weight, str), f"weight={shown(self.weight)} must be a column name"
        )
        good = self.splits is None or isinstance(self.splits, Split)
        _require(good, f"splits={shown(self.splits)} must be made by Split.fraction, Split.time or Split.column")
        for kind, names in (
            ("features", [feature.name for feature in self.features]),
            ("label", [feature.name for feature in self.labels]),
            ("keep", list(self.keep)),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            _require(not twice, f"{shown(twice)} is named twice in {kind}; name each column once")
        _require_seed(self.seed)
        require_positive("lanes", self.lanes)
        good = isinstance(self.version, (str, int)) and not isinstance(self.version, bool) and self.version != ""
        _require(self.version is None or good, f"version={shown(self.version)} must be a string or a whole number")

    @property
    def labels(self) -> tuple[Feature, ...]:
        """The label features as a tuple: none, one or several."""
        if self.label is None:
            return ()
        return self.label if isinstance(self.label, tuple) else (self.label,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderConfig:
    """How a rank reads the dataset. It never changes what the model sees.

    Raises ConfigError for a value out of range.
    """

    threads: int | None = None
    """Threads that read row groups. None: the rank's cores, and at least 16 where the dataset is on remote storage."""

    memory: int | None = None
    """Bytes that the feed of one split may take in each rank; validation takes as much again while it runs. None: 512
    MiB, or what the order of an epoch needs if that is more."""

    in_memory: bool | str = "auto"
    """Keep the whole split in every rank, read and decoded once: True (an error if `memory` is too little), False, or
    "auto" (if it fits). Every epoch deals the row groups anew, so each rank comes to need all of them."""

    cache: bool | None = None
    """Keep a copy of what was read on the rank's local disk, for the next epochs. None: where the dataset is on remote
    storage. The copy is gone when the rank ends, however it ends."""

    def __post_init__(self) -> None:
        if self.threads is not None:
            require_positive("reader.threads", self.threads)
        if self.memory is not None:
            require_positive("reader.memory", self.memory)
        good = isinstance(self.in_memory, bool) or self.in_memory == "auto"
        _require(good, f"reader.in_memory={shown(self.in_memory)} must be True, False or 'auto'")
        good = self.cache is None or isinstance(self.cache, bool)
        _require(good, f"reader.cache={shown(self.cache)} must be True, False or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """When a run keeps its state, and how much of it. It never changes the result.

    Raises ConfigError for a value out of range.
    """

    every_epochs: int = 1
    """After each so many epochs, and after the last one."""

    every_steps: int | None = None
    """Also after each so many steps of an epoch: what a restart has to do again at most."""

    keep: int = 3
    """How many of the newest stay."""

    monitor: str | None = None
    """A name in the history, such as "val_loss": the model of the epoch where it is best is kept as
    `result.best_model_dir`."""

    mode: str = "auto"
    """Whether the best value of `monitor` is the "min" or the "max"; "auto" takes the largest of an accuracy, AUC,
    precision, recall, F score, IoU or R2, and the smallest of anything else."""

    def __post_init__(self) -> None:
        require_positive("checkpoint.every_epochs", self.every_epochs)
        if self.every_steps is not None:
            require_positive("checkpoint.every_steps", self.every_steps)
        require_positive("checkpoint.keep", self.keep)
        good = self.monitor is None or (isinstance(self.monitor, str) and self.monitor != "")
        _require(good, f"checkpoint.monitor={shown(self.monitor)} must be a name in the history, or None")
        _require(self.mode in MODES, f"checkpoint.mode={shown(self.mode)} must be one of {', '.join(MODES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What determines the trained model, together with the dataset and `build_model`.

    Raises ConfigError for a value out of range.
    """

    run_dir: str
    """Folder or URL of this run: the model, the history, checkpoints, logs. It must not hold another run; the same
    one is continued."""

    epochs: int
    """Passes over the train split, in all; may grow when a run is continued."""

    global_batch_size: int
    """Rows of one step over all ranks together; the last step of an epoch may be shorter."""

    seed: int = 0
    """Seed of initial weights, of dropout and of the order of every epoch."""

    validation: str | None = "val"
    """The split evaluated after each epoch, if the dataset has it; None evaluates nothing."""

    callbacks: Callable[[], list[Any]] | None = None
    """Called in every rank; returns Keras callbacks. They see logs reduced over all ranks. A callback that writes files
    is for rank 0 alone: `sparkdl.world().rank` tells."""

    class_weight: Mapping[str | int, float] | None = None
    """The weight of each class of the one categorical label, by its name or code; a class that is not named has 1. It
    multiplies the sample weight, in training and not in validation."""

    gradient_accumulation_steps: int = 1
    """Steps whose gradients are averaged into one update, by Keras' own mechanism in every optimizer of the model."""

    compression: str | None = None
    """None, or "fp16": gradients are half-precision floats on their way between ranks."""

    sync_batch_norm: bool = False
    """Normalize batches by the moments of the global batch, in all BatchNormalization layers. False: by those of a
    rank's rows, where the layer does not say synchronized=True."""

    initial_model: str | None = None
    """A model directory whose weights the run starts from, instead of those that `build_model` draws."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to keep the run's state."""

    resume: str = "auto"
    """What to do with a `run_dir` that holds this run already: "auto" continues it from its last checkpoint, or returns
    its result if it is finished; "never" refuses it; "must" refuses one that holds nothing to continue."""

    max_restarts: int = 2
    """How often a run starts again by itself, from its last checkpoint, after a rank's process or host was lost. An
    exception of the user's own code, and a rank that hangs, are errors."""

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    """How the ranks read the dataset: threads, memory, cache."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_dir", _path("run_dir", self.run_dir))
        require_positive("epochs", self.epochs)
        require_positive("global_batch_size", self.global_batch_size)
        _require_seed(self.seed)
        good = self.validation is None or isinstance(self.validation, str)
        _require(good, f"validation={shown(self.validation)} must be the name of a split, or None")
        good = self.callbacks is None or callable(self.callbacks)
        _require(good, "callbacks must be a function that returns a list of Keras callbacks")
        _require_class_weight(self.class_weight)
        require_positive("gradient_accumulation_steps", self.gradient_accumulation_steps)
        good = self.compression in (None, "fp16")
        _require(
            good, f"compression={shown(self.compression)} must be None or 'fp16'; Horovod sums no other short floats"
        )
        good = isinstance(self.sync_batch_norm, bool)
        _require(good, f"sync_batch_norm={shown(self.sync_batch_norm)} must be True or False")
        if self.initial_model is not None:
            object.__setattr__(self, "initial_model", _path("initial_model", self.initial_model))
        good = isinstance(self.checkpoint, CheckpointConfig)
        _require(good, f"checkpoint={shown(self.checkpoint)} must be a CheckpointConfig")
        _require(self.resume in RESUMES, f"resume={shown(self.resume)} must be one of {', '.join(RESUMES)}")
        good = isinstance(self.max_restarts, int) and not isinstance(self.max_restarts, bool) and self.max_restarts >= 0
        _require(good, f"max_restarts={shown(self.max_restarts)} must be a whole number of at least 0")
        good = isinstance(self.reader, ReaderConfig)
        _require(good, f"reader={shown(self.reader)} must be a ReaderConfig")
