"""Split a compiled loss into parts with their denominators, so that ranks' parts add up to the loss of all rows.

Runs in rank processes. A Keras loss is a sum over values divided by a denominator: the rows, the valid elements of a
mask, the sum of the sample weights, or nothing (reductions "sum" and None). With d_r the denominator of a part on rank
r, the part of the global batch is sum_r(d_r / sum(d) * part_r). The rows of all ranks are known from the epoch's plan;
the sum of other denominators is found by one small allreduce between the forward and the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.exact.collective import sum_vector
from sparkdl.train.exact.counters import Counts
from sparkdl.train.exact.patch import patched

__all__ = ["LossParts", "check_losses", "loss_parts"]


def check_losses(model: Any) -> None:
    """Raise ModelError for compiled losses that Keras itself drops or cannot add; the model's losses must be built."""
    # `_flat_losses` is None where the model's own compute_loss does not use the compiled losses.
    losses = (model._compile_loss._flat_losses if model._compile_loss is not None else None) or ()
    for entry in losses:
        reduction = getattr(entry.loss, "reduction", "its own")
        if reduction in ("none", None) and len(losses) > 1:
            raise ModelError(
                f"loss {entry.name!r} has reduction={reduction!r}, which Keras cannot add to the model's other losses; "
                "use reduction='sum'"
            )
    if len({entry.path for entry in losses}) < len(losses):
        raise ModelError(
            f"model {model.name!r} has several losses on one output; make them one function that adds them"
        )


@dataclass(frozen=True, slots=True)
class ComputedLoss:
    """Hold the loss of one step on one rank.

    Attributes:
        value: the value to differentiate: the ranks' values add up to the loss of the global batch.
        parts: float64 ``(parts, 2)``: numerator and denominator of each part, to be added up over ranks and steps.
    """

    value: tf.Tensor
    parts: tf.Tensor


@dataclass(frozen=True, slots=True)
class _Part:
    """Hold one part of the loss. `value` is what Keras computed, summed where that is not a scalar."""

    value: tf.Tensor
    numerator: tf.Tensor
    denominator: tf.Tensor
    scaled_by: str


class LossParts:
    """Compute the compiled loss of a model in parts. One instance serves one run."""

    def __init__(self, model: Any, *, world_size: int) -> None:
        self._model = model
        self._world_size = world_size
        self._counts: Counts | None = None
        self._testing = False
        self._parts: list[_Part] = []
        self._masks: list[Any] = []
        compiled = model._compile_loss
        self.entries: Sequence[Any] = compiled._flat_losses if compiled is not None else ()

    @property
    def count(self) -> int:
        """The number of parts: each compiled loss, and one of all that is added (regularizers, add_loss)."""
        return len(self.entries) + 1

    def compute(
        self, y: Any, y_pred: Any, sample_weight: Any, counts: Counts, *, testing: bool = False
    ) -> ComputedLoss:
        """Compute the loss of a step; must run within `loss_parts`."""
        self._counts, self._parts, self._testing = counts, [], testing
        if self.entries:
            self._model._compile_loss(y, y_pred, sample_weight)
        added = self._added(counts)
        found = [*self._parts, *([added] if added is not None else [])]
        if not found:
            raise ModelError(f"model {self._model.name!r} has no loss; compile it with one")
        dtype = found[0].value.dtype
        weights: list[Any] = [entry.loss_weights for entry in self.entries]
        values = [
            tf.cast(value if weight is None else keras.ops.multiply(value, weight), dtype)
            for value, weight in zip(self._scaled(counts), weights, strict=True)
        ]
        pairs = [tf.stack([part.numerator, part.denominator]) for part in found]
        if added is not None:
            scaled = added.value if self._world_size == 1 else _share_of(added.value, counts)
            values.append(tf.cast(scaled, dtype))
        else:
            pairs.append(tf.zeros(2, tf.float64))
        return ComputedLoss(tf.add_n(values) if len(values) > 1 else values[0], tf.stack(pairs))

    def total(self, parts: Any, *, testing: bool = False) -> tf.Tensor:
        """Compute the loss, float64 (), from numerators and denominators ``(parts, 2)``.

        A loss with reduction="sum" is the mean of the steps' sums in training, as Keras shows it, and the sum over all
        rows in an evaluation, which does not depend on how rows are divided into steps.
        """
        means = tf.math.divide_no_nan(parts[:, 0], parts[:, 1])
        if testing and any(summed := [*map(_is_sum, self.entries), False]):
            means = tf.where(summed, parts[:, 0], means)
        weights = [1.0 if entry.loss_weights is None else entry.loss_weights for entry in self.entries]
        return tf.reduce_sum(means * tf.stack([_float64(weight) for weight in [*weights, 1.0]]))

    def sums(self, parts: Any) -> dict[str, float]:
        """Return the losses with reduction="sum" over all rows of an evaluation, by names of outputs' losses."""
        return {f"{entry.name}_loss": float(parts[n, 0]) for n, entry in enumerate(self.entries) if _is_sum(entry)}

    def _scaled(self, counts: Counts) -> list[tf.Tensor]:
        """Multiply each part's value by this rank's share of the part's denominator."""
        if self._world_size == 1:
            return [part.value for part in self._parts]
        own = [part.denominator for part in self._parts if part.scaled_by == "own"]
        sums: list[tf.Tensor] = []
        if own:
            sums = tf.unstack(sum_vector(tf.stack([tf.stop_gradient(d) for d in own]), name="denominators"))
        scaled = []
        for part in self._parts:
            if part.scaled_by == "rows":
                scaled.append(_share_of(part.value, counts))
                continue
            value = tf.where(counts.real, part.value, tf.zeros_like(part.value))
            if part.scaled_by == "own":
                share = tf.math.divide_no_nan(part.denominator, sums.pop(0))
                value *= tf.cast(tf.stop_gradient(share), value.dtype)
            scaled.append(value)
        return scaled

    def _added(self, counts: Counts) -> _Part | None:
        """Sum regularizers and add_loss into one part: each does not depend on rows, or is a mean over rows."""
        losses = [tf.reduce_sum(_floating(loss)) for loss in self._model.losses]
        if not losses:
            return None
        value = tf.add_n([tf.cast(loss, losses[0].dtype) for loss in losses]) if len(losses) > 1 else losses[0]
        return _part(value, counts, counts.rows, "rows")

    def record(self, loss: Any, value: Any, sample_weight: Any) -> None:
        """Note the part of a compiled loss; called in the order of `entries`."""
        counts, masks, self._masks = self._counts, [m for m in self._masks if m is not None], []
        if counts is None:  # Keras builds the model
            return
        reduction = getattr(loss, "reduction", None)
        if reduction in ("sum", "none", None):
            # Keras reports the mean of the steps' sums, weighted by rows; without a reduction, the mean of all values.
            summed = reduction == "sum"
            weight = 1 if summed and self._testing else counts.global_rows if summed else counts.rows
            numerator = (value if summed else tf.reduce_mean(value)) * tf.cast(weight, value.dtype)
            part = _part(tf.reduce_sum(value), counts, counts.rows, "nothing", numerator=numerator)
        elif _is_keras_own(loss) and (masks or (reduction == "mean_with_sample_weight" and sample_weight is not None)):
            part = _part(value, counts, _weights_sum(value.dtype, reduction, masks, sample_weight), "own")
        else:
            part = _part(value, counts, counts.rows, "rows")
        self._parts.append(part)

    def note_mask(self, mask: Any) -> None:
        """Note the mask of predictions or of a loss's values; None: no mask."""
        self._masks.append(mask)

    def update_tracker(self, tracker: Any) -> None:
        """Add the last part to the metric that reports the loss of the part's output."""
        if self._counts is not None:
            tracker.total.assign_add(tf.cast(self._parts[-1].numerator, tracker.total.dtype))
            tracker.count.assign_add(tf.cast(self._parts[-1].denominator, tracker.count.dtype))


@contextmanager
def loss_parts(model: Any, *, world_size: int) -> Iterator[LossParts]:
    """Let the model's compiled loss be computed in parts, within the block."""
    parts = LossParts(model, world_size=world_size)
    with ExitStack() as stack:
        if parts.entries:
            recorded = [entry._replace(loss=_Recorded(entry.loss, parts)) for entry in parts.entries]
            stack.enter_context(patched(model._compile_loss, {"_flat_losses": recorded}))
            for loss in {id(entry.loss): entry.loss for entry in parts.entries}.values():
                stack.enter_context(patched(loss, {"call": _masks_noted(loss.call, parts)}))
            for tracker in model._compile_loss.metrics:
                stack.enter_context(patched(tracker, {"update_state": _tracked(tracker, parts)}))
        yield parts


class _Recorded:
    """Stand in for a loss, and note a part at each call."""

    def __init__(self, loss: Any, parts: LossParts) -> None:
        self.user_loss = loss
        self._parts = parts

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self._parts.note_mask(getattr(y_pred, "_keras_mask", None))
        value = self.user_loss(y_true, y_pred, sample_weight)
        self._parts.record(self.user_loss, value, sample_weight)
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.user_loss, name)


def _masks_noted(call: Any, parts: LossParts) -> Any:
    def noted(y_true: Any, y_pred: Any) -> Any:
        values = call(y_true, y_pred)
        parts.note_mask(getattr(values, "_keras_mask", None))
        return values

    return noted


def _tracked(tracker: Any, parts: LossParts) -> Any:
    # Keras' own method weights every batch alike where the rows are not static.
    return lambda values, sample_weight=None: parts.update_tracker(tracker)


def _part(value: Any, counts: Counts, denominator: Any, scaled_by: str, numerator: Any = None) -> _Part:
    denominator = tf.where(counts.real, tf.cast(denominator, tf.float64), 0.0)
    reported = tf.cast(value, tf.float64) * denominator if numerator is None else tf.cast(numerator, tf.float64)
    # `where` and not a product: a padding row may give NaN, and NaN * 0 is NaN.
    return _Part(value, tf.where(counts.real, reported, 0.0), denominator, scaled_by)


def _share_of(value: Any, counts: Counts) -> tf.Tensor:
    return tf.where(counts.real, value, tf.zeros_like(value)) * counts.share(value.dtype)


def _weights_sum(dtype: Any, reduction: Any, masks: Sequence[Any], sample_weight: Any) -> tf.Tensor:
    """Compute Keras' denominator: the number of valid elements, or the sum of the weights of valid elements."""
    from keras.src.losses.loss import apply_mask

    mask = None
    for one in masks:
        mask = one if mask is None else mask & one
    if reduction != "mean_with_sample_weight":
        return tf.reduce_sum(tf.cast(mask, dtype))
    weight = None if sample_weight is None else tf.cast(sample_weight, dtype)
    return tf.reduce_sum(apply_mask(weight, mask, dtype=dtype, reduction=reduction))


def _float64(number: Any) -> tf.Tensor:
    # A Python number would pass through float32.
    return tf.constant(number, tf.float64) if isinstance(number, (int, float)) else tf.cast(number, tf.float64)


def _floating(loss: Any) -> tf.Tensor:
    loss = tf.convert_to_tensor(loss)
    return loss if loss.dtype.is_floating else tf.cast(loss, keras.config.floatx())


def _is_sum(entry: Any) -> bool:
    return getattr(entry.loss, "reduction", None) == "sum"


def _is_keras_own(loss: Any) -> bool:
    """Tell whether values become a loss in Keras' own way, masks and weights included."""
    return isinstance(loss, keras.losses.Loss) and type(loss).__call__ is keras.losses.Loss.__call__
