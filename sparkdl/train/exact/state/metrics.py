"""Reduce metrics over all rows, and tell which metrics can be reduced.

Runs in rank processes. A metric is computed from its state; states are reduced over the ranks, and results are
averaged only where a state cannot be reduced (`averaged_by_rows`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import numpy as np

from sparkdl.errors import ModelError
from sparkdl.train.exact.collective import reduce_over_ranks
from sparkdl.train.exact.findings import Inexact
from sparkdl.train.exact.patch import all_patched

__all__ = [
    "averaged_by_rows",
    "check_metrics",
    "inexact_metrics",
    "leaf_metrics",
    "metric_variables",
    "metrics_by_rows",
    "reduced_states",
]

# Keras metrics whose state is a sum over rows, so that the state of all rows is the sum of the ranks' states.
# Additivity cannot be read off a metric (Variable.aggregation is "sum" by default), so this is a list, proved by tests.
# Keras' subclasses of these are additive as well: MeanMetricWrapper, RootMeanSquaredError, F1Score, MeanIoU and so on.
ADDITIVE: tuple[type, ...] = (
    keras.metrics.Mean,
    keras.metrics.Sum,
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
    keras.metrics.IoU,
)
# Metrics of a statistic of each batch: another division into batches gives another value, even in one process.
NOT_ADDITIVE = {
    "PearsonCorrelation": "a mean of the correlations of batches",
    "ConcordanceCorrelation": "a mean of the correlations of batches",
}
# Names that the history, and the event of an epoch, have already.
TAKEN_NAMES = ("epoch", "epochs", "kind", "lr", "seconds", "rows_per_second", "data_wait_seconds")
REDUCTIONS = ("sum", "max", "min")


def leaf_metrics(metrics: Sequence[Any]) -> list[Any]:
    """Take metrics out of the containers in which Keras keeps them."""
    leaves: list[Any] = []
    for metric in metrics:
        inner = getattr(metric, "metrics", None)
        leaves.extend(leaf_metrics(inner) if inner else [] if type(metric).__name__ == "CompileMetrics" else [metric])
    return leaves


def metric_variables(model: Any) -> list[Any]:
    """List the variables of a model's metrics, each once."""
    return list({id(v): v for metric in leaf_metrics(model.metrics) for v in metric.variables}.values())


def check_metrics(model: Any) -> None:
    """Raise ModelError for a metric that the history cannot keep, or that declares an unknown reduction."""
    for metric in leaf_metrics(model.metrics):
        declared = getattr(metric, "sparkdl_reduction", None)
        if metric.name in TAKEN_NAMES:
            raise ModelError(f"metric {metric.name!r} has the name of another entry of the history; rename it")
        if declared is not None and declared not in REDUCTIONS:
            raise ModelError(
                f"metric {metric.name!r} ({type(metric).__name__}) has sparkdl_reduction={declared!r}; possible are "
                f"{', '.join(REDUCTIONS)}"
            )


def inexact_metrics(model: Any) -> tuple[list[Inexact], list[int]]:
    """List the metrics that are not known to be exact over ranks, and their indexes among `leaf_metrics`.

    The user's metric class declares how its state is reduced by `sparkdl_reduction = "sum"`, "max" or "min".
    """
    found: list[Inexact] = []
    indexes: list[int] = []
    for index, metric in enumerate(leaf_metrics(model.metrics)):
        kind = type(metric)
        if getattr(metric, "sparkdl_reduction", None) is not None or _is_additive(kind):
            continue
        indexes.append(index)
        what = f"metric {metric.name!r} ({kind.__name__})"
        if kind.__name__ in NOT_ADDITIVE and kind.__module__.startswith("keras."):
            reason = f"is {NOT_ADDITIVE[kind.__name__]}, not of all rows"
            found.append(Inexact(what, reason, "compute it on predictions, after training"))
        else:
            way_out = "if the sum of its variables over the ranks is the state over all rows, set sparkdl_reduction = "
            found.append(Inexact(what, "is not known to be exact over several ranks", f"{way_out}'sum' on its class"))
    return found, indexes


def _is_additive(kind: type) -> bool:
    of_keras = kind.__module__.startswith("keras.") and kind.__name__ not in NOT_ADDITIVE
    return of_keras and issubclass(kind, ADDITIVE)


@contextmanager
def reduced_states(metrics: Sequence[Any]) -> Iterator[None]:
    """Set the metrics' variables to the states over all ranks, within the block; then restore this rank's states."""
    reductions = {
        id(v): (v, getattr(metric, "sparkdl_reduction", "sum")) for metric in metrics for v in metric.variables
    }
    own = [(v, np.asarray(keras.ops.convert_to_numpy(v)), how) for v, how in reductions.values()]
    starts = _starts([metric for metric in metrics if getattr(metric, "sparkdl_reduction", None) == "sum"])
    try:
        for how in REDUCTIONS:
            states = [(v, value) for v, value, reduction in own if reduction == how]
            if not states:
                continue
            # One vector for one operation: (all states' elements,). For a sum, the changes since the start are summed.
            begin = np.concatenate([starts.get(id(v), np.zeros(value.shape)).reshape(-1) for v, value in states])
            flat = np.concatenate([value.astype(np.float64).reshape(-1) for _, value in states])
            _assign(states, begin + reduce_over_ranks(how, flat - begin, name=f"metrics_{how}"))
        yield
    finally:
        for variable, value, _ in own:
            variable.assign(value)


def metrics_by_rows(model: Any, single_values: Sequence[int]) -> AbstractContextManager[None]:
    """Make metrics of functions with one value for all rows count the value once for each row, within the block.

    Keras counts such a value once for each batch, so that the rows of a smaller batch weigh more. `single_values`: the
    indexes of these metrics among `leaf_metrics(model.metrics)`.
    """

    def by_rows(metric: Any) -> Any:
        def update_state(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            value = keras.ops.mean(metric._fn(y_true, y_pred, **metric._fn_kwargs))
            values = keras.ops.broadcast_to(value, keras.ops.shape(y_pred)[:1])
            return keras.metrics.Mean.update_state(metric, values, sample_weight=sample_weight)

        return update_state

    leaves = leaf_metrics(model.metrics)
    return all_patched((leaves[index], {"update_state": by_rows(leaves[index])}) for index in single_values)


def averaged_by_rows(metrics: Mapping[str, np.ndarray], rows: float) -> dict[str, np.ndarray]:
    """Average the results of all ranks, each weighted by its rows. Eager; `rows` are this rank's."""
    shares = float(reduce_over_ranks("sum", np.array([rows]), name="rows")[0])
    weight = rows / max(shares, 1.0)
    averaged = {}
    for name, value in metrics.items():
        # The value of a rank without rows, which may be NaN, does not count.
        own = np.where(weight > 0, value, 0.0) * weight
        averaged[name] = reduce_over_ranks("sum", own.reshape(-1), name=f"average_{name}").reshape(value.shape)
    return averaged


def _starts(metrics: Sequence[Any]) -> dict[int, np.ndarray]:
    """Reset the user's metrics and return the values that their variables start with, float64, by id."""
    for metric in metrics:
        metric.reset_state()
    return {id(v): np.asarray(keras.ops.convert_to_numpy(v), np.float64) for m in metrics for v in m.variables}


def _assign(states: Sequence[tuple[Any, np.ndarray]], flat: np.ndarray) -> None:
    start = 0
    for variable, value in states:
        variable.assign(flat[start : start + value.size].reshape(value.shape).astype(value.dtype))
        start += value.size
