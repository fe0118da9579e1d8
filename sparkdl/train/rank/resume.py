"""Continue a run from a checkpoint. Runs in rank processes, after `build_model` and before the first step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sparkdl.data.features import Encoder
from sparkdl.errors import CheckpointError
from sparkdl.model.own_names import own_objects
from sparkdl.train.checks.check_model import build
from sparkdl.train.exact.counters import StepCounters
from sparkdl.train.rank.callbacks.recorder import EpochRecorder
from sparkdl.train.rank.compilation import compile_as
from sparkdl.train.run.checkpoint import Checkpoint, Position, open_arrays, read_checkpoint
from sparkdl.train.run.made_by import (
    MadeBy,
    augment_difference,
    callbacks_difference,
    model_difference,
    read_made_by,
    weights_difference,
    write_made_by,
)
from sparkdl.train.run.run_dir import RunDir
from sparkdl.train.run.state import restore_epoch, restore_model

__all__ = ["compile_as_before", "found_checkpoint", "record_origin", "restore", "resume_epoch", "start_of"]

log = logging.getLogger(__name__)


def found_checkpoint(run: RunDir, path: str | None, facts: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint at `path`, or None for no path.

    `facts`: the description of the model (`model_facts`). Raises CheckpointError if the checkpoint is of another model.
    """
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    difference = model_difference(checkpoint.facts["model"], facts)
    if difference is not None:
        raise CheckpointError(f"run_dir={run.path} holds the run of another model: {difference}; {run.ways_out()}")
    return checkpoint


def compile_as_before(
    model: Any, checkpoint: Checkpoint | None, example: tuple[Any, ...], label_encoders: Sequence[Encoder]
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Compile a model as a callback had compiled it before the checkpoint, and build it again.

    Returns the description of the compilation (`compilation_of`), and the user's objects in the model that
    `build_model` returned, by their names; None and None where no callback had compiled the model.
    """
    compilation = None if checkpoint is None else checkpoint.facts.get("compilation")
    if compilation is None:
        return None, None
    own = own_objects(model)
    compile_as(model, compilation, own)
    build(model, example, label_encoders)
    return compilation, own


def restore(checkpoint: Checkpoint, model: Any) -> None:
    """Give rank 0's model and optimizers the values of a checkpoint."""
    with open_arrays(checkpoint) as arrays:
        restore_model(model, arrays)
    log.info("the run goes on from %s, in %s", checkpoint.position, checkpoint.path)


def record_origin(run: RunDir, made_by: MadeBy, resumed: Checkpoint | None) -> None:
    """Record what the run is made by from here on, and warn if its callbacks were different before. For rank 0.

    Raises CheckpointError if its augment function was another.
    """
    before = read_made_by(run.code) if resumed is not None else None
    if before is not None and resumed is not None:
        if (difference := augment_difference(before, made_by)) is not None:
            raise CheckpointError(f"run_dir={run.path} holds another run: {difference}; {run.ways_out()}")
        difference = callbacks_difference(before.callbacks, made_by.callbacks)
        if difference is not None:
            log.warning("the run goes on with other callbacks from %s: %s", resumed.position, difference)
        if before.weights:  # the run began with these weights, whatever build_model returns now
            if (changed := weights_difference(before, made_by)) is not None:
                log.warning("the run goes on from %s, and began otherwise: %s", resumed.position, changed)
            made_by = replace(made_by, weights=before.weights)
    write_made_by(run.code, made_by)


def start_of(resumed: Checkpoint | None, epochs: int) -> Position:
    """Return the position at which a run of `epochs` epochs starts."""
    if resumed is None:
        return Position()
    # A run that a callback has stopped goes on only if it is asked for more epochs than it was then.
    if resumed.facts["stopped"] and epochs <= resumed.facts["epochs"]:
        return Position(epochs, 0)
    return resumed.position


def resume_epoch(
    model: Any, numbers: StepCounters, recorder: EpochRecorder, resumed: Checkpoint | None, *, rank: int
) -> None:
    """Restore the sums of the unfinished epoch that the checkpoint was taken in."""
    if resumed is not None:
        with open_arrays(resumed) as arrays:
            restore_epoch(model, numbers, arrays, rank=rank)
        recorder.go_on(resumed.position.step, resumed.facts["seconds"])
