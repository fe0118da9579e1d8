"""Sum and measure gradients over ranks: dense ones in buckets, sparse ones gathered where that moves fewer bytes.

Runs in rank processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from sparkdl.train.exact.collective import gather_slices, sum_tensors
from sparkdl.train.exact.counters import EpochSums

__all__ = ["LARGEST", "SMALLEST", "GradientSum", "at_least_single", "buckets", "gradient_norm", "slices_summed"]

COMPRESSED = {"fp16": tf.float16}
INDEX_BYTES = 8


def slices_summed(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Sum the slices of each row, so that a gradient has each row once.

    Keras squares slices as they come (Adam), so that a row that is looked up twice would count as two small gradients
    instead of their sum, which is not the gradient of the loss, and not what Keras does on its other backends.
    """
    unique, indexes = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, indexes, tf.size(unique))
    return tf.IndexedSlices(values, unique, slices.dense_shape)


def gradient_norm(gradients: Sequence[Any], optimizer: Any) -> EpochSums:
    """Compute the global norm of a step's gradients, sparse ones with each row once, as a part of the epoch's sums.

    Loss scaling is taken out. Where the optimizer finds the right scale by trying, it skips steps whose gradients are
    not finite; the norm of such a step is not counted.
    """
    halves = [tf.nn.l2_loss(at_least_single(g)) for g in gradients if g is not None]
    if not halves:
        return EpochSums()
    widest = max((half.dtype for half in halves), key=lambda dtype: dtype.size)
    squares = 2 * tf.cast(tf.add_n([tf.cast(half, widest) for half in halves]), tf.float64)
    norm = tf.sqrt(squares) / tf.cast(optimizer.scale_loss(1.0), tf.float64)
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return EpochSums(norm=norm, norms=1.0)
    finite = tf.math.is_finite(norm)
    return EpochSums(norm=tf.where(finite, norm, tf.zeros_like(norm)), norms=finite)


def at_least_single(gradient: Any) -> tf.Tensor:
    """Return the values of a gradient or weight, at least in float32: squares of half-precision ones would overflow."""
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return values if values.dtype.size >= tf.float32.size else tf.cast(values, tf.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientSum:
    """Sum gradients over ranks.

    Attributes:
        world_size: the number of ranks; one rank sends nothing.
        compression: None, or the name in `COMPRESSED` of the dtype in which gradients are sent.
        slices_per_row: gives, for a gradient's index, the slices that a row of the batch adds to the gradient, or None
            where their number is not known: then the gradient is made dense.
        global_batch_size: rows of a step over all ranks, at most.
    """

    world_size: int
    compression: str | None = None
    global_batch_size: int = 0
    slices_per_row: Callable[[int], int | None] = lambda index: None

    def __call__(
        self, gradients: Sequence[Any], others: Sequence[tf.Tensor], *, real: tf.Tensor, name: str
    ) -> tuple[list[Any], list[tf.Tensor], tf.Tensor | float]:
        """Sum gradients and other tensors over all ranks; return also the seconds from last gradient to last sum.

        Args:
            gradients: tensors, IndexedSlices, or None; None at the same indexes on every rank.
            real: bool (), whether this rank has rows; false takes this rank's gradients out, whatever they hold.
            name: the same on all ranks, another for each call within a step.
        """
        gradients = list(gradients)
        if self.world_size == 1:
            return [slices_summed(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients], list(others), 0.0
        gathered = {index: g for index, g in enumerate(gradients) if self._gathers(index, g)}
        dense = {
            index: tf.convert_to_tensor(g)
            for index, g in enumerate(gradients)
            if g is not None and index not in gathered
        }
        own = {index: _slices_unless_padding(real, slices_summed(slices)) for index, slices in gathered.items()}
        sent: list[tf.Tensor] = []
        summed: dict[int, tf.Tensor] = {}
        indexes = list(dense)
        sizes = [(gradient.shape.num_elements() or 0) * gradient.dtype.size for gradient in dense.values()]
        for number, places in enumerate(buckets(sizes)):
            bucket = [indexes[place] for place in places]
            kept = _zero_unless(real, [self._compressed(dense[index]) for index in bucket])
            sent += kept
            summed |= dict(zip(bucket, sum_tensors(kept, name=f"gradients_{name}_{number}"), strict=True))
        summed_others = sum_tensors(others, name=f"others_{name}")
        slices_of_all = [gather_slices(slices, name=f"slices_{name}_{index}") for index, slices in own.items()]
        began = _time_after([*sent, *(slices.values for slices in own.values())])
        ended = _time_after([*summed.values(), *(slices.values for slices in slices_of_all)])
        # Otherwise the operations that follow would delay the clock.
        with tf.control_dependencies([ended]):
            for index, total in summed.items():
                gradients[index] = tf.cast(tf.identity(total), dense[index].dtype)
        for index, slices in zip(own, slices_of_all, strict=True):
            # GPUs add in any order: each rank would get another sum.
            with tf.device("/CPU:0"):
                gradients[index] = slices_summed(slices)
        return gradients, summed_others, tf.maximum(ended - began, 0.0)

    def _compressed(self, gradient: tf.Tensor) -> tf.Tensor:
        dtype = COMPRESSED.get(self.compression or "")
        return gradient if dtype is None or gradient.dtype.size <= dtype.size else tf.cast(gradient, dtype)

    def _gathers(self, index: int, gradient: Any) -> bool:
        """Tell whether gathering the slices of all ranks moves fewer bytes than summing the dense gradient."""
        if not isinstance(gradient, tf.IndexedSlices):
            return False
        shape, per_row = gradient.shape, self.slices_per_row(index)
        if per_row is None or not shape.is_fully_defined():
            return False
        row_bytes = shape.num_elements() // shape[0] * gradient.dtype.size
        slices = per_row * max(self.global_batch_size, self.world_size)  # a rank without rows sends its padding row's
        # A ring sends a dense gradient nearly twice through each rank, and gathered slices nearly once.
        return bool(slices * (row_bytes + INDEX_BYTES) < 2 * shape[0] * row_bytes)


def _zero_unless(real: tf.Tensor, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Return the tensors if `real`, else zeros. The tensors pass through a branch: `where` would copy each of them."""
    if not tensors:
        return []
    kept = tf.cond(real, lambda: [tf.identity(t) for t in tensors], lambda: [tf.zeros_like(t) for t in tensors])
    return list(kept)


def _slices_unless_padding(real: tf.Tensor, slices: tf.IndexedSlices) -> tf.IndexedSlices:
    return tf.IndexedSlices(_zero_unless(real, [slices.values])[0], slices.indices, slices.dense_shape)


def _time_after(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the time when all of the tensors are computed, in seconds, float64 ()."""
    if not tensors:
        return tf.zeros((), tf.float64)
    with tf.control_dependencies(tensors):
        # A GPU's tensors count as computed when their computation is queued; this copy to the host waits for it.
        landed = tf.reshape(tensors[0], [-1])[:1]
    with tf.device("/CPU:0"), tf.control_dependencies([tf.identity(landed)]):
        return tf.timestamp()


# Bytes. A smaller bucket costs more, in agreeing on it, than it hides; a larger one waits for too many gradients.
SMALLEST, LARGEST = 512 * 1024, 25 * 1024 * 1024


def buckets(sizes: Sequence[int]) -> list[list[int]]:
    """Divide gradients, given by their bytes, into buckets of indexes, in the order of their sums: each one operation.

    The backward pass reaches the last layers first: buckets are filled from the end of the list, as in PyTorch's
    DistributedDataParallel, whose 25 MiB are the most here (Li et al. 2020, https://arxiv.org/abs/2006.15704, §3.2.3).
    What the first layers leave over is the last bucket, however small: nothing hides its sum, so the less the better.
    """
    enough = min(max(sum(sizes) // 4, SMALLEST), LARGEST)
    found: list[list[int]] = []
    filled = enough
    for index in reversed(range(len(sizes))):
        if filled >= enough:
            found.append([])
            filled = 0
        found[-1].append(index)
        filled += sizes[index]
    return found
