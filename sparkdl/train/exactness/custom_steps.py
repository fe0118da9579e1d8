"""Find whether losses and values within the user's steps are means over rows, by what the steps hand on.

Runs in a rank process, before training. What such a step computes cannot be seen, but what its optimizers and metrics
get can: gradients and values for some rows must be the mean, weighted by rows, of those for parts of the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.train.exact.findings import Inexact
from sparkdl.train.exact.optimizers import optimizers_of
from sparkdl.train.exact.patch import patched
from sparkdl.train.exact.rounding import differ
from sparkdl.train.exact.state.batch_values import Noted, judge_values, metrics_of_layers, noted
from sparkdl.train.exact.state.metrics import metric_variables
from sparkdl.train.exactness.probe import LEAST_ROWS, part_of
from sparkdl.train.exactness.row_independence import model_tolerance
from sparkdl.train.exactness.steady import steady
from sparkdl.train.exactness.trials import partitions

__all__ = ["try_own_steps"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Taken:
    """Hold what one step gave: its optimizers' gradients, float64, in order; and its metrics' single values."""

    gradients: list[np.ndarray]
    noted: Noted


def try_own_steps(model: Any, batch: tuple[Any, ...], *, training: bool) -> tuple[list[Inexact], set[str]]:
    """Find what is not exact in a model's own train_step and test_step, by the gradients and values that these hand on.

    Returns the parts that are not exact, and the names of Sum metrics that get sums over rows. A step that draws past
    Keras (`tf.random`, numpy) gives other gradients each time, and is not judged.
    """
    found: list[Inexact] = []
    summed: set[str] = set()
    for step in ("train_step", "test_step") if training else ("test_step",):
        if getattr(type(model), step) is not getattr(keras.Model, step):
            inexact, names = _try_step(model, step, batch)
            found += inexact
            summed |= names
    return found, summed


def _try_step(model: Any, step: str, batch: tuple[Any, ...]) -> tuple[list[Inexact], set[str]]:
    rows = len(keras.tree.flatten(batch[0])[0])
    if rows < LEAST_ROWS:
        return [], set()
    indexes = [np.arange(rows), np.arange(rows), *next(partitions(rows))]
    counts = [len(part) for part in indexes[2:]]
    try:
        whole, again, *parts = (_taken(model, step, part_of(batch, part)) for part in indexes)
    except tf.errors.ResourceExhaustedError:
        raise
    except Exception as error:
        log.warning(
            "the %s of model %r cannot be tried on a few rows (%s); that its losses and values are means over rows is "
            "taken on trust",
            step,
            model.name,
            " ".join(f"{type(error).__name__}: {error}".split())[:200],
        )
        return [], set()
    tolerance = model_tolerance(model)
    if _draws(whole, again, tolerance):
        return [], set()
    found = _judge_gradients(f"{step} of model {model.name!r}", whole, parts, counts, tolerance)
    values, summed = judge_values(
        metrics_of_layers(model), whole.noted, [part.noted for part in parts], counts, tolerance=tolerance
    )
    return found + values, summed


def _draws(one: _Taken, other: _Taken, tolerance: float) -> bool:
    """Tell whether two steps with the same rows gave different values, since the steps draw."""
    if len(one.gradients) != len(other.gradients) or len(one.noted) != len(other.noted):
        return True
    values = [(np.array(float(a)), np.array(float(b))) for (_, a), (_, b) in zip(one.noted, other.noted, strict=True)]
    pairs = [*zip(one.gradients, other.gradients, strict=True), *values]
    return any(differ(a, b, scale=float(np.abs(a).max(initial=0.0)), tolerance=tolerance) for a, b in pairs)


def _judge_gradients(
    name: str, whole: _Taken, parts: Sequence[_Taken], counts: Sequence[int], tolerance: float
) -> list[Inexact]:
    rows = sum(counts)
    if any(len(part.gradients) != len(whole.gradients) for part in parts):
        return [Inexact(name, "applies its optimizers another number of times for other rows")]
    for index, gradient in enumerate(whole.gradients):
        own = np.stack([part.gradients[index] * count / rows for part, count in zip(parts, counts, strict=True)])
        scale = max(float(np.abs(own).max(initial=0.0)), float(np.abs(gradient).max(initial=0.0)))
        if differ(gradient, own.sum(axis=0), scale=scale, tolerance=tolerance):
            of_parts = zip(parts, counts, strict=True)
            norms = ", ".join(f"{np.linalg.norm(part.gradients[index]):.4g} of {count}" for part, count in of_parts)
            reason = (
                f"applies a gradient that is not the mean of the rows' gradients: its norm is "
                f"{np.linalg.norm(gradient):.4g} for {rows} rows, and {norms} of them"
            )
            return [Inexact(name, reason, "make the losses in it means over rows")]
    return []


def _taken(model: Any, step: str, batch: Any) -> _Taken:
    """Run a step on these rows and return what it gave; gradients are not applied, and variables are restored."""
    gradients: list[np.ndarray] = []

    def apply(grads: Any, trainable_variables: Any = None) -> None:
        gradients.extend(np.asarray(tf.convert_to_tensor(grad), np.float64) for grad in grads if grad is not None)

    variables = list({id(v): v for v in (*model.variables, *metric_variables(model))}.values())
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    with ExitStack() as stack:
        stack.enter_context(steady(model))
        values = stack.enter_context(noted(metrics_of_layers(model)))
        for optimizer in optimizers_of(model):
            stack.enter_context(patched(optimizer, {"apply": apply}))
        try:
            getattr(model, step)(keras.tree.map_structure(tf.convert_to_tensor, tuple(batch)))
        finally:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
    return _Taken(gradients, [(index, float(value)) for index, value in values])
