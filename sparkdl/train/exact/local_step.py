"""Take steps on each rank's rows alone, for local SGD. Runs in rank processes.

`weight_average` brings the ranks together again.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.exact.counters import Counts, EpochSums, unpack_element, weigh_classes
from sparkdl.train.exact.keras_step import KerasSteps
from sparkdl.train.exact.optimizers import optimizers_of, updating_optimizers
from sparkdl.train.exact.overrides import has_own_step
from sparkdl.train.exact.state.batch_norm import synced_layers

__all__ = ["LocalSteps", "check_local"]


def check_local(model: Any, *, sync_every: int) -> None:
    """Raise ModelError for a built model that ranks cannot train alone between synchronizations."""

    def refuse(what: str, way_out: str) -> ModelError:
        return ModelError(f"sync_every={sync_every} must be 1 with {what}; {way_out}")

    if has_own_step(model):
        raise refuse(
            f"model {model.name!r}, which has its own train_step, test_step or compute_loss", "use sync_every=1"
        )
    for layer in synced_layers(model, sync_all=False):
        raise refuse(
            f"layer {layer.name!r}, whose synchronized=True asks for all ranks' rows in each step", "leave it out"
        )
    for optimizer in (one for outer in optimizers_of(model) for one in _with_inner(outer)):
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise refuse(f"optimizer {optimizer.name!r}, whose loss scale each rank would find alone", "use bfloat16")
        if optimizer.gradient_accumulation_steps:
            raise refuse(
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps} of optimizer {optimizer.name!r}",
                "use a larger global_batch_size",
            )


def _with_inner(optimizer: Any) -> list[Any]:
    """List an optimizer, and those that it calls."""
    return list({id(one): one for one in (optimizer, *updating_optimizers(optimizer))}.values())


def _average_unchanged(optimizer: Any) -> None:
    """Begin the averages of an optimizer, or overwrite its weights by them, in a step without rows, where Keras would.

    Keras sets the averages to the weights in the optimizer's first step, and overwrites the weights by the averages in
    every `ema_overwrite_frequency`-th step (`Optimizer._update_model_variables_moving_average`).
    """
    weights, averages = optimizer._trainable_variables, optimizer._model_variables_moving_average
    pairs = [(w.value, a.value) for w, a in zip(weights, averages, strict=True) if a is not None]
    is_first = tf.equal(optimizer._iterations.value, 0)
    for weight, average in pairs:
        average.assign(tf.where(is_first, tf.cast(weight, average.dtype), average))
    if every := optimizer.ema_overwrite_frequency:
        is_due = tf.equal((optimizer._iterations.value + 1) % every, 0)
        for weight, average in pairs:
            weight.assign(tf.where(is_due, tf.cast(average, weight.dtype), weight))


class LocalSteps(KerasSteps):
    """Take training steps as one process does on this rank's rows, without the other ranks.

    Evaluation is over all ranks, as in `KerasSteps`. A rank without rows in a step keeps its weights and state, and its
    optimizers count the step, so that schedules of a rate are at the same step on all ranks.
    """

    def __init__(self, model: Any, *args: Any, **options: Any) -> None:
        super().__init__(model, *args, **options)
        # Padding rows occur, unlike on a single rank.
        self._alone = False
        self._counted = _with_inner(model.optimizer)

    def train_step(self, element: Any) -> dict[str, tf.Tensor]:
        """Take one step; the log is the loss of the epoch: of all ranks' rows until they met, and this rank's since."""
        model, numbers = self._model, self._numbers
        batch, counts_vector, wait_s = unpack_element(element)
        batch = weigh_classes(batch, self._class_weights, self._outputs)
        counts = Counts.of(counts_vector)
        self._draws.set(counts.step)

        def step() -> tf.Tensor:
            gradients, parts = self._forward_backward(batch, counts_vector)
            gradients, _, _ = self._gradients(gradients, [], real=counts.real, name="local")
            if gradients:
                model.optimizer.apply_gradients(zip(gradients, model.trainable_weights, strict=True))
            return parts

        def count() -> tf.Tensor:
            for optimizer in self._counted:
                if optimizer.use_ema:
                    _average_unchanged(optimizer)
                optimizer._iterations.assign_add(1)
            return tf.zeros_like(numbers.local_parts)

        own = numbers.local_parts.assign_add(tf.cond(counts.real, step, count))
        numbers.add(EpochSums(global_rows=counts.global_rows, rows=counts.rows, wait_s=wait_s))
        numbers.local_rows.assign_add(tf.cast(tf.stack([counts.rows, counts.global_rows]), tf.float64))
        return {"loss": tf.cast(self._losses.total(numbers.train_parts + own), keras.config.floatx())}
