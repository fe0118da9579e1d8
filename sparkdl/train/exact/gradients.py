"""Sum and measure gradients over ranks: dense ones in buckets, sparse ones gathered where that moves fewer bytes.

Runs in rank processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from sparkdl.train.exact.collective import gather_slices, sum_tensors
from sparkdl.train.exact.counters import EpochSums

__all__ = ["GradientSum", "LARGEST", "SMALLEST", "buckets", "gather_is_smaller", "gradient_norm", "slices_summed"]

COMPRESSED = {"fp16": tf.float16}
INDEX_BYTES = 8


def gather_is_smaller(*, slices: int, rows: int, row_bytes: int) -> bool:
    """Whether gathering the slices of all ranks moves fewer bytes than summing the dense gradient.

    Args:
        slices: of one step, over all ranks.
        rows: of the variable, each of `row_bytes`.
    """
    # A ring sends a dense gradient nearly twice through each rank, and gathered slices nearly once.
    return slices * (row_bytes + INDEX_BYTES) < 2 * rows * row_bytes


def slices_summed(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient with each row once.

    Keras squares slices as they come (Adam), so that a row that is looked up twice would count as two small gradients
    instead of their sum: not the gradient of the loss, and not what Keras does on its other backends.
    """
    unique, places = tf.unique(slices.indices)
    values = tf.math.unsorted_segment_sum(slices.values, places, tf.size(unique))
    return tf.IndexedSlices(values, unique, slices.dense_shape)


def gradient_norm(gradients: Sequence[Any], optimizer: Any) -> EpochSums:
    """The global norm of a step's gradients, sparse ones with each row once, as a part of the epoch's sums.

    Loss scaling is taken out. Where the optimizer finds the right scale by trying, it skips steps whose gradients are
    not finite; their norm counts for nothing.
    """
    halves = [tf.nn.l2_loss(_at_least_single(g)) for g in gradients if g is not None]
    if not halves:
        return EpochSums()
    widest = max((half.dtype for half in halves), key=lambda dtype: dtype.size)
    squares = 2 * tf.cast(tf.add_n([tf.cast(half, widest) for half in halves]), tf.float64)
    norm = tf.sqrt(squares) / tf.cast(optimizer.scale_loss(1.0), tf.float64)
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return EpochSums(norm=norm, norms=1.0)
    finite = tf.math.is_finite(norm)
    return EpochSums(norm=tf.where(finite, norm, tf.zeros_like(norm)), norms=finite)


def _at_least_single(gradient: Any) -> tf.Tensor:
    """The values of a gradient. Squares of half-precision ones would overflow."""
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return values if values.dtype.size >= tf.float32.size else tf.cast(values, tf.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientSum:
    """How gradients are summed.

    Attributes:
        world_size: of one rank nothing is sent.
        compression: None, or the name of the dtype that gradients have on their way.
        slices_per_row: the slices that a row of the batch gives the gradient of a variable (its place in the list), or
            None where that is not known: then it is made dense.
        global_batch_size: rows of a step over all ranks, at most.
    """

    world_size: int
    compression: str | None = None
    global_batch_size: int = 0
    slices_per_row: Callable[[int], int | None] = lambda place: None

    def __call__(
        self, gradients: Sequence[Any], others: Sequence[tf.Tensor], *, real: tf.Tensor, name: str
    ) -> tuple[list[Any], list[tf.Tensor], tf.Tensor | float]:
        """Gradients and other tensors, summed over all ranks; and the seconds from the last gradient to the last sum.

        Args:
            gradients: tensors, IndexedSlices, or None, the same places None on every rank.
            real: bool (); false takes this rank's gradients out, whatever they hold.
            name: the same on all ranks, another for each call within a step.
        """
        gradients = list(gradients)
        if self.world_size == 1:
            return [slices_summed(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients], list(others), 0.0
        gathered = {place: g for place, g in enumerate(gradients) if self._gathers(place, g)}
        dense = {
            place: tf.convert_to_tensor(g)
            for place, g in enumerate(gradients)
            if g is not None and place not in gathered
        }
        own = {place: _slices_unless_padding(real, slices_summed(slices)) for place, slices in gathered.items()}
        sent: list[tf.Tensor] = []
        summed: dict[int, tf.Tensor] = {}
        for number, bucket in enumerate(_bucket_places(dense)):
            kept = _zero_unless(real, [self._compressed(dense[place]) for place in bucket])
            sent += kept
            summed |= dict(zip(bucket, sum_tensors(kept, name=f"gradients_{name}_{number}"), strict=True))
        summed_others = sum_tensors(others, name=f"others_{name}")
        slices_of_all = [gather_slices(slices, name=f"slices_{name}_{place}") for place, slices in own.items()]
        began = _time_after([*sent, *(slices.values for slices in own.values())])
        ended = _time_after([*summed.values(), *(slices.values for slices in slices_of_all)])
        # What comes next would delay the clock otherwise.
        with tf.control_dependencies([ended]):
            for place, total in summed.items():
                gradients[place] = tf.cast(tf.identity(total), dense[place].dtype)
        for place, slices in zip(own, slices_of_all, strict=True):
            # GPUs add in any order: each rank would get another sum.
            with tf.device("/CPU:0"):
                gradients[place] = slices_summed(slices)
        return gradients, summed_others, tf.maximum(ended - began, 0.0)

    def _compressed(self, gradient: tf.Tensor) -> tf.Tensor:
        dtype = COMPRESSED.get(self.compression or "")
        return gradient if dtype is None or gradient.dtype.size <= dtype.size else tf.cast(gradient, dtype)

    def _gathers(self, place: int, gradient: Any) -> bool:
        if not isinstance(gradient, tf.IndexedSlices):
            return False
        shape, per_row = gradient.shape, self.slices_per_row(place)
        if per_row is None or not shape.is_fully_defined():
            return False
        row_bytes = shape.num_elements() // shape[0] * gradient.dtype.size
        slices = per_row * max(self.global_batch_size, self.world_size)  # a rank without rows sends its padding row's
        return gather_is_smaller(slices=slices, rows=int(shape[0]), row_bytes=row_bytes)


def _bucket_places(dense: Mapping[int, tf.Tensor]) -> list[list[int]]:
    """The places of gradients in buckets."""
    places = list(dense)
    sizes = [(gradient.shape.num_elements() or 0) * gradient.dtype.size for gradient in dense.values()]
    return [[places[index] for index in bucket] for bucket in buckets(sizes)]


def _zero_unless(real: tf.Tensor, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """The tensors, or zeros. They pass through a branch: `where` would copy each of them."""
    if not tensors:
        return []
    kept = tf.cond(real, lambda: [tf.identity(t) for t in tensors], lambda: [tf.zeros_like(t) for t in tensors])
    return list(kept)


def _slices_unless_padding(real: tf.Tensor, slices: tf.IndexedSlices) -> tf.IndexedSlices:
    return tf.IndexedSlices(_zero_unless(real, [slices.values])[0], slices.indices, slices.dense_shape)


def _time_after(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """The time when all of these are there, in seconds, float64 ()."""
    if not tensors:
        return tf.zeros((), tf.float64)
    with tf.control_dependencies(tensors):
        # A GPU's tensors count as there when their computation is queued; this copy to the host waits for it.
        landed = tf.reshape(tensors[0], [-1])[:1]
    with tf.device("/CPU:0"), tf.control_dependencies([tf.identity(landed)]):
        return tf.timestamp()


# Bytes. Below the one a bucket costs more, in agreeing on it, than it hides; beyond the other it waits for too much.
SMALLEST, LARGEST = 512 * 1024, 25 * 1024 * 1024


def buckets(sizes: Sequence[int]) -> list[list[int]]:
    """The places of gradients in the order in which they are summed, those of one operation together.

    The backward pass comes to the last layers first: buckets are filled from the end of the list, as in PyTorch's
    DistributedDataParallel, whose 25 MiB are the most here (Li et al. 2020, https://arxiv.org/abs/2006.15704, §3.2.3).
    What the first layers leave over is a bucket of its own, however small: nothing hides it, so the less the better.

    Args:
        sizes: bytes of each gradient.

    Returns:
        Places in `sizes`, each once.
    """
    enough = min(max(sum(sizes) // 4, SMALLEST), LARGEST)
    found: list[list[int]] = []
    filled = enough
    for place in reversed(range(len(sizes))):
        if filled >= enough:
            found.append([])
            filled = 0
        found[-1].append(place)
        filled += sizes[place]
    return found
