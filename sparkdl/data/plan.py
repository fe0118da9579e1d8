"""Order the rows of an epoch and say which rank reads which rows when.

Pure numpy; runs in every rank at each epoch, and on the driver for checks. The order is a function of (row groups,
seed, epoch, lanes) alone: neither workers nor threads nor machines change what the model sees.

The row groups, shuffled by (seed, epoch), are dealt into lanes like cards. The epoch interleaves the lanes row by row:
round after round, every lane that still has rows gives one. Step k trains on positions [k·B, (k+1)·B). Rank r of W owns
the lanes r, r + W, r + 2W, …, so that it opens only its own row groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["EpochPlan", "LaneRows", "row_permutation"]

# Domains of the random streams, so that no two uses of one seed are the same stream.
_ORDER_OF_ROW_GROUPS = 1
_ORDER_OF_ROWS = 2


def row_permutation(rows: int, *, seed: int, epoch: int, row_group: int) -> np.ndarray:
    """The order of the rows inside a row group in an epoch: a permutation of ``range(rows)``, int64."""
    return np.random.default_rng((_ORDER_OF_ROWS, seed, epoch, row_group)).permutation(rows)


@dataclass(frozen=True, slots=True)
class LaneRows:
    """A run of consecutive rows of one lane that fall into one row group.

    Attributes:
        row_group: index into the split's row groups.
        start, stop: positions in the permuted row group.
    """

    row_group: int
    start: int
    stop: int


class EpochPlan:
    """The order of one epoch of one split.

    Args:
        row_group_rows: rows of each row group of the split, in manifest order. Shape ``(row groups,)``.
        lanes: sequences to interleave (the manifest's).
        global_batch_size: rows of a step over all ranks.
        seed, epoch: which permutation; a seed of None keeps the stored order (validation, evaluation).
    """

    def __init__(
        self,
        row_group_rows: Sequence[int] | np.ndarray,
        *,
        lanes: int,
        global_batch_size: int,
        seed: int | None,
        epoch: int,
    ) -> None:
        self.row_group_rows = np.asarray(row_group_rows, dtype=np.int64)
        self.lanes = lanes
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.epoch = epoch
        count = len(self.row_group_rows)
        order = np.arange(count)
        if seed is not None:
            order = np.random.default_rng((_ORDER_OF_ROW_GROUPS, seed, epoch)).permutation(count)
        # lane l holds the row groups order[l], order[l + lanes], …
        self._groups = [order[lane::lanes] for lane in range(lanes)]
        # Where each row group of a lane begins, in rows of that lane; the last entry is the lane's length.
        self._starts = [np.concatenate(([0], np.cumsum(self.row_group_rows[groups]))) for groups in self._groups]
        self.lane_rows = np.array([starts[-1] for starts in self._starts], dtype=np.int64)
        self.rows = int(self.lane_rows.sum())
        self._set_rounds()

    def _set_rounds(self) -> None:
        """Where the number of active lanes changes: it falls each time a lane runs out."""
        by_length = np.sort(self.lane_rows)
        # stages: distinct lengths; between two of them the same lanes are active in every round.
        lengths = np.unique(np.concatenate(([0], by_length)))
        self._stage_round = lengths[:-1]
        self._stage_active = self.lanes - np.searchsorted(by_length, self._stage_round, side="right")
        sizes = np.diff(lengths) * self._stage_active
        self._stage_position = np.concatenate(([0], np.cumsum(sizes)))[:-1].astype(np.int64)

    @property
    def steps(self) -> int:
        """Steps of the epoch, the same on every rank."""
        return -(-self.rows // self.global_batch_size)

    def counts(self, positions: np.ndarray) -> np.ndarray:
        """How many rows each lane has given before each position of the epoch.

        Args:
            positions: int64, shape ``(n,)``, each from 0 to `rows`.

        Returns:
            int64, shape ``(n, lanes)``; each row sums to its position.
        """
        stage = np.searchsorted(self._stage_position, positions, side="right") - 1
        stage = np.maximum(stage, 0)
        active = np.maximum(self._stage_active[stage], 1) if len(self._stage_active) else np.ones_like(positions)
        base = self._stage_round[stage] if len(self._stage_round) else np.zeros_like(positions)
        offset = positions - (self._stage_position[stage] if len(self._stage_position) else 0)
        full_rounds, rest = base + offset // active, offset % active
        # The lanes of a round give in lane order: the first `rest` of the active ones have given one row more.
        is_active = self.lane_rows[None, :] > base[:, None]
        place = np.cumsum(is_active, axis=1) - 1
        extra = is_active & (place < rest[:, None])
        return np.minimum(self.lane_rows[None, :], full_rounds[:, None]) + extra

    def owned_lanes(self, rank: int, world_size: int) -> np.ndarray:
        """The lanes of a rank, int64."""
        return np.arange(rank, self.lanes, world_size)

    def shares(self, rank: int, world_size: int, start_step: int, stop_step: int) -> np.ndarray:
        """Where each owned lane stands at the steps' borders.

        Returns:
            int64, shape ``(stop_step - start_step + 1, owned lanes)``: lane i gives step start_step + k the rows
            [shares[k, i], shares[k + 1, i]) of the lane.
        """
        borders = np.minimum(np.arange(start_step, stop_step + 1) * self.global_batch_size, self.rows)
        return self.counts(borders)[:, self.owned_lanes(rank, world_size)]

    def step_rows(self, rank: int, world_size: int, start_step: int, stop_step: int) -> np.ndarray:
        """Rows of a rank in each of the steps, int64, shape ``(stop_step - start_step,)``."""
        return np.diff(self.shares(rank, world_size, start_step, stop_step).sum(axis=1))

    def lane_runs(self, lane: int, start: int, stop: int) -> Iterator[LaneRows]:
        """The rows [start, stop) of a lane, cut at its row groups."""
        starts, groups = self._starts[lane], self._groups[lane]
        place = int(np.searchsorted(starts, start, side="right")) - 1
        while start < stop:
            end = min(stop, int(starts[place + 1]))
            if end > start:
                begin = int(starts[place])
                yield LaneRows(int(groups[place]), start - begin, end - begin)
            start, place = end, place + 1

    def reading_order(self, rank: int, world_size: int, start_step: int = 0) -> np.ndarray:
        """The row groups that a rank reads from a step on, in the order in which their first rows are needed."""
        at = self.shares(rank, world_size, start_step, start_step)[0]
        groups, needed, lanes = [], [], []
        for lane, given in zip(self.owned_lanes(rank, world_size), at, strict=True):
            starts = self._starts[lane]
            remaining = starts[1:] > given
            groups.append(self._groups[lane][remaining])
            needed.append(starts[:-1][remaining])
            lanes.append(np.full(int(remaining.sum()), lane))
        if not groups:
            return np.empty(0, dtype=np.int64)
        order = np.lexsort((np.concatenate(lanes), np.concatenate(needed)))
        return np.concatenate(groups)[order].astype(np.int64)

    def permute(self, row_group: int) -> np.ndarray:
        """The order of the rows inside a row group in this epoch, int64."""
        rows = int(self.row_group_rows[row_group])
        if self.seed is None:
            return np.arange(rows)
        return row_permutation(rows, seed=self.seed, epoch=self.epoch, row_group=row_group)
