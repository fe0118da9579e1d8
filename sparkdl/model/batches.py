"""Make batches of one size from encoded rows that come in pieces of any size.

Pure; runs where a model predicts: in Spark workers in the thread that prefetches for the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Batch", "Batcher", "small_batch"]

# A tail costs at most half of this many calls with a small batch, or is padded to a large batch.
_SMALL_IN_LARGE = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold the inputs of one call of the model.

    Attributes:
        inputs: by name, each of shape ``(batch size, *shape)``; rows from `rows` on are padding, zeros.
        rows: the number of rows that count.
    """

    inputs: Mapping[str, np.ndarray]
    rows: int


def small_batch(batch_size: int) -> int:
    """Return the size of the batches of a short tail: a partition of one row should not cost a large batch."""
    return max(1, batch_size // _SMALL_IN_LARGE)


class Batcher:
    """Divide rows into batches, in order, of one of two sizes: `batch_size`, and at the end the small size."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        # Encoded rows that wait, each piece of shape (rows, *shape) for every input, and the number of these rows.
        self._pieces: deque[Mapping[str, np.ndarray]] = deque()
        self._waiting = 0

    def add(self, inputs: Mapping[str, np.ndarray]) -> list[Batch]:
        """Add rows; return the batches that are full with them."""
        rows = _rows(inputs)
        if rows:
            self._pieces.append(inputs)
            self._waiting += rows
        full = self._waiting // self._batch_size
        return [Batch(self._take(self._batch_size), self._batch_size) for _ in range(full)]

    def rest(self) -> list[Batch]:
        """Return the batches of the rows that are left when no more come."""
        small = small_batch(self._batch_size)
        size = self._batch_size if self._waiting > self._batch_size // 2 else small
        batches = []
        while self._waiting:
            rows = min(size, self._waiting)
            batches.append(Batch(_padded(self._take(rows), size), rows))
        return batches

    def _take(self, rows: int) -> Mapping[str, np.ndarray]:
        self._waiting -= rows
        taken: list[Mapping[str, np.ndarray]] = []
        while rows:
            piece = self._pieces.popleft()
            count = min(rows, _rows(piece))
            # Views: within a piece, no row is copied.
            taken.append({name: values[:count] for name, values in piece.items()})
            if count < _rows(piece):
                self._pieces.appendleft({name: values[count:] for name, values in piece.items()})
            rows -= count
        if len(taken) == 1:
            return taken[0]
        return {name: np.concatenate([piece[name] for piece in taken]) for name in taken[0]}


def _rows(inputs: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(inputs.values())))


def _padded(inputs: Mapping[str, np.ndarray], rows: int) -> Mapping[str, np.ndarray]:
    """Return the inputs, padded with zeros to `rows` rows."""
    missing = rows - _rows(inputs)
    if not missing:
        return inputs
    return {
        name: np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
        for name, values in inputs.items()
    }
