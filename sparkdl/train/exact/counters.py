"""Hold the counters of steps: rows, parts of the loss, requests to stop. Runs in rank processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import keras
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.class_weight import ClassWeights

__all__ = ["ROWS", "WIND_DOWN", "Counts", "EpochSums", "StepCounters", "other_data", "unpack_element", "weigh_classes"]

WIND_DOWN = 2.0**20
"""A rank's request for a graceful stop: larger than the sum of all ranks' requests to stop."""


# The only log of an evaluation's step: values over this rank's rows alone are not a result.
ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Counts:
    """Hold the numbers of one step on one rank, each int64 ().

    Attributes:
        rows: this rank's rows that count; 0 where its one row is a padding row.
        global_rows: the rows over all ranks, at least 1.
        step: the number of the step since the first epoch began.
    """

    rows: tf.Tensor
    global_rows: tf.Tensor
    step: tf.Tensor

    @classmethod
    def of(cls, counts: tf.Tensor) -> Counts:
        """Unpack int64 ``(3,)``, as `step_dataset` gives it."""
        return cls(*tf.unstack(counts))

    @property
    def real(self) -> tf.Tensor:
        """A bool (): true if this rank has rows in the step."""
        return self.rows > 0

    def share(self, dtype: Any) -> tf.Tensor:
        """Return this rank's rows as a fraction of the rows over all ranks."""
        return tf.cast(self.rows / self.global_rows, dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSums:
    """Hold the sums over the steps of an epoch, except those of its loss, on one rank; each float64 ().

    Attributes:
        global_rows: rows over all ranks.
        rows: this rank's rows.
        wait_s: the seconds that this rank waited for data.
        reduce_s: the seconds from this rank's gradients to the sum over all ranks.
        norm: the sum of the global norms of the summed gradients.
        norms: the number of norms in `norm`.
    """

    global_rows: Any = 0.0
    rows: Any = 0.0
    wait_s: Any = 0.0
    reduce_s: Any = 0.0
    norm: Any = 0.0
    norms: Any = 0.0

    def vector(self) -> tf.Tensor:
        """Stack the sums in the order of the fields, float64 ``(fields,)``."""
        return tf.stack([tf.cast(getattr(self, field.name), tf.float64) for field in fields(self)])


class StepCounters:
    """Hold the results of steps for callbacks: TensorFlow variables, float64, on this rank.

    Attributes:
        ask_stop, stops_asked: this rank's request, and the sum of all ranks' at the last step: 1 to stop, or WIND_DOWN.
        winding_down: whether the run ends with the next checkpoint, on all ranks the same.
        train_parts: numerator and denominator of each part of the epoch's loss, over all ranks, ``(parts, 2)``.
        test_parts: numerator and denominator of each part of an evaluation's loss, over this rank's rows.
        test_rows: this rank's rows of an evaluation.
        local_parts, local_rows: of local SGD, since the ranks were averaged: this rank's part of `train_parts` that is
            to come; this rank's rows and those of all ranks, ``(2,)``.
    """

    def __init__(self, parts: int) -> None:
        # One variable for all sums: each more costs a step some microseconds.
        self._sums = _variable((len(fields(EpochSums)),))
        self.ask_stop = _variable(())
        self.stops_asked = _variable(())
        self.winding_down = False
        self.test_rows = _variable(())
        self.resize(parts)

    def resize(self, parts: int) -> None:
        """Hold this number of parts of the loss, all zero; steps that were traced before do not reach them."""
        self.train_parts = _variable((parts, 2))
        self.test_parts = _variable((parts, 2))
        self.local_parts = _variable((parts, 2))
        self.local_rows = _variable((2,))

    def asked(self) -> float:
        """Return `stops_asked`. Eager; called in every step: `numpy` of a variable takes three times as long."""
        return float(tf.raw_ops.ReadVariableOp(resource=self.stops_asked.handle, dtype=tf.float64))

    def start_epoch(self, sums: EpochSums | None = None) -> None:
        """Forget the last epoch; the sums begin with those given."""
        self._sums.assign((sums or EpochSums()).vector())
        self.train_parts.assign(tf.zeros_like(self.train_parts))

    def start_test(self) -> None:
        """Forget the sums of the last evaluation."""
        self.test_parts.assign(tf.zeros_like(self.test_parts))
        self.test_rows.assign(0.0)

    def rows(self, *, testing: bool) -> float:
        """Return this rank's rows of the epoch, or of the evaluation, so far. Eager."""
        return float(self.test_rows.numpy() if testing else self.sums().rows)

    def add(self, sums: EpochSums) -> None:
        """Add to the sums of the epoch; called within a step."""
        self._sums.assign_add(sums.vector())

    def sums(self) -> EpochSums:
        """Return the sums of the epoch so far, as floats. Eager."""
        return EpochSums(**dict(zip((f.name for f in fields(EpochSums)), self._sums.numpy().tolist(), strict=True)))


def unpack_element(element: Any) -> tuple[tuple[Any, ...], tf.Tensor, tf.Tensor]:
    """Split an element into Keras' (inputs, targets[, weights]), the step's counts, and the seconds waited for it."""
    ours = isinstance(element, tuple) and len(element) == 2 and isinstance(element[1], tuple) and len(element[1]) == 4
    if not ours:
        raise other_data()
    wait_s, (inputs, targets, weights, counts) = element
    weighted = not (isinstance(weights, tuple) and weights == ())
    return ((inputs, targets, weights) if weighted else (inputs, targets)), counts, wait_s


def other_data() -> ModelError:
    """Make the error for a callback's own data, which the steps of a run do not take."""
    return ModelError(
        "within a run, the model's fit, evaluate, train_on_batch and test_on_batch take the run's own steps; in a "
        "callback compute what you need from self.model(x, training=False) or self.model.predict(x), name a split "
        "by TrainConfig(validation=…), which is evaluated after each epoch, or call sparkdl.evaluate after fit"
    )


def weigh_classes(
    batch: tuple[Any, ...], class_weights: ClassWeights | None, outputs: Sequence[str] | None = None
) -> tuple[Any, ...]:
    """Multiply a batch's sample weights by the weights, if any, of the targets' classes; targets: int, ``(rows,)``.

    With weights by label, each label has its own sample weights: a dict by label, or a list in the order of `outputs`.
    """
    if class_weights is None:
        return batch
    inputs, targets, *weights = batch
    if isinstance(class_weights, Mapping):
        first = next(iter(targets.values()))
        rows = (
            tf.cast(weights[0], keras.config.floatx())
            if weights
            else tf.ones(tf.shape(first)[:1], keras.config.floatx())
        )
        of_labels = dict.fromkeys(targets if outputs is None else outputs, rows)
        for name, some in class_weights.items():
            of_labels[name] = rows * tf.gather(tf.constant(some, rows.dtype), targets[name])
        return inputs, targets, of_labels if outputs is None else [of_labels[name] for name in outputs]
    of_rows = tf.gather(tf.constant(class_weights, keras.config.floatx()), targets)
    return inputs, targets, (tf.cast(weights[0], of_rows.dtype) * of_rows if weights else of_rows)


def _variable(shape: tuple[int, ...]) -> tf.Variable:
    return tf.Variable(tf.zeros(shape, tf.float64), trainable=False)
