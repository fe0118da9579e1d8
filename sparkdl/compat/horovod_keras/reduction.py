"""Reduce a step's gradients over ranks, as the arguments of `DistributedOptimizer` say.

Runs in rank processes. The result is the mean, or the sum, of the ranks' gradients, sparse ones with each row once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import horovod.tensorflow as hvd
import keras
import tensorflow as tf

from sparkdl.train.exact.gradients import slices_summed

__all__ = ["Reduction", "divided", "reference"]


def reference(variable: Any) -> Any:
    """Return what tells a variable, of Keras or of TensorFlow, from others; hashable."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).ref()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """Reduce gradients over ranks.

    Attributes:
        name: the beginning of the operations' names, the same on all ranks.
        op: hvd.Average or hvd.Sum.
        process_set: the ranks that take part; any other rank keeps its gradients.
        predivide_factor: gradients are divided by it before they are summed, and multiplied by it afterwards.
        groups: None; the number of groups that are reduced as one; or the variables of each group.
        local_variables: gives the variables whose gradients stay those of this rank.
        scale_local_gradients: whether these are divided by the number of ranks, as in the gradient of a mean.
        compression, sparse_as_dense, device_dense, device_sparse: as in `DistributedOptimizer`.
    """

    name: str
    op: Any
    process_set: Any
    compression: Any
    sparse_as_dense: bool
    predivide_factor: float
    groups: int | Sequence[Sequence[Any]] | None
    device_dense: str
    device_sparse: str
    local_variables: Callable[[], Iterable[Any]]
    scale_local_gradients: bool
    _functions: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """Reduce the gradients of these variables: tensors, IndexedSlices, or None, at the same places on all ranks."""
        local = {reference(variable) for variable in self.local_variables()}
        own = [reference(variable) in local for variable in variables]
        grouped = self._grouped([index for index, kept in enumerate(own) if not kept], variables)

        gradients = self.made_dense(gradients)
        if not tf.executing_eagerly():
            return self._reduced(gradients, own, grouped)
        # One eager operation after the other would wait for all ranks each time.
        key = (tuple(own), tuple(map(tuple, grouped)))
        if key not in self._functions:
            self._functions[key] = tf.function(lambda given: self._reduced(given, own, grouped), reduce_retracing=True)
        result: list[Any] = self._functions[key](gradients)
        return result

    def made_dense(self, gradients: Sequence[Any]) -> list[Any]:
        """Make sparse gradients dense, if that is asked for."""
        if not self.sparse_as_dense:
            return list(gradients)
        return [None if gradient is None else tf.convert_to_tensor(gradient) for gradient in gradients]

    def _grouped(self, indexes: list[int], variables: Sequence[Any]) -> list[list[int]]:
        """Divide the gradients, by index, into groups; without `groups` each one is its own."""
        if self.groups is None:
            return [[index] for index in indexes]
        if isinstance(self.groups, int):
            return divided(indexes, self.groups)
        index_of = {reference(variables[index]): index for index in indexes}
        found = [[index_of[key] for key in map(reference, group) if key in index_of] for group in self.groups]
        named = {index for group in found for index in group}
        return [*found, *([index] for index in indexes if index not in named)]

    def _reduced(self, gradients: list[Any], own: list[bool], grouped: list[list[int]]) -> list[Any]:
        alone = not self.process_set.included() or self.process_set.size() == 1
        result = [slices_summed(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        if alone:
            return result
        if self.scale_local_gradients:
            result = [_scaled(g, 1 / self.process_set.size()) if o else g for g, o in zip(result, own, strict=True)]
        for number, group in enumerate(grouped):
            sparse = [index for index in group if isinstance(gradients[index], tf.IndexedSlices)]
            for index in sparse:
                result[index] = self._gathered(result[index], f"{self.name}_slices_{index}")
            dense = [index for index in group if gradients[index] is not None and index not in sparse]
            # Horovod groups tensors of one dtype only.
            for dtype in dict.fromkeys(gradients[index].dtype for index in dense):
                alike = [index for index in dense if gradients[index].dtype == dtype]
                name = f"{self.name}_{number}_{dtype.name}"
                for index, total in zip(alike, self._summed([gradients[i] for i in alike], name), strict=True):
                    result[index] = tf.ensure_shape(total, gradients[index].shape)
        return result

    def _summed(self, tensors: list[tf.Tensor], name: str) -> list[tf.Tensor]:
        """Reduce dense tensors of one dtype, in one operation."""
        options: dict[str, Any] = {
            "op": self.op,
            "compression": self.compression,
            "prescale_factor": 1 / self.predivide_factor,
            "postscale_factor": self.predivide_factor,
            "process_set": self.process_set,
            "device_dense": self.device_dense,
            "name": name,
        }
        if len(tensors) == 1:
            return [hvd.allreduce(tensors[0], **options)]
        return list(hvd.grouped_allreduce(tensors, **options))

    def _gathered(self, slices: tf.IndexedSlices, name: str) -> tf.IndexedSlices:
        """Concatenate the slices of all ranks, and reduce those of one row."""
        with tf.device(self.device_sparse):
            values, context = self.compression.compress(slices.values / self.predivide_factor)
            values = hvd.allgather(values, name=f"{name}_values", process_set=self.process_set)
            indices = hvd.allgather(slices.indices, name=f"{name}_indices", process_set=self.process_set)
            scale = self.predivide_factor / (self.process_set.size() if self.op == hvd.Average else 1)
            values = self.compression.decompress(values, context) * scale
            return slices_summed(tf.IndexedSlices(values, indices, slices.dense_shape))


def divided(indexes: Sequence[int], number: int) -> list[list[int]]:
    """Divide indexes into at most `number` groups of neighbours, whose lengths differ by one at most."""
    length, longer = divmod(len(indexes), number)
    ends = [length * group + min(group, longer) for group in range(number + 1)]
    return [list(indexes[start:end]) for start, end in pairwise(ends) if end > start]


def _scaled(gradient: Any, factor: float) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values * factor, gradient.indices, gradient.dense_shape)
    return gradient * factor
