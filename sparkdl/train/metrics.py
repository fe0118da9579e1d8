"""Metrics over all rows: which can be reduced, and how.

Runs in rank processes. A metric is computed from its state; states are reduced over the ranks, never results averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from sparkdl.errors import ModelError
from sparkdl.train.collective import max_over_ranks, min_over_ranks, sum_over_ranks

__all__ = ["ADDITIVE", "NOT_ADDITIVE", "check_metrics", "leaf_metrics", "reduced_states"]

# Keras metrics whose state is a sum over rows, so that the state of all rows is the sum of the ranks' states.
# Additivity cannot be read off a metric (Variable.aggregation is "sum" by default), so this is a list, proved by tests.
ADDITIVE: tuple[type, ...] = (
    keras.metrics.Mean,
    keras.metrics.Sum,
    keras.metrics.MeanMetricWrapper,
    keras.metrics.RootMeanSquaredError,
    keras.metrics.R2Score,
    keras.metrics.TruePositives,
    keras.metrics.TrueNegatives,
    keras.metrics.FalsePositives,
    keras.metrics.FalseNegatives,
    keras.metrics.Precision,
    keras.metrics.Recall,
    keras.metrics.AUC,
    keras.metrics.SensitivityAtSpecificity,
    keras.metrics.SpecificityAtSensitivity,
    keras.metrics.PrecisionAtRecall,
    keras.metrics.RecallAtPrecision,
    keras.metrics.FBetaScore,
    keras.metrics.F1Score,
    keras.metrics.IoU,
    keras.metrics.MeanIoU,
    keras.metrics.BinaryIoU,
    keras.metrics.OneHotIoU,
    keras.metrics.OneHotMeanIoU,
)
# Metrics of a statistic of each batch: another division into batches gives another value, even in one process.
NOT_ADDITIVE = {
    "PearsonCorrelation": "a mean of the correlations of batches",
    "ConcordanceCorrelation": "a mean of the correlations of batches",
}
# The history, and the event that tells of an epoch, have these already.
TAKEN_NAMES = ("epoch", "epochs", "kind", "lr", "seconds", "rows_per_second", "data_wait_seconds")
REDUCTIONS = {"sum": sum_over_ranks, "max": max_over_ranks, "min": min_over_ranks}


def leaf_metrics(metrics: Sequence[Any]) -> list[Any]:
    """The metrics themselves, out of the containers that Keras keeps them in."""
    leaves: list[Any] = []
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        leaves.extend(leaf_metrics(inner) if inner else [] if type(metric).__name__ == "CompileMetrics" else [metric])
    return leaves


def check_metrics(model: Any) -> None:
    """Raise ModelError for a metric that is not known to be exact over ranks, or that the history cannot keep.

    A class of the user's own declares how its state is reduced by `sparkdl_reduction = "sum"`, "max" or "min".
    """
    for metric in leaf_metrics(model.metrics):
        kind = type(metric)
        declared = getattr(metric, "sparkdl_reduction", None)
        if metric.name in TAKEN_NAMES:
            raise ModelError(f"metric {metric.name!r} has the name of another figure of the history; give it another")
        if declared is not None and declared not in REDUCTIONS:
            raise ModelError(
                f"metric {metric.name!r} ({kind.__name__}) has sparkdl_reduction={declared!r}; possible are "
                f"{', '.join(REDUCTIONS)}"
            )
        if declared is not None or _is_additive(kind):
            continue
        if kind.__name__ in NOT_ADDITIVE and kind.__module__.startswith("keras."):
            raise ModelError(
                f"metric {metric.name!r} ({kind.__name__}) is {NOT_ADDITIVE[kind.__name__]}, not of all rows; "
                "compute it on predictions, after training"
            )
        raise ModelError(
            f"metric {metric.name!r} ({kind.__name__}) is not known to be exact over several ranks; if the sum of "
            "its variables over the ranks is the state over all rows, set sparkdl_reduction = 'sum' on its class"
        )


def _is_additive(kind: type) -> bool:
    of_keras = kind.__module__.startswith("keras.") and kind.__name__ not in NOT_ADDITIVE
    return of_keras and issubclass(kind, ADDITIVE)


@contextmanager
def reduced_states(metrics: Sequence[Any]) -> Iterator[None]:
    """Within the block the metrics' variables hold the states over all ranks; afterwards each rank's own again."""
    reductions = {
        id(v): (v, getattr(metric, "sparkdl_reduction", "sum")) for metric in metrics for v in metric.variables
    }
    own = [(v, np.asarray(keras.ops.convert_to_numpy(v)), how) for v, how in reductions.values()]
    for how, reduce in REDUCTIONS.items():
        states = [(v, value) for v, value, reduction in own if reduction == how]
        if states:
            # One vector for one operation: (all states' elements,).
            flat = np.concatenate([value.astype(np.float64).reshape(-1) for _, value in states])
            _assign(states, reduce(flat, name=f"metrics_{how}"))
    try:
        yield
    finally:
        for variable, value, _ in own:
            variable.assign(value)


def _assign(states: Sequence[tuple[Any, np.ndarray]], flat: np.ndarray) -> None:
    place = 0
    for variable, value in states:
        variable.assign(flat[place : place + value.size].reshape(value.shape).astype(value.dtype))
        place += value.size
