"""Make the steps of a model with Keras' own train_step exact over ranks. Runs in rank processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from sparkdl.train.class_weight import ClassWeights
from sparkdl.train.exact.collective import reduce_over_ranks
from sparkdl.train.exact.counters import ROWS, Counts, StepCounters, other_data, unpack_element, weigh_classes
from sparkdl.train.exact.gradients import GradientSum, gradient_norm
from sparkdl.train.exact.loss_parts import LossParts
from sparkdl.train.exact.rng import SeededDraws
from sparkdl.train.exact.state.batch_norm import SyncedMoments
from sparkdl.train.exact.state.batch_values import BatchValues, metrics_of_layers
from sparkdl.train.exact.state.moving_state import MovingState

__all__ = ["KerasSteps", "StepFunction"]

log = logging.getLogger(__name__)


class KerasSteps:
    """Take training and test steps on elements of `step_dataset`.

    A step does what Keras' step does; but the loss that a rank differentiates is its share of the global batch's loss,
    and the gradients of all ranks are summed before the user's optimizer, with clipping and loss scaling, gets them.
    """

    def __init__(
        self,
        model: Any,
        numbers: StepCounters,
        losses: LossParts,
        *,
        gradients: GradientSum,
        state: MovingState,
        draws: SeededDraws,
        moments: SyncedMoments,
        class_weights: ClassWeights | None,
        summed_metrics: Collection[str],
        example: tuple[Any, ...],
    ) -> None:
        self._model = model
        self._numbers = numbers
        self._losses = losses
        self._alone = gradients.world_size == 1
        self._gradients = replace(gradients, slices_per_row=self._slices_per_row)
        self._state = state
        self._draws = draws
        self._moments = moments
        self._class_weights = class_weights
        # Keras finds the weights of a loss by the place of its output: a key, or an index.
        by_index = losses.entries and isinstance((*losses.entries[0].path, "")[0], int)
        self._outputs = list(model.output_names) if by_index else None
        self._example = example
        self._slices: dict[int, int] | None = None
        self._values = BatchValues(summed_metrics)
        self._layer_metrics = metrics_of_layers(model)
        self._forward_backward: Callable[..., Any] = self._plain_forward_backward
        self._forward: Callable[..., Any] = self._plain_forward

    def use_xla(self) -> None:
        """Compile the forward and the backward pass by XLA from now on, where XLA can."""
        self._draws.always_all = True  # compiled functions are traced apart from the steps
        batch, counts = example_batch(self._example, rows=2), tf.constant([2, 2, 0], tf.int64)

        def dense(batch: Any, counts: tf.Tensor) -> Any:
            gradients, parts = self._plain_forward_backward(batch, counts)
            return [g if g is None else tf.convert_to_tensor(g) for g in gradients], parts

        name = f"model {self._model.name!r}"
        arguments = (weigh_classes(batch, self._class_weights, self._outputs), counts)
        compiled = compiled_by_xla(dense, arguments, what=f"training of {name}")
        self._forward_backward = compiled or self._plain_forward_backward
        compiled = compiled_by_xla(self._plain_forward, (batch, counts), what=f"evaluation of {name}")
        self._forward = compiled or self._plain_forward

    def train_step(self, element: Any) -> dict[str, tf.Tensor]:
        """Take one step; the log is the loss of the epoch so far, over all ranks."""
        model, numbers = self._model, self._numbers
        batch, counts_vector, wait_s = unpack_element(element)
        batch = weigh_classes(batch, self._class_weights, self._outputs)
        counts = Counts.of(counts_vector)
        self._draws.set(counts.step)
        self._state.begin()
        gradients, parts = self._forward_backward(batch, counts_vector)
        exact = tf.concat([tf.reshape(parts, [-1]), [numbers.ask_stop]], axis=0)
        gradients, (exact, *changes), reduce_s = self._gradients(
            gradients, [exact, *self._state.changes(counts)], real=counts.real, name="step"
        )
        self._state.finish(changes, counts)
        norm = gradient_norm(gradients, model.optimizer)
        if gradients:
            model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
        sums = {"global_rows": counts.global_rows, "rows": counts.rows, "wait_s": wait_s, "reduce_s": reduce_s}
        numbers.add(replace(norm, **sums))
        numbers.stops_asked.assign(exact[-1])
        parts_of_epoch = numbers.train_parts.assign_add(tf.reshape(exact[:-1], parts.shape))
        return {"loss": tf.cast(self._losses.total(parts_of_epoch), keras.config.floatx())}

    def test_step(self, element: Any) -> dict[str, tf.Tensor]:
        """Take one step of an evaluation, at whose end callbacks get the values over all rows; log this rank's rows."""
        batch, counts_vector, _ = unpack_element(element)
        counts = Counts.of(counts_vector)
        self._draws.set(-1 - counts.step)
        self._numbers.test_parts.assign_add(self._forward(batch, counts_vector))
        self._numbers.test_rows.assign_add(tf.cast(counts.rows, tf.float64))
        return {ROWS: counts.rows}

    def results(self, metrics: dict[str, Any], *, testing: bool, logs: Any = None) -> dict[str, Any]:
        """Put the loss over all rows into the metrics over all rows. Eager."""
        if not testing:
            return {**metrics, "loss": float(self._losses.total(self._numbers.train_parts))}
        parts = reduce_over_ranks("sum", self._numbers.test_parts.numpy(), name="loss")
        of_outputs = {name: value for name, value in self._losses.sums(parts).items() if name in metrics}
        return {**metrics, **of_outputs, "loss": float(self._losses.total(parts, testing=True))}

    def _plain_forward_backward(self, batch: Any, counts_vector: tf.Tensor) -> tuple[list[Any], tf.Tensor]:
        """Compute this rank's share of the gradients, and the parts of the loss; update the metrics."""
        model, counts = self._model, Counts.of(counts_vector)
        self._moments.real = counts.real
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            y_pred = self._call(x, counts, training=True)
            loss = self._losses.compute(y, y_pred, sample_weight, counts)
            scaled = model.optimizer.scale_loss(loss.value)
        gradients = tape.gradient(scaled, model.trainable_weights)
        self._update_metrics(x, y, y_pred, sample_weight, counts)
        return gradients, loss.parts

    def _plain_forward(self, batch: Any, counts_vector: tf.Tensor) -> tf.Tensor:
        """Compute the parts of the loss of an evaluation's step; update the metrics."""
        counts = Counts.of(counts_vector)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        y_pred = self._call(x, counts, training=False)
        loss = self._losses.compute(y, y_pred, sample_weight, counts, testing=True)
        self._update_metrics(x, y, y_pred, sample_weight, counts)
        return loss.parts

    def _call(self, x: Any, counts: Counts, *, training: bool) -> Any:
        model, self._values.counts = self._model, counts
        metrics = [] if self._alone else self._layer_metrics
        with self._values.weighed(self._layer_metrics), self._values.unchanged_without_rows(metrics, counts):
            return model(x, training=training) if model._call_has_training_arg else model(x)

    def _update_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, counts: Counts) -> None:
        def update() -> tf.Tensor:
            self._model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
            return tf.constant(0)

        if self._alone:
            update()
        else:
            tf.cond(counts.real, update, lambda: tf.constant(0))

    def _slices_per_row(self, index: int) -> int | None:
        """Read off two traces how many slices a row of a batch adds to a sparse gradient; None if that varies."""
        if self._slices is None:
            two, four = (self._slices_of(rows) for rows in (2, 4))
            self._slices = {at: count // 2 for at, count in two.items() if count % 2 == 0 and four.get(at) == 2 * count}
        return self._slices.get(index)

    def _slices_of(self, rows: int) -> dict[int, int]:
        specs = keras.tree.map_structure(lambda s: tf.TensorSpec((rows, *s.shape[1:]), s.dtype), self._example)
        found: dict[int, int] = {}

        def traced(batch: Any, counts: tf.Tensor) -> None:
            gradients, _ = self._plain_forward_backward(batch, counts)
            for index, gradient in enumerate(gradients):
                if isinstance(gradient, tf.IndexedSlices) and gradient.indices.shape.is_fully_defined():
                    found[index] = int(gradient.indices.shape[0])

        tf.function(traced, autograph=False).get_concrete_function(specs, tf.TensorSpec((3,), tf.int64))
        return found


class StepFunction:
    """Take a training step as one call into TensorFlow, instead of Keras' `train_function`.

    Keras' own function takes the iterator as an argument, of which TensorFlow makes a type to compare in every step,
    and gives its logs in an Optional, which costs two more operations: together 0.3 ms of a core, as much as a small
    model's step takes (benchmarks/train.py).

    The step is traced once for an iterator, whose steps may have any number of rows; it is not traced where the model
    is to run eagerly. Raises tf.errors.OutOfRangeError at the data's end.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._data: Any = None
        self._step: Callable[[], Any]

    def __call__(self, data: Any) -> Any:
        """Take one step."""
        if data is not self._data:
            if not isinstance(data, tf.data.Iterator):
                raise other_data()
            self._data, self._step = data, self._step_of(data)
        return self._step()

    def _step_of(self, data: Any) -> Callable[[], Any]:
        def step() -> Any:
            return self._model.train_step(data.get_next())

        if self._model.run_eagerly:
            return step
        return tf.function(tf.autograph.experimental.do_not_convert(step))  # as Keras does: the step is as written


def example_batch(example: tuple[Any, ...], *, rows: int) -> tuple[Any, ...]:
    """Make a batch of zeros with this number of rows, from the symbolic (inputs, targets[, weights])."""
    return keras.tree.map_structure(lambda s: tf.zeros((rows, *s.shape[1:]), s.dtype), example)


def compiled_by_xla(
    function: Callable[..., Any], arguments: tuple[Any, ...], *, what: str
) -> Callable[..., Any] | None:
    """Return the function, compiled by XLA when it is called; None if XLA cannot compile it for these arguments.

    The function is traced, and translated for XLA, but not run. Horovod's operations cannot be compiled, so that the
    whole step cannot be one XLA function, as it is in Keras; a model that XLA cannot compile is trained without XLA.
    """
    compiled = tf.function(function, jit_compile=True, reduce_retracing=True, autograph=False)
    try:
        compiled.experimental_get_compiler_ir(*arguments)(stage="hlo")
    except Exception as error:  # what XLA cannot do comes as many types
        reason = " ".join(str(error).split())[:200]
        log.warning("jit_compile is switched off for %s: XLA cannot compile it (%s)", what, reason)
        return None
    return compiled
