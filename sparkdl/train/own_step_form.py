"""Find whether the losses within a train_step of the user's own are means over rows, by the gradients it applies.

Runs in a rank process, before training. What such a step does cannot be seen, but its optimizers are: the gradients
that they get for some rows must be the mean, by rows, of those for parts of the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.train.exactness import Inexact
from sparkdl.train.metrics import leaf_metrics
from sparkdl.train.optimizers import optimizers_of
from sparkdl.train.probe import LEAST_ROWS, part_of
from sparkdl.train.replaced import replaced
from sparkdl.train.row_form import differ
from sparkdl.train.row_independence import model_tolerance
from sparkdl.train.steady import steady
from sparkdl.train.trials import partitions

__all__ = ["inexact_train_step"]

log = logging.getLogger(__name__)


def inexact_train_step(model: Any, batch: tuple[Any, ...]) -> list[Inexact]:
    """Find whether a model's own train_step applies gradients of something else than means over rows.

    Args:
        batch: (inputs, targets) or (inputs, targets, weights) of real rows.

    A step that draws past Keras (`tf.random`, numpy) gives other gradients each time, and is not judged.
    """
    rows = len(keras.tree.flatten(batch[0])[0])
    if type(model).train_step is keras.Model.train_step or rows < LEAST_ROWS:
        return []
    places = [np.arange(rows), np.arange(rows), *next(partitions(rows))]
    try:
        whole, again, *parts = (_gradients(model, part_of(batch, part)) for part in places)
    except Exception as error:
        log.warning(
            "the train_step of model %r cannot be tried on a few rows (%s); that its losses are means over rows is "
            "taken on trust",
            model.name,
            " ".join(f"{type(error).__name__}: {error}".split())[:200],
        )
        return []
    name = f"train_step of model {model.name!r}"
    if any(len(gradients) != len(whole) for gradients in (again, *parts)):
        return [Inexact(name, "applies its optimizers another number of times for other rows")]
    tolerance = model_tolerance(model)
    for place, gradient in enumerate(whole):
        own = np.stack([part[place] * len(where) / rows for part, where in zip(parts, places[2:], strict=True)])
        scale = max(float(np.abs(own).max(initial=0.0)), float(np.abs(gradient).max(initial=0.0)))
        if differ(gradient, again[place], scale=scale, tolerance=tolerance):
            return []
        if differ(gradient, own.sum(axis=0), scale=scale, tolerance=tolerance):
            of_parts = zip(parts, places[2:], strict=True)
            norms = ", ".join(f"{np.linalg.norm(part[place]):.4g} of {len(where)}" for part, where in of_parts)
            reason = (
                f"applies a gradient that is not the mean of the rows' gradients: its norm is "
                f"{np.linalg.norm(gradient):.4g} for {rows} rows, and {norms} of them"
            )
            return [Inexact(name, reason, "make the losses in it means over rows")]
    return []


def _gradients(model: Any, batch: Any) -> list[np.ndarray]:
    """What the step hands to the model's optimizers, float64, in order; nothing is applied, all is put back."""
    found: list[np.ndarray] = []

    def apply(grads: Any, trainable_variables: Any = None) -> None:
        found.extend(np.asarray(tf.convert_to_tensor(grad), np.float64) for grad in grads if grad is not None)

    variables = _variables(model)
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    with ExitStack() as stack:
        stack.enter_context(steady(model))
        for optimizer in optimizers_of(model):
            stack.enter_context(replaced(optimizer, {"apply": apply}))
        try:
            model.train_step(keras.tree.map_structure(tf.convert_to_tensor, tuple(batch)))
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
    return found


def _variables(model: Any) -> Sequence[Any]:
    found = [*model.variables, *(v for metric in leaf_metrics(model.metrics) for v in metric.variables)]
    return list({id(variable): variable for variable in found}.values())
