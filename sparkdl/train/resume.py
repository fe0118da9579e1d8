"""Let a run go on from a checkpoint, or start from trained weights.

Runs in rank processes, after `build_model` and before the first step.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from sparkdl.errors import CheckpointError, ModelError, shown
from sparkdl.model.load import load_keras
from sparkdl.model.signature import Signature
from sparkdl.train.checkpoint import Checkpoint, Position, open_arrays, read_checkpoint
from sparkdl.train.recorder import EpochRecorder
from sparkdl.train.run_dir import RunDir, first_difference
from sparkdl.train.run_state import restore_epoch, restore_model
from sparkdl.train.step_numbers import StepNumbers

__all__ = ["resume", "resume_epoch", "start_of", "warm_start"]

log = logging.getLogger(__name__)


def resume(run: RunDir, path: str | None, model: Any, facts: dict[str, Any], *, rank: int) -> Checkpoint | None:
    """The checkpoint at `path` to go on from, or None; rank 0's model and optimizers have its values then.

    Args:
        facts: what the model is, by `model_facts`; under another version of Keras its variables alone are compared.

    Raises CheckpointError if it was made by another model.
    """
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    # Through JSON, as the other one went.
    old, new = checkpoint.facts["model"], json.loads(json.dumps(facts["model"]))
    if old["keras"] != new["keras"]:
        # Each version writes the same configuration in its own way; the weights tell what matters most.
        old, new = ({"variables": one["variables"]} for one in (old, new))
    difference = first_difference(old, new, "model")
    if difference is not None:
        raise CheckpointError(f"run_dir={run.path} holds the run of another model: {difference}")
    if rank == 0:
        with open_arrays(checkpoint) as arrays:
            restore_model(model, arrays)
        log.info("the run goes on from %s, in %s", checkpoint.position, checkpoint.path)
    return checkpoint


def start_of(resumed: Checkpoint | None, epochs: int) -> Position:
    """Where a run that is asked for so many epochs starts."""
    if resumed is None:
        return Position()
    # A run that a callback has stopped goes on only if it is asked for more epochs than it was then.
    if resumed.facts["stopped"] and epochs <= resumed.facts["epochs"]:
        return Position(epochs, 0)
    return resumed.position


def resume_epoch(
    model: Any, numbers: StepNumbers, recorder: EpochRecorder, resumed: Checkpoint | None, *, rank: int
) -> None:
    """Continue the sums of the epoch that the checkpoint lies in."""
    if resumed is not None:
        with open_arrays(resumed) as arrays:
            restore_epoch(model, numbers, arrays, rank=rank)
        recorder.go_on(resumed.position.step, resumed.facts["seconds"])


def warm_start(model: Any, model_dir: str) -> None:
    """Give the model the weights of a trained one. Raises ModelError if they do not fit."""
    trained = load_keras(model_dir, Signature.read(model_dir), compiled=False)
    shapes, own = ([tuple(w.shape) for w in m.weights] for m in (trained, model))
    if shapes != own:
        raise ModelError(f"initial_model={model_dir} has weights of other shapes than build_model's: {shown(shapes)}")
    model.set_weights(trained.get_weights())
