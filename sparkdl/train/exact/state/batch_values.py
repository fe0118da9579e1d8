"""Weigh the values that metrics get once for a batch by the batch's rows, and keep them from rows that do not count.

Runs in rank processes. The user's train_step, and a layer within its call, give a metric one value for a batch:
on several ranks, and in a short last step, batches have different numbers of rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.exact.counters import Counts
from sparkdl.train.exact.findings import Inexact
from sparkdl.train.exact.patch import all_patched
from sparkdl.train.exact.state.metrics import leaf_metrics

__all__ = ["BatchValues", "Noted", "judge_values", "metrics_of_layers", "noted"]

Noted = list[tuple[int, Any]]
"""Single values that metrics got, in order, each with the metric's index among the watched metrics."""


def metrics_of_layers(model: Any) -> list[Any]:
    """List the metrics of a model that are not compiled ones: those that layers or the model itself update."""
    compiled = [model._loss_tracker, *(model._compile_loss.metrics if model._compile_loss is not None else ())]
    if model._compile_metrics is not None:
        compiled += leaf_metrics([model._compile_metrics])
    known = {id(metric) for metric in compiled}
    return [metric for metric in leaf_metrics(model.metrics) if id(metric) not in known]


@contextmanager
def noted(metrics: Sequence[Any]) -> Iterator[Noted]:
    """Note the single values that Mean and Sum metrics get for a batch, instead of adding them, within the block."""
    found: Noted = []

    def noting(index: int, metric: Any) -> Callable[..., Any]:
        original = metric.update_state

        def update_state(values: Any, *args: Any, **kwargs: Any) -> Any:
            if _is_single(values):
                return found.append((index, values))
            return original(values, *args, **kwargs)

        return update_state

    with all_patched(
        (metric, {"update_state": noting(index, metric)})
        for index, metric in enumerate(metrics)
        if isinstance(metric, (keras.metrics.Mean, keras.metrics.Sum))
    ):
        yield found


def judge_values(
    metrics: Sequence[Any], whole: Noted, parts: Sequence[Noted], rows: Sequence[int], *, tolerance: float
) -> tuple[list[Inexact], set[str]]:
    """Find the metrics whose single value for a batch does not follow from the values for parts of the batch's rows.

    `metrics`: the watched ones; `whole`, `parts`: their values for all rows, and for each part of `rows` rows. Returns
    the metrics that are not exact; and the names of Sum metrics whose values are sums over rows, and not means.
    """
    found: list[Inexact] = []
    summed: set[str] = set()
    for number, (index, value) in enumerate(whole):
        metric = metrics[index]
        own = [float(part[number][1]) for part in parts if len(part) == len(whole) and part[number][0] == index]
        of_all = float(value)
        mean = sum(one * count for one, count in zip(own, rows, strict=False)) / sum(rows)
        scale = max(abs(of_all), *(abs(one) for one in own), 0.0)
        complete = len(own) == len(parts)
        if complete and isinstance(metric, keras.metrics.Sum) and abs(sum(own) - of_all) <= tolerance * scale:
            summed.add(metric.name)
        elif not (complete and abs(mean - of_all) <= tolerance * scale):
            listed = ", ".join(f"{one:.6g} of {count}" for one, count in zip(own, rows, strict=False))
            kind = "a sum or a mean" if isinstance(metric, keras.metrics.Sum) else "a mean"
            found.append(
                Inexact(
                    f"metric {metric.name!r}",
                    f"gets one value for a batch that is not {kind} over rows: {of_all:.6g} for {sum(rows)} rows, and "
                    f"{listed} of them",
                    "give it one value for each row",
                )
            )
    return found, summed


def _is_single(values: Any) -> bool:
    """Tell whether a metric gets one number, and not an array of numbers."""
    if isinstance(values, (int, float, np.ndarray, np.generic)):
        return not np.shape(values)
    shape = getattr(values, "shape", None)
    return shape is not None and getattr(shape, "rank", len(shape) if shape is not None else None) == 0


class BatchValues:
    """Weigh values by rows while a step, whose `counts` are set before, is traced or run.

    `summed`: the names of Sum metrics whose single values are sums over rows: such values are added as they are.
    """

    def __init__(self, summed: Collection[str] = ()) -> None:
        self.counts: Counts | None = None
        self._summed = summed

    def weighed(self, metrics: Sequence[Any], trackers: Sequence[Any] = ()) -> AbstractContextManager[None]:
        """Make Mean and Sum metrics among `metrics` weigh one value for a batch by its rows, within the block.

        `trackers`: Keras' own loss trackers, whose values Keras weights without regard to other ranks.
        """
        return all_patched(
            (metric, {"update_state": self._by_rows(metric, always=any(metric is tracker for tracker in trackers))})
            for metric in metrics
            if isinstance(metric, (keras.metrics.Mean, keras.metrics.Sum))
        )

    def _by_rows(self, metric: Any, *, always: bool) -> Callable[..., Any]:
        """Make an `update_state` that weighs one value for a batch by the batch's rows."""
        original, is_sum = metric.update_state, isinstance(metric, keras.metrics.Sum)
        takes_weight = "sample_weight" in inspect.signature(original).parameters
        as_keras = type(metric).update_state in (keras.metrics.Mean.update_state, keras.metrics.Sum.update_state)

        def update_state(values: Any, *args: Any, sample_weight: Any = None, **kwargs: Any) -> Any:
            counts = self.counts
            if as_keras and args:
                sample_weight, args = args[0], ()
            if args or kwargs:  # labels and predictions, of which a metric makes a value for each row
                weight = {} if sample_weight is None else {"sample_weight": sample_weight}
                return original(values, *args, **kwargs, **weight)
            weighed = counts is not None and _is_single(values) and (always or sample_weight is None)
            if weighed and not (is_sum and metric.name in self._summed):
                if not takes_weight:
                    raise ModelError(
                        f"metric {metric.name!r} ({type(metric).__name__}) gets one value for a batch and its "
                        "update_state takes no sample_weight, so that batches cannot be weighed by their rows; let "
                        "it take sample_weight"
                    )
                assert counts is not None
                sample_weight = counts.share(metric.dtype) if is_sum else counts.rows
            return original(values, sample_weight=sample_weight) if takes_weight else original(values)

        return update_state

    @contextmanager
    def unchanged_without_rows(self, metrics: Sequence[Any], counts: Counts) -> Iterator[None]:
        """Restore the metrics' variables after the block if this rank had no rows in the step."""
        variables = [v.value for metric in metrics for v in metric.variables]
        before = [tf.identity(variable) for variable in variables]
        yield

        def put_back() -> tf.Tensor:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            return tf.constant(0)

        if variables:
            tf.cond(counts.real, lambda: tf.constant(0), put_back)
