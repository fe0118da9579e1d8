"""Prove on real rows that loss and metrics are sums over rows, before they are trusted to be.

Runs in rank processes, once before training. Exact steps rest on it: a loss that is a mean over rows, metrics whose
states are sums over rows. Neither can be read off a function, so both are tried on a few rows of the rank's own: what
the whole gives must be what its two parts give together.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from sparkdl.errors import ModelError
from sparkdl.train.metrics import leaf_metrics

__all__ = ["check_additive"]

# Rounding of one batch in each float, with a margin; what is not additive differs by more on real rows.
TOLERANCE = {"float16": 5e-2, "bfloat16": 1e-1}
TOLERANCE_DEFAULT = 2e-5


def check_additive(model: Any, batch: tuple[Any, ...]) -> None:
    """Raise ModelError for a loss or a metric that depends on how rows are divided into batches.

    `batch`: (inputs, targets) or (inputs, targets, weights) of a few real rows; fewer than 2 prove nothing.
    """
    rows = len(keras.tree.flatten(batch)[0])
    if rows < 2:
        return
    cut = max(1, rows // 3)
    first, second, whole = (_measure(model, batch, start, stop) for start, stop in ((0, cut), (cut, rows), (0, rows)))
    model.reset_metrics()
    tolerance = TOLERANCE.get(model.compute_dtype, TOLERANCE_DEFAULT)
    if _differ(whole[0], (first[0] * cut + second[0] * (rows - cut)) / rows, tolerance):
        raise ModelError(
            f"the loss of model {model.name!r} is no mean over rows: {whole[0]:.6g} for {rows} rows, but "
            f"{first[0]:.6g} and {second[0]:.6g} for {cut} and {rows - cut} of them; return one value a row, and make "
            "add_loss a mean over rows"
        )
    for name, state in whole[1].items():
        if _differ(state, first[1][name] + second[1][name], tolerance):
            raise ModelError(
                f"metric {name!r} is no sum over rows: its state for {rows} rows is not that of {cut} and of "
                f"{rows - cut} of them together; return one value per row"
            )


def _measure(model: Any, batch: tuple[Any, ...], start: int, stop: int) -> tuple[float, dict[str, np.ndarray]]:
    """The loss of some rows, and the state of every metric after them alone."""
    x, y, *weights = keras.tree.map_structure(lambda values: values[start:stop], list(batch))
    weight = weights[0] if weights else None
    model.reset_metrics()
    y_pred = model(x, training=False)
    loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=weight, training=False)
    model.compute_metrics(x, y, y_pred, sample_weight=weight)
    states = {
        metric.name: np.concatenate([np.ravel(keras.ops.convert_to_numpy(v)) for v in metric.variables])
        for metric in leaf_metrics(model.metrics)
        if _is_of_users_function(metric)
    }
    return float(keras.ops.convert_to_numpy(loss)), states


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
