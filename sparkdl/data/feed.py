"""Assemble a rank's rows of every step from row groups, in large blocks.

Runs in rank processes; numpy only. `tensors.py` hands the blocks to tf.data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.plan import EpochPlan
from sparkdl.data.reader import RowGroupReader
from sparkdl.errors import DatasetError

__all__ = ["Block", "Feed"]

# A block costs one call from tf.data into Python (about 0.3 ms); this many bytes make that negligible.
BLOCK_BYTES = 8 << 20
# Rows of a block are sorted into steps by 16-bit numbers, for which numpy has a linear-time sort.
MOST_STEPS = 1 << 12


@dataclass(frozen=True, slots=True)
class Block:
    """A rank's rows of some consecutive steps.

    Attributes:
        records: shape ``(records,)``, the steps' rows one after the other.
        starts: int32, shape ``(steps,)``, where each step's rows begin.
        sizes: int32, shape ``(steps,)``, the rows that the step is fed: 1 ghost row where it has none.
        rows: int32, shape ``(steps,)``, the rows that count: 0 for a ghost.
    """

    records: np.ndarray
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

    def blocks(self, epochs: Sequence[int]) -> Iterator[Block]:
        """The blocks of these epochs, one epoch after the other; a block never crosses an epoch's end.

        Raises DatasetError if a row group that comes is not the one that the plan awaits.
        """
        order = (
            int(group) for epoch in epochs for group in self.plan(epoch).reading_order(self._rank, self._world_size)
        )
        with RowGroupReader(self._dataset, self._split, order, threads=self._threads) as reader:
            row_groups = iter(reader)
            for epoch in epochs:
                yield from self._epoch(self.plan(epoch), row_groups)

    def _epoch(self, plan: EpochPlan, row_groups: Iterator[tuple[int, np.ndarray]]) -> Iterator[Block]:
        awaited = iter(plan.reading_order(self._rank, self._world_size))
        opened: dict[int, _OpenRowGroup] = {}
        for first in range(0, plan.steps, self._block_steps):
            shares = plan.shares(self._rank, self._world_size, first, min(first + self._block_steps, plan.steps))
            pieces = []
            for place, lane in enumerate(plan.owned_lanes(self._rank, self._world_size)):
                for run in plan.lane_runs(int(lane), int(shares[0, place]), int(shares[-1, place])):
                    while run.row_group not in opened:
                        _open_next(opened, plan, awaited, row_groups)
                    group = opened[run.row_group]
                    pieces.append(group.take(run.start, run.stop))
                    if run.stop == len(group.order):
                        del opened[run.row_group]
            yield _block(pieces, shares, self._dataset.layout.dtype)
        if opened or next(awaited, None) is not None:
            raise DatasetError("the epoch ended before all of its row groups were read; this is an error in sparkdl")


@dataclass(frozen=True, slots=True)
class _OpenRowGroup:
    records: np.ndarray
    order: np.ndarray

    def take(self, start: int, stop: int) -> np.ndarray:
        return self.records.take(self.order[start:stop])


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


def _block(pieces: Sequence[np.ndarray], shares: np.ndarray, dtype: np.dtype) -> Block:
    """Sort the rows of the lanes, which come lane after lane, into steps.

    `shares`: int64, shape ``(steps + 1, lanes)``, as `EpochPlan.shares` gives it.
    """
    per_step = np.diff(shares, axis=0)  # (steps, lanes)
    steps = len(per_step)
    rows = per_step.sum(axis=1)
    staged = np.concatenate(pieces) if pieces else np.empty(0, dtype=dtype)
    if steps > 1:
        # The step of every staged row, lane after lane: (lanes, steps) -> (rows,).
        step_of_row = np.repeat(np.tile(np.arange(steps, dtype=np.uint16), per_step.shape[1]), per_step.T.reshape(-1))
        staged = staged.take(np.argsort(step_of_row, kind="stable"))
    starts = np.cumsum(rows) - rows
    if (rows == 0).any():
        # One record of zeros, for all steps without rows.
        starts = np.where(rows == 0, len(staged), starts)
        staged = np.concatenate([staged, np.zeros(1, dtype=dtype)])
    return Block(staged, starts.astype(np.int32), np.maximum(rows, 1).astype(np.int32), rows.astype(np.int32))
