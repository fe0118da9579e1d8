"""Weigh the values that metrics get once for a batch by the batch's rows, and keep them from rows that do not count.

Runs in rank processes. A train_step of the user's own, and a layer within its call, give a metric one value for a
batch: on several ranks, and in a short last step, batches have different numbers of rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.metrics import leaf_metrics
from sparkdl.train.replaced import replaced
from sparkdl.train.step_numbers import Counts

__all__ = ["BatchValues", "metrics_of_layers"]


def metrics_of_layers(model: Any) -> list[Any]:
    """List the metrics of a model that are not compiled ones: those that layers or the model itself update."""
    compiled = [model._loss_tracker, *(model._compile_loss.metrics if model._compile_loss is not None else ())]
    if model._compile_metrics is not None:
        compiled += leaf_metrics([model._compile_metrics])
    known = {id(metric) for metric in compiled}
    return [metric for metric in leaf_metrics(model.metrics) if id(metric) not in known]


class BatchValues:
    """Weighs values by rows while a step is traced or run.

    Attributes:
        counts: of the step; None outside of steps.
    """

    def __init__(self) -> None:
        self.counts: Counts | None = None

    @contextmanager
    def weighed(self, metrics: Sequence[Any], trackers: Sequence[Any] = ()) -> Iterator[None]:
        """Within the block Mean and Sum metrics among these weigh one value for a batch by the batch's rows.

        Args:
            trackers: those of Keras, which gives each value a weight that does not know of ranks.
        """
        with ExitStack() as stack:
            for metric in metrics:
                if isinstance(metric, (keras.metrics.Mean, keras.metrics.Sum)):
                    by_rows = self._by_rows(metric, always=any(metric is tracker for tracker in trackers))
                    stack.enter_context(replaced(metric, {"update_state": by_rows}))
            yield

    def _by_rows(self, metric: Any, *, always: bool) -> Callable[..., Any]:
        """`update_state` that weighs one value for a batch by the batch's rows."""
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
            scalar = not np.shape(values) if isinstance(values, (int, float)) else values.shape.rank == 0
            if counts is not None and scalar and (always or sample_weight is None):
                if not takes_weight:
                    raise ModelError(
                        f"metric {metric.name!r} ({type(metric).__name__}) gets one value for a batch and its "
                        "update_state takes no sample_weight, so that batches cannot be weighed by their rows; let "
                        "it take sample_weight"
                    )
                sample_weight = counts.share(metric.dtype) if is_sum else counts.rows
            return original(values, sample_weight=sample_weight) if takes_weight else original(values)

        return update_state

    @contextmanager
    def unchanged_without_rows(self, metrics: Sequence[Any], counts: Counts) -> Iterator[None]:
        """Put these metrics back after the block if the step had no rows."""
        variables = [v.value for metric in metrics for v in metric.variables]
        before = [tf.identity(variable) for variable in variables]
        yield

        def put_back() -> tf.Tensor:
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
            return tf.constant(0)

        if variables:
            tf.cond(counts.real, lambda: tf.constant(0), put_back)
