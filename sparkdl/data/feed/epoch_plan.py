"""Order the rows of an epoch, and assign the rows of each step to ranks.

Pure numpy; runs in every rank at each epoch, and on the driver for checks. The order is a function of (row groups,
seed, epoch, lanes) alone: neither workers nor threads nor machines change what the model sees.

The row groups, shuffled by (seed, epoch), shorter ones last, are dealt into lanes like cards. The epoch interleaves the
lanes row by row: round after round, every lane that still has rows gives one. Step k trains on positions
[k·B, (k+1)·B). Rank r of W owns the lanes r, r + W, r + 2W, …, so that it opens only its own row groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["EpochPlan", "Runs", "row_permutation"]

# Domains of the random streams, so that no two uses of one seed are the same stream.
_ORDER_OF_ROW_GROUPS = 1
_ORDER_OF_ROWS = 2
_SEEDS_OF_ROWS = 3


def row_permutation(rows: int, *, seed: int, epoch: int, row_group: int) -> np.ndarray:
    """Permute the rows of a row group for an epoch: a permutation of ``range(rows)``, int64."""
    return np.random.default_rng((_ORDER_OF_ROWS, seed, epoch, row_group)).permutation(rows)


@dataclass(frozen=True, slots=True)
class Runs:
    """Hold runs of consecutive rows, each within one row group.

    Attributes:
        row_groups: indices into the split's row groups, int64, shape ``(runs,)``.
        starts, stops: positions in the permuted row group, int64, shape ``(runs,)``.
    """

    row_groups: np.ndarray
    starts: np.ndarray
    stops: np.ndarray


class EpochPlan:
    """Hold the order of one epoch of one split.

    Args:
        row_group_rows: rows of each row group of the split, in manifest order. Shape ``(row groups,)``.
        lanes: the number of sequences to interleave, from the manifest.
        global_batch_size: the rows of a step over all ranks.
        seed, epoch: choose the permutation; a seed of None keeps the stored order (validation, evaluation).
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
            # Parts end with shorter row groups: dealt last, they cannot make one rank's share larger by chance.
            order = order[np.argsort(-self.row_group_rows[order], kind="stable")]
        # Row groups lane after lane: lane l holds order[l], order[l + lanes], …, which begin at these rows of the lane.
        dealt = [order[lane::lanes] for lane in range(lanes)]
        self._groups = np.concatenate(dealt)
        self._lane_of = np.repeat(np.arange(lanes), [len(groups) for groups in dealt])
        ends = [np.cumsum(self.row_group_rows[groups]) for groups in dealt]
        self._ends = np.concatenate(ends)
        self._begins = self._ends - self.row_group_rows[self._groups]
        self.lane_rows = np.array([end[-1] if len(end) else 0 for end in ends], dtype=np.int64)
        self.rows = int(self.lane_rows.sum())
        # (lane, row of the lane) as one number that grows along the list, for one binary search over all lanes.
        self._stride = int(self.lane_rows.max(initial=0)) + 1
        self._keys = self._lane_of * self._stride + self._begins
        # The rounds at which lanes run out, so that fewer lanes are active from there on.
        by_length = np.sort(self.lane_rows)
        # stages: distinct lengths; between two of them the same lanes are active in every round.
        lengths = np.unique(np.concatenate(([0], by_length)))
        self._stage_round = lengths[:-1]
        self._stage_active = self.lanes - np.searchsorted(by_length, self._stage_round, side="right")
        sizes = np.diff(lengths) * self._stage_active
        self._stage_position = np.concatenate(([0], np.cumsum(sizes)))[:-1].astype(np.int64)

    @property
    def steps(self) -> int:
        """The number of steps of the epoch, the same on every rank."""
        return -(-self.rows // self.global_batch_size)

    def counts(self, positions: np.ndarray) -> np.ndarray:
        """Count the rows that each lane has given before each position of the epoch.

        Args:
            positions: int64, shape ``(n,)``, each from 0 to `rows`.

        Returns:
            int64, shape ``(n, lanes)``; each row sums to its position.
        """
        stage = np.maximum(np.searchsorted(self._stage_position, positions, side="right") - 1, 0)
        active = np.maximum(self._stage_active[stage], 1) if len(self._stage_active) else np.ones_like(positions)
        base = self._stage_round[stage] if len(self._stage_round) else np.zeros_like(positions)
        offset = positions - (self._stage_position[stage] if len(self._stage_position) else 0)
        full_rounds, rest = base + offset // active, offset % active
        # The lanes of a round give in lane order: the first `rest` of the active ones have given one row more.
        is_active = self.lane_rows[None, :] > base[:, None]
        number = np.cumsum(is_active, axis=1) - 1
        extra = is_active & (number < rest[:, None])
        return np.minimum(self.lane_rows[None, :], full_rounds[:, None]) + extra

    def owned_lanes(self, rank: int, world_size: int) -> np.ndarray:
        """Return the lanes of a rank, int64."""
        return np.arange(rank, self.lanes, world_size)

    def shares(self, rank: int, world_size: int, start_step: int, stop_step: int) -> np.ndarray:
        """Count the rows that each owned lane has given at the steps' borders.

        Returns:
            int64, shape ``(stop_step - start_step + 1, owned lanes)``: lane i gives step start_step + k the rows
            [shares[k, i], shares[k + 1, i]) of the lane.
        """
        borders = np.minimum(np.arange(start_step, stop_step + 1) * self.global_batch_size, self.rows)
        return self.counts(borders)[:, self.owned_lanes(rank, world_size)]

    def step_rows(self, rank: int, world_size: int, start_step: int, stop_step: int) -> np.ndarray:
        """Count the rows of a rank in each of the steps, int64, shape ``(stop_step - start_step,)``."""
        return np.diff(self.shares(rank, world_size, start_step, stop_step).sum(axis=1))

    def runs(self, lanes: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> Runs:
        """Cut the rows [starts[i], stops[i]) of lane lanes[i] at its row groups; lane after lane.

        Every argument is int64 of shape ``(lanes asked for,)``.
        """
        first = np.searchsorted(self._keys, lanes * self._stride + starts, side="right") - 1
        behind = np.searchsorted(self._keys, lanes * self._stride + stops, side="left")
        counts = np.where(stops > starts, behind - first, 0)
        # asked: the index in `lanes` of each run; index: that of its row group in the list of all lanes.
        asked = np.repeat(np.arange(len(lanes)), counts)
        index = np.arange(len(asked)) - np.repeat(np.cumsum(counts) - counts, counts) + first[asked]
        begins = self._begins[index]
        return Runs(
            self._groups[index],
            np.maximum(starts[asked], begins) - begins,
            np.minimum(stops[asked], self._ends[index]) - begins,
        )

    def row_seeds(self, runs: Runs) -> np.ndarray:
        """Return a seed for each row of runs, one run after the other: int64, shape ``(rows, 2)``.

        The first number is drawn by (seed, epoch), the second one is the row's own in the epoch, so that the seed of a
        row depends on nothing but the order of the epoch: not on steps, ranks, or the step that a run goes on from.
        """
        assert self.seed is not None
        begins = np.cumsum(self.row_group_rows) - self.row_group_rows
        lengths = runs.stops - runs.starts
        rows = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows += np.repeat(begins[runs.row_groups] + runs.starts, lengths)
        word = np.random.default_rng((_SEEDS_OF_ROWS, self.seed, self.epoch)).integers(2**63, dtype=np.int64)
        return np.stack([np.full_like(rows, word), rows], axis=1)

    def reading_order(self, rank: int, world_size: int, start_step: int = 0) -> np.ndarray:
        """Return the row groups that a rank reads from a step on, in the order in which their first rows are needed."""
        given = self.shares(rank, world_size, start_step, start_step)[0]
        # The rows that each lane has given; a lane of another rank counts as finished.
        done = np.full(self.lanes, self._stride)
        done[self.owned_lanes(rank, world_size)] = given
        left = np.flatnonzero(self._ends > done[self._lane_of])
        needed = np.maximum(self._begins, done[self._lane_of])[left]
        order = np.lexsort((self._lane_of[left], needed))
        return self._groups[left[order]]

    def row_groups_begun(self, rank: int, world_size: int, step: int) -> int:
        """Count the row groups of `reading_order(rank, world_size)` that have given a row before a step."""
        lanes = self.owned_lanes(rank, world_size)
        given = self.shares(rank, world_size, step, step)[0]
        behind = np.searchsorted(self._keys, lanes * self._stride + given, side="left")
        first = np.searchsorted(self._keys, lanes * self._stride, side="left")
        return int((behind - first).sum())

    def permute(self, row_group: int) -> np.ndarray:
        """Return the order of the rows inside a row group in this epoch, int64."""
        rows = int(self.row_group_rows[row_group])
        if self.seed is None:
            return np.arange(rows)
        return row_permutation(rows, seed=self.seed, epoch=self.epoch, row_group=row_group)
