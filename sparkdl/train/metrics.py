"""Metrics over all rows: which can be reduced, and how.

Runs in rank processes. A metric is computed from its state; states are summed over the ranks, never results averaged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from sparkdl.errors import ModelError
from sparkdl.train.collective import sum_over_ranks

__all__ = ["check_metrics", "leaf_metrics", "summed_states"]

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
# Means of a statistic of each batch: another division into batches gives another value, even in one process.
NOT_ADDITIVE_NAMES = ("PearsonCorrelation", "ConcordanceCorrelation")


def leaf_metrics(metrics: Sequence[Any]) -> list[Any]:
    """The metrics themselves, out of the containers that Keras keeps them in."""
    leaves: list[Any] = []
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        leaves.extend(leaf_metrics(inner) if inner else [] if type(metric).__name__ == "CompileMetrics" else [metric])
    return leaves


def check_metrics(model: Any) -> None:
    """Raise ModelError for a metric that is not known to be additive.

    A class of the user's own declares that summing its state over ranks is right by `sparkdl_reduction = "sum"`.
    """
    for metric in leaf_metrics(model.metrics):
        kind = type(metric)
        if getattr(metric, "sparkdl_reduction", None) == "sum":
            continue
        of_keras = kind.__module__.startswith("keras.") and kind.__name__ not in NOT_ADDITIVE_NAMES
        if not (of_keras and isinstance(metric, ADDITIVE)):
            raise ModelError(
                f"metric {metric.name!r} ({kind.__name__}) is not known to be exact over several ranks; if the sum of "
                "its variables over the ranks is the state over all rows, set sparkdl_reduction = 'sum' on its class"
            )


@contextmanager
def summed_states(metrics: Sequence[Any]) -> Iterator[None]:
    """Within the block the metrics' variables hold the sums over all ranks; afterwards each rank's own again."""
    variables = list({id(v): v for metric in metrics for v in metric.variables}.values())
    own = [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]
    if not variables:
        yield
        return
    # One vector for one operation: (all states' elements,).
    total = sum_over_ranks(np.concatenate([value.astype(np.float64).reshape(-1) for value in own]), name="metrics")
    place = 0
    for variable, value in zip(variables, own, strict=True):
        variable.assign(total[place : place + value.size].reshape(value.shape).astype(value.dtype))
        place += value.size
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)
