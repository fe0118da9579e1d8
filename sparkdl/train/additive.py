"""Prove on real rows that loss and metrics are sums over rows, before they are trusted to be.

Runs in rank processes, once before training. Exact steps rest on it: a loss that is a mean over rows, metrics whose
states are sums over rows. Neither can be read off a function, so both are tried on a few rows of the rank's own: what
the whole gives must be what its two parts give together; of a loss, the numerators and the denominators.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.check_model import has_own_step
from sparkdl.train.loss_parts import LossParts, loss_parts
from sparkdl.train.metrics import leaf_metrics
from sparkdl.train.step_numbers import Counts, weigh_classes

__all__ = ["check_additive"]

# Rounding of one batch in each float, with a margin; what is not additive differs by more on real rows.
TOLERANCE = {"float16": 5e-2, "bfloat16": 1e-1}
TOLERANCE_DEFAULT = 2e-5

# The parts of a loss, and the state of each metric.
Measured = tuple[np.ndarray, dict[str, np.ndarray]]


def check_additive(model: Any, batch: tuple[Any, ...], class_weights: tuple[float, ...] | None = None) -> None:
    """Raise ModelError for a loss or a metric that depends on how rows are divided into batches.

    Args:
        batch: (inputs, targets) or (inputs, targets, weights) of a few real rows; fewer than 2 prove nothing.
        class_weights: those of the training; a loss that is a mean over rows without weights may be none with them.
    """
    if class_weights is not None:
        batch = weigh_classes(batch, class_weights)
    rows = len(keras.tree.flatten(batch)[0])
    if rows < 2:
        return
    with loss_parts(model, world_size=1) as losses:
        whole = _measure(model, losses, batch, 0, rows)
        # Two divisions: two large parts may be alike by chance, one row is seldom like all others.
        for cut in sorted({1, max(1, rows // 3)}):
            parts = [_measure(model, losses, batch, start, stop) for start, stop in ((0, cut), (cut, rows))]
            _check_parts(model, whole, *parts, cut=cut, rows=rows)
    model.reset_metrics()


def _check_parts(model: Any, whole: Measured, first: Measured, second: Measured, *, cut: int, rows: int) -> None:
    """Raise ModelError if the whole is not what its two parts, of `cut` rows and of the rest, give together."""
    tolerance = TOLERANCE.get(model.compute_dtype, TOLERANCE_DEFAULT)
    # Parts of the loss: numerators and denominators, shape (parts, 2).
    for of_whole, of_first, of_second in zip(*(measured[0] for measured in (whole, first, second)), strict=True):
        if _differ(of_whole, of_first + of_second, tolerance):
            of_all, of_one, of_other = (
                part[0] / part[1] if part[1] else 0.0 for part in (of_whole, of_first, of_second)
            )
            raise ModelError(
                f"the loss of model {model.name!r} is no mean over rows: {of_all:.6g} for {rows} rows, but "
                f"{of_one:.6g} and {of_other:.6g} for {cut} and {rows - cut} of them; return one value a row, and make "
                "add_loss a mean over rows"
            )
    for name, state in whole[1].items():
        if _differ(state, first[1][name] + second[1][name], tolerance):
            raise ModelError(
                f"metric {name!r} is no sum over rows: its state for {rows} rows is not that of {cut} and of "
                f"{rows - cut} of them together; return one value per row"
            )


def _measure(model: Any, losses: LossParts, batch: tuple[Any, ...], start: int, stop: int) -> Measured:
    """The parts of the loss of some rows, and the state of every metric after them alone."""
    x, y, *weights = keras.tree.map_structure(lambda values: values[start:stop], list(batch))
    weight = weights[0] if weights else None
    model.reset_metrics()
    y_pred = model(x, training=False)
    parts = _loss_parts(model, losses, (x, y, y_pred, weight), stop - start, len(keras.tree.flatten(batch)[0]))
    model.compute_metrics(x, y, y_pred, sample_weight=weight)
    states = {
        metric.name: np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in metric.variables])
        for metric in leaf_metrics(model.metrics)
        if _is_of_users_function(metric)
    }
    return parts, states


def _loss_parts(model: Any, losses: LossParts, call: tuple[Any, Any, Any, Any], rows: int, all_rows: int) -> np.ndarray:
    """float64, shape ``(parts, 2)``; a loss that the model computes in its own way is one part, a mean over rows."""
    x, y, y_pred, weight = call
    if not has_own_step(model):
        counts = Counts.of(tf.constant([rows, all_rows, 0], tf.int64))
        return losses.compute(y, y_pred, weight, counts).parts.numpy()
    if type(model).compute_loss is keras.Model.compute_loss and model._compile_loss is None and not model.losses:
        return np.zeros((0, 2))  # the train_step alone knows the loss
    value = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=False)
    return np.array([[float(keras.ops.convert_to_numpy(value)) * rows, rows]])


def _is_of_users_function(metric: Any) -> bool:
    """Whether the metric is a mean of what a function of the user's own gives; Keras' functions give a value a row."""
    function = getattr(metric, "_fn", None)
    return function is not None and not str(getattr(function, "__module__", "")).startswith("keras.")


def _differ(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two values, or states, are not the same up to rounding; what is not finite proves nothing."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    scale = max(float(np.max(np.abs(one))), float(np.max(np.abs(other))), 1e-6)
    return bool(np.max(np.abs(one - other)) > tolerance * scale)
