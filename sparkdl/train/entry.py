"""Start training, evaluation or description in a rank: the functions that the driver sends to ranks.

The driver imports this module without Keras. In a rank process each function first loads the libraries, quietly, and
then imports the modules that need the libraries.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from sparkdl.imports import load_libraries
from sparkdl.launch.world import World, world
from sparkdl.train.run.made_by import MadeBy
from sparkdl.train.run.record import Recorded
from sparkdl.train.spec import EvaluateSpec, TrainSpec

__all__ = ["EVALUATE_MODULES", "TRAIN_MODULES", "describe_rank", "evaluate_rank", "train_rank"]

log = logging.getLogger(__name__)

TRAIN_MODULES = ("sparkdl.train.rank.trainer",)
"""The modules that `train_rank` imports in a rank; a worker group has them loaded."""

EVALUATE_MODULES = ("sparkdl.train.rank.evaluator",)
"""The modules that `evaluate_rank` imports in a rank."""


def train_rank(task: TrainSpec) -> Recorded:
    """Train on this rank's share of the rows (`rank.trainer.train`)."""
    here = start_rank()
    from sparkdl.train.rank.trainer import train

    return train(task, here)


def evaluate_rank(task: EvaluateSpec) -> dict[str, Any]:
    """Evaluate on this rank's share of the rows (`rank.evaluator.evaluate`)."""
    here = start_rank()
    from sparkdl.train.rank.evaluator import evaluate

    return evaluate(task, here)


def describe_rank(task: TrainSpec) -> MadeBy:
    """Build the model without training it, and describe it (`rank.built_model.describe`)."""
    here = start_rank()
    from sparkdl.train.rank.built_model import describe

    return describe(task, here)


def start_rank() -> World:
    """Choose Keras' backend, load the libraries and set the process up for its device. Returns the rank's world."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    load_libraries()
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for device in gpus:
        tf.config.experimental.set_memory_growth(device, True)
    if not gpus:  # with a GPU, the thread that feeds it must be able to take a core from the threads that prepare rows
        compute_undisturbed()
    return world()


def compute_undisturbed() -> None:
    """Let this thread, and those that it starts, use their full time slice, whatever threads wake up meanwhile.

    Horovod's thread wakes up a thousand times a second and tf.data's ones for every batch; each time Linux would take
    the core from the thread that computes the step, and the other ranks wait for it: a step of 38 ms on two ranks with
    a core each took 47 ms, and takes 38 ms with this (benchmarks/train.py). See SCHED_BATCH in sched(7). Where the
    system forbids it, training is as exact and slower.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.info("threads of this rank will disturb each other, as SCHED_BATCH is refused: %s", error)
