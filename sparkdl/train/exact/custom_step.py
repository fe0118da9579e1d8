"""Make steps exact for a model with its own train_step, test_step or compute_loss.

Runs in rank processes. What the user's step computes cannot be seen, but what it hands on can be changed: every
optimizer of the model gets the gradients of all ranks, weighted by rows; a metric that takes a batch's mean gets the
batch's rows as weight. Losses within such a step must be means over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.class_weight import ClassWeights
from sparkdl.train.exact.collective import reduce_over_ranks, sum_tensors
from sparkdl.train.exact.counters import ROWS, Counts, EpochSums, StepCounters, unpack_element, weigh_classes
from sparkdl.train.exact.gradients import GradientSum, gradient_norm
from sparkdl.train.exact.optimizers import optimizers_of
from sparkdl.train.exact.patch import all_patched, patched
from sparkdl.train.exact.rng import SeededDraws
from sparkdl.train.exact.state.batch_norm import SyncedMoments
from sparkdl.train.exact.state.batch_values import BatchValues
from sparkdl.train.exact.state.metrics import leaf_metrics
from sparkdl.train.exact.state.moving_state import MovingState

__all__ = ["CustomSteps"]

# Weights of ranks that took the same updates differ by rounding at most, if their processors differ.
SAME_WEIGHTS = 1e-6


class CustomSteps:
    """Run the model's own `train_step` and `test_step` on elements of `step_dataset`."""

    def __init__(
        self,
        model: Any,
        numbers: StepCounters,
        *,
        gradients: GradientSum,
        state: MovingState,
        draws: SeededDraws,
        moments: SyncedMoments,
        class_weights: ClassWeights | None,
        summed_metrics: Collection[str],
        per_worker: bool,
    ) -> None:
        self._model = model
        self._numbers = numbers
        self._per_worker = per_worker
        self._gradients = gradients
        self._alone = gradients.world_size == 1
        self._state = state
        self._draws = draws
        self._moments = moments
        if isinstance(class_weights, dict):
            raise ModelError(
                f"class_weight by output is for models with Keras' own train_step, and model {model.name!r} has its "
                "own; weigh the classes in it"
            )
        self._class_weights = class_weights
        self._train, self._test = model.train_step, model.test_step
        # While a step is traced or run: the step's counts, how often an optimizer was applied, the metrics' results.
        self._counts: Counts | None = None
        self._values = BatchValues(summed_metrics)
        self._applied = 0
        self._results: list[Any] = []
        self._names: dict[bool, list[str]] = {}
        # The names of logs that are not results of metrics.
        self._plain: dict[bool, list[str]] = {}

    @contextmanager
    def edges(self) -> Iterator[None]:
        """Make the model's optimizers, loss and metrics take part in the steps, within the block."""
        model = self._model
        with ExitStack() as stack:
            optimizers = optimizers_of(model)
            for index, optimizer in enumerate(optimizers):
                apply = self._apply(optimizer, index, with_norm=len(optimizers) == 1)
                stack.enter_context(patched(optimizer, {"apply": apply}))
            trackers = model._compile_loss.metrics if model._compile_loss is not None else []
            metrics = leaf_metrics(model.metrics)
            stack.enter_context(self._values.weighed(metrics, trackers))
            stack.enter_context(all_patched((m, {"result": self._noted(m.result)}) for m in metrics))
            yield

    def train_step(self, element: Any) -> dict[str, tf.Tensor]:
        """Take one step; the logs are the means of the epoch so far, over all ranks."""
        batch, counts_vector, wait_s = unpack_element(element)
        batch = weigh_classes(batch, self._class_weights)
        counts, numbers = Counts.of(counts_vector), self._numbers
        self._counts, self._applied, self._moments.real, self._results = counts, 0, counts.real, []
        self._values.counts = counts
        self._draws.set(counts.step)
        self._state.begin()
        with self._values.unchanged_without_rows(self._metrics(), counts):
            given = self._train(batch)
            self._names[False] = self._checked(given, "train_step")
        if not self._applied:
            raise ModelError(
                f"the train_step of model {self._model.name!r} applied no optimizer of the model's; make its "
                "optimizers attributes of the model"
            )
        means = [m for m in leaf_metrics(self._model.metrics) if type(m) is keras.metrics.Mean]
        states = [tf.cast(value, tf.float64) for m in means for value in (m.total, m.count)]
        sums = [tf.stack([numbers.ask_stop, *states]), *self._state.changes(counts)]
        if not self._alone:
            sums = sum_tensors(sums, name="own_step")
        self._state.finish(sums[1:], counts)
        numbers.add(EpochSums(global_rows=counts.global_rows, rows=counts.rows, wait_s=wait_s))
        numbers.stops_asked.assign(sums[0][0])
        totals = {m.name: sums[0][1 + 2 * index : 3 + 2 * index] for index, m in enumerate(means)}
        logs = {
            name: tf.cast(tf.math.divide_no_nan(*tf.unstack(totals[name])), keras.config.floatx())
            for name in self._names[False]
            if name in totals
        } | self._plain_logs(given, testing=False)
        return logs or {"step": counts.step}  # Keras needs at least one log

    def test_step(self, element: Any) -> dict[str, tf.Tensor]:
        """Take one step of an evaluation, at whose end callbacks get the values over all rows."""
        batch, counts_vector, _ = unpack_element(element)
        counts = Counts.of(counts_vector)
        self._counts, self._results, self._values.counts = counts, [], counts
        self._draws.set(-1 - counts.step)
        with self._values.unchanged_without_rows(self._metrics(), counts):
            logs = self._test(batch)
            self._names[True] = self._checked(logs, "test_step")
        self._numbers.test_rows.assign_add(tf.cast(counts.rows, tf.float64))
        return {**self._plain_logs(logs, testing=True), ROWS: counts.rows}

    def results(self, metrics: dict[str, Any], *, testing: bool, logs: Any = None) -> dict[str, Any]:
        """Select the metrics over all rows that the step logs. Eager; all ranks must have the same weights.

        Logs that are not results of metrics are those of the last step, as in Keras; their mean over ranks is given.
        """
        if not testing and not self._alone:
            self._check_weights()
        found = {name: metrics[name] for name in self._names[testing] if name in metrics}
        plain = {name: np.asarray((logs or {})[name], np.float64) for name in self._plain[testing]}
        for name, value in plain.items():
            summed = reduce_over_ranks("sum", np.append(value.reshape(-1), 1.0), name=f"log_{name}")
            found[name] = (summed[:-1] / summed[-1]).reshape(value.shape)
        return {name: found[name] for name in self._names[testing]}

    def _metrics(self) -> list[Any]:
        """List the metrics that padding rows must not reach; empty on one rank, which gets no padding row."""
        return [] if self._alone else leaf_metrics(self._model.metrics)

    def _checked(self, logs: Any, step: str) -> list[str]:
        """Return the names of a step's logs. Raises ModelError for one that is not a metric's, if all must be exact."""
        given, known = list(self._results), self._model.get_metrics_result()
        plain = []
        for name, value in logs.items():
            if name in known and any(value is result for result in given):
                continue
            plain.append(name)
            if not (self._alone or self._per_worker):
                raise ModelError(
                    f"the {step} of model {self._model.name!r} gives {name!r}, which is not the result of a metric of "
                    f"that name, so that its value over all ranks is not known; keep it in "
                    f"keras.metrics.Mean(name={name!r}), or train with exactness='per_worker'"
                )
        self._plain[step == "test_step"] = plain
        return list(logs)

    def _plain_logs(self, logs: Any, *, testing: bool) -> dict[str, Any]:
        """Return the logs of a step that are not results of metrics."""
        return {name: tf.convert_to_tensor(logs[name]) for name in self._plain[testing]}

    def _noted(self, original: Callable[[], Any]) -> Callable[[], Any]:
        def result() -> Any:
            value = original()
            self._results.extend(keras.tree.flatten(value))
            return value

        return result

    def _apply(self, optimizer: Any, index: int, *, with_norm: bool) -> Callable[..., Any]:
        """Make an `apply` that sums the gradients of all ranks.

        `with_norm`: for a model with one optimizer; norms of several optimizers' gradients have no common meaning.
        """
        original = optimizer.apply

        def apply(grads: Any, trainable_variables: Any = None) -> Any:
            counts = self._counts
            if counts is None:
                raise ModelError("the optimizer was applied outside of a training step")
            self._applied += 1
            grads = list(grads)
            if not self._alone:
                grads = [None if g is None else _times(counts, g) for g in grads]
            grads, _, reduce_s = self._gradients(grads, [], real=counts.real, name=f"{index}_{self._applied}")
            # The norm is taken here and not at the step's end: the user's step may apply the optimizer within a branch.
            norm = gradient_norm(grads, optimizer) if with_norm else EpochSums()
            self._numbers.add(replace(norm, reduce_s=reduce_s))
            return original(grads, trainable_variables)

        return apply

    def _check_weights(self) -> None:
        """Raise ModelError if ranks have different weights: then some update went past the model's optimizers."""
        sums = np.array([float(np.sum(np.abs(w, dtype=np.float64))) for w in self._model.get_weights()] or [0.0])
        most, least = (reduce_over_ranks(how, sums, name=f"weights_{how}") for how in ("max", "min"))
        if np.any(most - least > SAME_WEIGHTS * np.maximum(most, 1e-9)):
            raise ModelError(
                f"the ranks' weights of model {self._model.name!r} differ: its train_step changes weights in other "
                "ways than by the model's optimizers; make those attributes of the model"
            )


def _times(counts: Counts, gradient: Any) -> Any:
    """Scale the gradient of a mean over this rank's rows to this rank's share of the mean over all rows."""
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * counts.share(gradient.values.dtype)
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * counts.share(gradient.dtype)
