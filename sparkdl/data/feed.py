"""Assemble a rank's rows of every step from row groups, in large blocks.

Runs in rank processes; numpy only. `tensors.py` hands the blocks to tf.data.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.layout import RecordLayout
from sparkdl.data.plan import EpochPlan
from sparkdl.data.reader import RowGroupReader
from sparkdl.errors import DatasetError

__all__ = ["Block", "Feed"]

# A block costs one call from tf.data into Python (about 0.3 ms); this many bytes make that negligible.
BLOCK_BYTES = 8 << 20
# Steps of a block at the most.
MOST_STEPS = 1 << 12
# TensorFlow takes over an array without a copy if it begins at such an address (EIGEN_MAX_ALIGN_BYTES).
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Block:
    """A rank's rows of some consecutive steps.

    Attributes:
        arrays: one for each group of the layout, shape ``(rows of all steps, *group.shape)``, the steps' rows one
            after the other; one row of zeros more if a step has none.
        starts: int32, shape ``(steps,)``, where each step's rows begin.
        sizes: int32, shape ``(steps,)``, the rows that the step is fed: 1 ghost row where it has none.
        rows: int32, shape ``(steps,)``, the rows that count: 0 for a ghost.
    """

    arrays: tuple[np.ndarray, ...]
    starts: np.ndarray
    sizes: np.ndarray
    rows: np.ndarray


class Feed:
    """The blocks of one rank over one split.

    Args:
        seed: of the epochs' order; None keeps the stored order (validation, evaluation).
        threads: decoding threads.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: SplitParts,
        *,
        rank: int,
        world_size: int,
        global_batch_size: int,
        seed: int | None,
        threads: int = 1,
    ) -> None:
        self._dataset = dataset
        self._split = split
        self._rank = rank
        self._world_size = world_size
        self._batch = global_batch_size
        self._seed = seed
        self._threads = threads
        rank_rows = max(1, global_batch_size // world_size)
        self._block_steps = int(np.clip(BLOCK_BYTES // (rank_rows * dataset.layout.dtype.itemsize), 1, MOST_STEPS))

    def plan(self, epoch: int) -> EpochPlan:
        """The order of an epoch."""
        return EpochPlan(
            self._split.row_group_rows,
            lanes=self._dataset.lanes,
            global_batch_size=self._batch,
            seed=self._seed,
            epoch=epoch,
        )

    def blocks(self, epochs: Sequence[int]) -> Generator[Block, None, None]:
        """The blocks of these epochs, one epoch after the other; a block never crosses an epoch's end.

        Raises DatasetError if a row group that comes is not the one that the plan awaits.
        """
        order = (
            int(group) for epoch in epochs for group in self.plan(epoch).reading_order(self._rank, self._world_size)
        )
        buffers = _Buffers()
        with RowGroupReader(self._dataset, self._split, order, threads=self._threads) as reader:
            row_groups = iter(reader)
            for epoch in epochs:
                yield from self._epoch(self.plan(epoch), row_groups, buffers)

    def _epoch(
        self, plan: EpochPlan, row_groups: Iterator[tuple[int, np.ndarray]], buffers: _Buffers
    ) -> Iterator[Block]:
        awaited = iter(plan.reading_order(self._rank, self._world_size))
        # Whole records, for numpy to move as they are.
        record = np.dtype((np.void, self._dataset.layout.dtype.itemsize))
        opened: dict[int, _OpenRowGroup] = {}
        for first in range(0, plan.steps, self._block_steps):
            shares = plan.shares(self._rank, self._world_size, first, min(first + self._block_steps, plan.steps))
            places, starts, rows = _places(shares)
            staged = buffers.take(len(places) * record.itemsize, record, (len(places),))
            filled = 0
            for place, lane in enumerate(plan.owned_lanes(self._rank, self._world_size)):
                for run in plan.lane_runs(int(lane), int(shares[0, place]), int(shares[-1, place])):
                    while run.row_group not in opened:
                        _open_next(opened, plan, awaited, row_groups)
                    group = opened[run.row_group]
                    taken = group.records.view(record).take(group.order[run.start : run.stop])
                    staged[places[filled : filled + len(taken)]] = taken
                    filled += len(taken)
                    if run.stop == len(group.order):
                        del opened[run.row_group]
            yield _block(staged, starts, rows, self._dataset.layout, buffers)
            del staged  # the buffer is free again
        if opened or next(awaited, None) is not None:
            raise DatasetError("the epoch ended before all of its row groups were read; this is an error in sparkdl")


@dataclass(frozen=True, slots=True)
class _OpenRowGroup:
    records: np.ndarray
    order: np.ndarray


def _open_next(
    opened: dict[int, _OpenRowGroup],
    plan: EpochPlan,
    awaited: Iterator[np.integer],
    row_groups: Iterator[tuple[int, np.ndarray]],
) -> None:
    """Take the next row group from the reader; count it against the plan."""
    expected = next(awaited, None)
    group, records = next(row_groups, (None, None))
    if expected is None or group != expected or records is None:
        raise DatasetError(
            f"row group {group} came where the plan awaits {expected}; the dataset was changed or damaged"
        )
    opened[int(expected)] = _OpenRowGroup(records, plan.permute(int(expected)))


def _places(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where rows that are read lane after lane belong in a block, step after step.

    Args:
        shares: int64, shape ``(steps + 1, lanes)``, as `EpochPlan.shares` gives it.

    Returns:
        The place of each row as it is read, int64, shape ``(rows,)``; where each step begins, and its rows, int64,
        shape ``(steps,)``. Within a step, rows lie lane after lane.
    """
    counts = np.diff(shares, axis=0)  # (steps, lanes)
    rows = counts.sum(axis=1)
    # Where the rows of each (step, lane) begin in the block, and where they begin among the rows as they are read.
    begins = (np.cumsum(counts.reshape(-1)) - counts.reshape(-1)).reshape(counts.shape)
    by_lane = counts.T.reshape(-1)
    read = np.cumsum(by_lane) - by_lane
    places = np.repeat(begins.T.reshape(-1) - read, by_lane) + np.arange(int(rows.sum()))
    return places, np.cumsum(rows) - rows, rows


def _block(staged: np.ndarray, starts: np.ndarray, rows: np.ndarray, layout: RecordLayout, buffers: _Buffers) -> Block:
    """The block of these records, which are in their places: an array a group, a ghost where a step has no rows."""
    total, has_ghost = len(staged), bool((rows == 0).any())
    by_group = staged.view(layout.group_dtype)
    arrays = []
    for number, group in enumerate(layout.groups):
        shape = (total + has_ghost, *group.shape)
        array = buffers.take(math.prod(shape) * group.dtype.itemsize, group.dtype, shape)
        array[:total] = by_group[str(number)]
        array[total:] = 0
        arrays.append(array)
    starts = np.where(rows == 0, total, starts)
    counts = (numbers.astype(np.int32) for numbers in (starts, np.maximum(rows, 1), rows))
    return Block(tuple(arrays), *counts)


class _Buffers:
    """Memory that is used again as soon as nobody holds an array in it.

    Fresh pages are what costs in moving rows: filling a new array took 20 times as long as filling a used one on the
    machine where this was measured. TensorFlow holds the arrays that it took over without a copy, for as long as it
    needs them; Python's count of references tells.
    """

    # References to a buffer that nobody uses: this list's, the loop's, and that of the call that counts.
    UNUSED = 3

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []

    def take(self, size: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """An array of `size` bytes, not filled, that begins at a multiple of ALIGNMENT."""
        for buffer in self._buffers:
            if len(buffer) >= size + ALIGNMENT and sys.getrefcount(buffer) == self.UNUSED:
                return _aligned(buffer, size).view(dtype).reshape(shape)
        buffer = np.empty(size + ALIGNMENT, dtype=np.uint8)
        self._buffers.append(buffer)
        return _aligned(buffer, size).view(dtype).reshape(shape)


def _aligned(buffer: np.ndarray, size: int) -> np.ndarray:
    offset = -buffer.ctypes.data % ALIGNMENT
    return buffer[offset : offset + size]
