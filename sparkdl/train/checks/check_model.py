"""Refuse a model that cannot be trained exactly, before training; create the variables that it creates late.

Runs in rank processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from sparkdl.data.features import Encoder
from sparkdl.errors import ModelError, shown
from sparkdl.train.checks.check_data import check_inputs, check_targets
from sparkdl.train.exact.loss_parts import check_losses
from sparkdl.train.exact.optimizers import inner_optimizers, optimizers_of
from sparkdl.train.exact.overrides import has_own_step, overrides
from sparkdl.train.exact.state.metrics import check_metrics

__all__ = ["build", "check_model"]

log = logging.getLogger(__name__)

# Methods that decide what is fed, or which function a step is: a user's version would bypass the exact step.
NEVER_OWN = ("fit", "evaluate", "make_train_function", "make_test_function")


def check_model(model: Any) -> None:
    """Raise ModelError if the model cannot be trained exactly; the message names why."""
    if not isinstance(model, keras.Model):
        raise ModelError(f"build_model must return a compiled keras.Model, not {type(model).__name__}")
    if not model.compiled or model.optimizer is None:
        raise ModelError(f"model {model.name!r} is not compiled with an optimizer; build_model must return it compiled")
    for method in NEVER_OWN:
        if overrides(model, method):
            raise ModelError(
                f"model {model.name!r} has its own {method}, which sparkdl's would replace; put what it does into "
                "train_step, test_step or callbacks"
            )
    for optimizer in (one for outer in optimizers_of(model) for one in (outer, *inner_optimizers(outer))):
        if "apply" in vars(optimizer):  # as `sparkdl.compat.horovod_keras` leaves it
            raise ModelError(
                f"optimizer {optimizer.name!r} is wrapped by hvd.DistributedOptimizer; sparkdl.fit sums gradients "
                "itself: compile the model with the optimizer as it is"
            )
    if model.steps_per_execution != 1:
        log.warning("steps_per_execution=%s is taken as 1: all ranks agree after each step", model.steps_per_execution)


def build(model: Any, example: tuple[Any, ...], label_encoders: Sequence[Encoder] = ()) -> None:
    """Create all variables of model, losses, metrics and optimizer, and check names, shapes, losses and metrics.

    `example`: (inputs, targets) or (inputs, targets, weights) of a few rows; `label_encoders`: those of the
    targets, if the targets are labels.
    """
    _check_input_names(model, example[0])
    _check_output_names(model, example[1])
    if not has_own_step(model):
        check_inputs(model, example[0])
        check_targets(model, example, label_encoders)
    model._symbolic_build(data_batch=example)
    check_losses(model)
    check_metrics(model)


def _check_input_names(model: Any, inputs: Any) -> None:
    """Raise ModelError if a model takes inputs by name and the names are not those of the features.

    Keras pairs inputs and features in the order of their sorted names, whatever the names are.
    """
    taken = getattr(model, "_inputs_struct", None)
    if not isinstance(taken, Mapping):
        return
    given = inputs if isinstance(inputs, Mapping) else {}
    unknown, unused = set(taken) - set(given), set(given) - set(taken)
    if given and (unknown or unused):
        raise ModelError(
            f"model {model.name!r} takes inputs by name; not features of the dataset: {shown(sorted(unknown))}, "
            f"features without an input: {shown(sorted(unused))}. Give it an Input for each feature, or a list of "
            "those that it takes: keras.Model([a, b], outputs)"
        )


def _check_output_names(model: Any, targets: Any) -> None:
    """Raise ModelError for labels by name that are not outputs of the model; Keras pairs labels and outputs by name."""
    made = getattr(model, "_outputs_struct", None)
    if made is None or not isinstance(targets, Mapping) or isinstance(made, keras.KerasTensor):
        return
    outputs = list(made) if isinstance(made, Mapping) else list(model.output_names)
    if unknown := sorted(set(targets) - set(outputs)):
        raise ModelError(
            f"model {model.name!r} has outputs {shown(sorted(outputs))} and none for the labels {shown(unknown)}; name "
            "its last layers, or the outputs of a dict, after the labels"
        )
