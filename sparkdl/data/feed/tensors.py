"""Hand a rank's blocks to tf.data as steps: (inputs, targets, weights, counts).

Runs in rank processes; of the modules of `data`, this one and `augment.py` alone import TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sparkdl.data.feed.augment import augment_rows
from sparkdl.data.feed.feed import Block, Feed
from sparkdl.data.layout import Group, RecordLayout

__all__ = ["FirstRows", "batch_of", "step_dataset"]

# Augmented steps that wait to be trained on.
AUGMENTED_STEPS = 2


def step_dataset(
    feed: Feed,
    layout: RecordLayout,
    epochs: Sequence[int],
    *,
    start_step: int = 0,
    target: str = "label",
    first_rows: FirstRows | None = None,
    augment: Callable[..., Any] | None = None,
) -> tf.data.Dataset:
    """Make the tf.data dataset of epochs' steps, each with this rank's rows; the first epoch begins at `start_step`.

    Args:
        epochs: each is a pass over the rows.
        target: "label", or "inputs": the targets are the inputs.
        first_rows: receives some rows of the first step of each of its epochs, as they are before `augment`.
        augment: changes each row, in threads beside the training (see `augment_rows`); None changes nothing.

    Returns:
        A dataset of (waited, (inputs, targets, weights, counts)): inputs and targets are a tensor, or a dict by name
        of several tensors, shape ``(rows, *shape)`` with everything but rows static; weights are float32 ``(rows,)`` or
        (); counts is int64 (3,): the number of rows that count (0: the only row is a padding row), the number of rows
        of the step over all ranks, the number of the step since the first epoch began; waited is float64 (), the
        seconds that the consumer waited for data before this element.
    """
    groups = layout.groups
    signature = (
        tuple(tf.TensorSpec((None, *group.shape), group.dtype) for group in groups),
        *(tf.TensorSpec((None, 1), tf.int32) for _ in range(2)),
        tf.TensorSpec((None, 3), tf.int64),
        *([tf.TensorSpec((None, 2), tf.int64)] if augment is not None else []),
    )

    def generate() -> Iterator[Any]:
        for block in feed.blocks(epochs, start_step=start_step, seeds=augment is not None):
            if first_rows is not None:
                first_rows.note(block)
            # tf.strided_slice takes starts and stops as vectors, here of length 1.
            seeds = () if block.seeds is None else (block.seeds,)
            yield block.arrays, block.starts[:, None], block.stops[:, None], _counts(block), *seeds

    def steps_of(waited: Any, block: Any) -> tf.data.Dataset:
        arrays, starts, stops, counts, *seeds = block
        waits = tf.concat([[waited], tf.zeros(tf.shape(counts)[0] - 1, tf.float64)], axis=0)

        def step(start: Any, stop: Any, count: Any, wait: Any) -> Any:
            rows = [tf.strided_slice(array, start, stop) for array in arrays]
            of_rows = tuple(tf.strided_slice(array, start, stop) for array in seeds)
            return wait, (*_roles(rows, layout, target), count), *of_rows

        return tf.data.Dataset.from_tensor_slices((starts, stops, counts, waits)).map(step)

    blocks = tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(1)
    if augment is None:
        return _timed(blocks).flat_map(steps_of).with_options(_in_the_consumers_thread())

    def augmented(_: Any, step: Any, seeds: Any) -> Any:
        inputs, targets, weights, counts = step
        # The padding row of a step without rows need not be what the function expects.
        inputs, targets = tf.cond(
            counts[0] > 0, lambda: augment_rows(augment, inputs, targets, seeds), lambda: (inputs, targets)
        )
        return inputs, targets, weights, counts

    as_written = tf.autograph.experimental.do_not_convert(augmented)
    steps = blocks.map(lambda *block: (tf.zeros((), tf.float64), block)).flat_map(steps_of)
    steps = steps.map(as_written, num_parallel_calls=feed.cores, deterministic=True).prefetch(AUGMENTED_STEPS)
    return _timed(steps).with_options(_in_the_consumers_thread())


class FirstRows:
    """Keep some rows of the first step that this rank takes in each epoch, until `take` returns them.

    Args:
        most: the number of rows to keep.
        steps: the steps of one epoch, which need not be those of a pass.
    """

    def __init__(self, *, most: int, steps: int) -> None:
        self._most = most
        self._steps = steps
        self._epoch = -1
        self._rows: dict[int, list[np.ndarray]] = {}

    def note(self, block: Block) -> None:
        """Copy rows of each step of a block that is the first of its epoch. Called by the feed's thread."""
        epochs = (block.first_step + np.arange(len(block.rows))) // self._steps
        for epoch, step in zip(*np.unique(epochs, return_index=True), strict=True):
            if epoch == self._epoch:
                continue
            self._epoch = int(epoch)
            start, count = int(block.starts[step]), min(self._most, int(block.rows[step]))
            self._rows[self._epoch] = [array[start : start + count].copy() for array in block.arrays]

    def take(self, epoch: int) -> list[np.ndarray]:
        """Return the rows of an epoch whose first step was taken: an array for each group of the layout."""
        return self._rows.pop(epoch)


def batch_of(arrays: Sequence[np.ndarray], layout: RecordLayout, *, target: str = "label") -> tuple[Any, ...]:
    """Make (inputs, targets) or (inputs, targets, weights) of rows: an array for each group of the layout."""
    inputs, targets, weights = _roles([tf.convert_to_tensor(array) for array in arrays], layout, target)
    return (inputs, targets, weights) if layout.of_role("weight") else (inputs, targets)


def _counts(block: Block) -> np.ndarray:
    """Return int64, shape ``(steps, 3)``: rows that count, rows over all ranks, the step's number."""
    steps = block.first_step + np.arange(len(block.rows))
    return np.stack([block.rows, block.global_rows, steps], axis=1).astype(np.int64)


def _fields(group: Group, rows: Any) -> dict[str, Any]:
    """Split rows of a group, ``(rows, *group.shape)``, into its fields, each of shape ``(rows, *field.shape)``."""
    if len(group.fields) == 1:
        return {group.fields[0].key: rows}
    columns = tf.unstack(rows, num=len(group.fields), axis=1)
    return {field.key: column for field, column in zip(group.fields, columns, strict=True)}


def _roles(rows: Sequence[Any], layout: RecordLayout, target: str) -> tuple[Any, Any, Any]:
    """Gather (inputs, targets, weights) from the rows of each group of the layout."""
    values: dict[str, Any] = {}
    for group, of_group in zip(layout.groups, rows, strict=True):
        values |= _fields(group, of_group)

    def of_role(role: str) -> Any:
        named = {field.name: values[field.key] for field in layout.of_role(role)}
        return named if len(named) > 1 else next(iter(named.values()), ())

    inputs = of_role("feature")
    return inputs, inputs if target == "inputs" else of_role("label"), of_role("weight")


def _timed(blocks: tf.data.Dataset) -> tf.data.Dataset:
    """Add to each block, or step, the seconds that its consumer waited for it.

    `zip` pulls its parts one after the other in the consumer's thread: the clock, then the block. The consumer asks for
    a block when it has used up the one before; cutting a block into steps does not wait.
    """
    clock = tf.data.Dataset.counter().map(lambda _: tf.timestamp())
    return tf.data.Dataset.zip(clock, blocks).map(lambda asked_at, block: (tf.timestamp() - asked_at, block))


def _in_the_consumers_thread() -> tf.data.Options:
    options = tf.data.Options()
    # A prefetch injected after the clock would time itself, not the consumer.
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    options.deterministic = True
    return options
