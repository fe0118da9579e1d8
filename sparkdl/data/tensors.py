"""Hand a rank's blocks to tf.data as steps: (inputs, targets, weights, rows, wait).

Runs in rank processes; the only module of `data` that imports TensorFlow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sparkdl.data.feed import Block, Feed
from sparkdl.data.layout import Field, RecordLayout

__all__ = ["STEP_NAMES", "step_dataset"]

# What an element is, in this order. Weights are () where the dataset has none.
STEP_NAMES = ("inputs", "targets", "weights", "rows", "wait_s")


def step_dataset(feed: Feed, layout: RecordLayout, epochs: Sequence[int], *, target: str = "label") -> tf.data.Dataset:
    """The steps of these epochs, each with this rank's rows.

    Returns:
        A dataset of (inputs, targets, weights, rows, wait_s): inputs and targets are a tensor, or a dict by name where
        there are several, shape ``(rows, *shape)`` with everything but rows static; weights are float32 ``(rows,)`` or
        (); rows is int32 (), the rows that count (0: the one row is a ghost); wait_s is float64 (), the seconds that
        the step waited for this element.
    """
    fields = layout.fields
    signature = (
        tuple(tf.TensorSpec((None, *field.shape), field.dtype) for field in fields),
        *(tf.TensorSpec((None,), tf.int32) for _ in range(3)),
    )

    def generate() -> Iterator[Any]:
        for block in feed.blocks(epochs):
            yield _columns(block, fields), block.starts, block.sizes, block.rows

    blocks = tf.data.Dataset.from_generator(generate, output_signature=signature).prefetch(1)

    def steps_of(columns: Any, starts: Any, sizes: Any, rows: Any) -> tf.data.Dataset:
        def step(start: Any, size: Any, count: Any) -> Any:
            values = {field.key: column[start : start + size] for field, column in zip(fields, columns, strict=True)}
            return (*_roles(values, layout), count)

        return tf.data.Dataset.from_tensor_slices((starts, sizes, rows)).map(step)

    return _timed(blocks.flat_map(steps_of).prefetch(4))


def _columns(block: Block, fields: Sequence[Field]) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(block.records[field.key]) for field in fields)


def _roles(values: dict[str, Any], layout: RecordLayout) -> tuple[Any, Any, Any]:
    """(inputs, targets, weights) from the fields of a record."""

    def of_role(role: str) -> Any:
        named = {field.name: values[field.key] for field in layout.of_role(role)}
        return named if len(named) != 1 else next(iter(named.values()))

    weight = layout.of_role("weight")
    return (
        of_role("feature"),
        () if not layout.of_role("label") else of_role("label"),
        values[weight[0].key] if weight else (),
    )


def _timed(steps: tf.data.Dataset) -> tf.data.Dataset:
    """Add to each element the seconds that its consumer waited for it.

    `zip` pulls its parts one after the other in the consumer's thread, so the clocks stand right before and after.
    """

    def clock() -> tf.data.Dataset:
        return tf.data.Dataset.counter().map(lambda _: tf.timestamp())

    timed = tf.data.Dataset.zip(clock(), steps, clock()).map(lambda before, step, after: (*step, after - before))
    options = tf.data.Options()
    # A prefetch injected after the clocks would time itself, not the consumer.
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False
    options.deterministic = True
    return timed.with_options(options)
