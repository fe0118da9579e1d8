"""Check that a finished run has the result that the given build_model, callbacks and augment would give.

Runs on the driver. If their code has changed, one rank builds the model, and the models are compared.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sparkdl.errors import CheckpointError
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.group import WorkerGroup
from sparkdl.launch.run import launch_ranks
from sparkdl.train.entry import describe_rank
from sparkdl.train.run.checkpoint import read_checkpoint
from sparkdl.train.run.made_by import (
    MadeBy,
    augment_difference,
    callbacks_difference,
    changed_code,
    model_difference,
    read_made_by,
    weights_difference,
    write_made_by,
)
from sparkdl.train.run.record import is_averaged_weights
from sparkdl.train.run.run_dir import WAYS_OUT, RunDir
from sparkdl.train.spec import TrainSpec

__all__ = ["check_exactness", "check_finished"]

log = logging.getLogger(__name__)


def check_finished(task: TrainSpec, launch: LaunchConfig | WorkerGroup, *, closure_limit: int) -> None:
    """Raise CheckpointError if the task would train another model than the finished run did, or with other callbacks.

    If the code is the same, no rank is started. Else one rank builds the model; if model and callbacks are the same,
    the new code is recorded, and the next call starts no rank.
    """
    run = task.run
    changed = changed_code(run, task.code)
    if changed is None:
        return
    made_by = read_made_by(run.code)
    log.warning("%s may have changed since run_dir=%s was trained; one rank builds and compares", changed, run.path)
    # A group holds the slots that another job would need: all its ranks build.
    ranks = launch if isinstance(launch, WorkerGroup) else dataclasses.replace(launch, num_workers=1, min_workers=None)
    found = launch_ranks(
        describe_rank,
        (task,),
        launch=ranks,
        description=f"sparkdl fit {run.path}: compare the model",
        closure_limit=closure_limit,
    )[0]
    # With "matching", the layers that the initial model does not have start with the weights of build_model.
    starts_with_them = task.config.initial_model is None or task.config.initial_weights == "matching"
    _compare(run, made_by, found, starts_with_them=starts_with_them)
    try:
        write_made_by(run.code, found)
    except OSError as error:  # such as a read-only folder: the next call compares the model again
        log.warning("%s cannot be written: %s", run.code, error)
    log.warning("%s gives the same model and callbacks as run_dir=%s was trained with", changed, run.path)


def check_exactness(run: RunDir, history: Sequence[Mapping[str, Any]], exactness: str) -> None:
    """Raise CheckpointError if all must be exact and the finished run's last epoch has metrics computed per worker."""
    marked = history[-1].get("per_worker", []) if history else []
    inexact = [name for name in marked if not is_averaged_weights(name)]  # asked for by another option
    if inexact and exactness == "strict":
        raise CheckpointError(
            f"run_dir={run.path} was trained with exactness='per_worker', and {', '.join(inexact)} computed per "
            f"worker; ask for exactness='per_worker', {WAYS_OUT}"
        )


def _compare(run: RunDir, made_by: MadeBy | None, found: MadeBy, *, starts_with_them: bool) -> None:
    """Raise CheckpointError if model, callbacks, or the weights of build_model, if a run starts with them, differ."""
    facts = made_by.model if made_by is not None else _facts_of_checkpoint(run)
    if facts is None:
        log.warning("run_dir=%s is of an older sparkdl and has no checkpoint: its model cannot be compared", run.path)
    elif (difference := model_difference(facts, found.model)) is not None:
        raise CheckpointError(f"run_dir={run.path} holds the run of another model: {difference}; {WAYS_OUT}")
    if made_by is not None and starts_with_them and (difference := weights_difference(made_by, found)) is not None:
        raise CheckpointError(f"run_dir={run.path} holds a run that began otherwise: {difference}; {WAYS_OUT}")
    if made_by is not None and (difference := augment_difference(made_by, found)) is not None:
        raise CheckpointError(f"run_dir={run.path} holds another run: {difference}; {WAYS_OUT}")
    if made_by is not None and (difference := callbacks_difference(made_by.callbacks, found.callbacks)) is not None:
        raise CheckpointError(
            f"run_dir={run.path} has finished with other callbacks: {difference}; ask for more epochs, in which the "
            f"new ones act, {WAYS_OUT}"
        )


def _facts_of_checkpoint(run: RunDir) -> Mapping[str, object] | None:
    """Read the description of the model from the last checkpoint: older runs have it nowhere else."""
    latest = run.latest_checkpoint()
    return None if latest is None else read_checkpoint(latest).facts["model"]
