"""Assemble a rank's rows of every step from row groups, in large blocks.

Runs in rank processes; numpy only. `tensors.py` hands the blocks to tf.data.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.feed.budget import FeedMemory, feed_memory
from sparkdl.data.feed.epoch_plan import EpochPlan
from sparkdl.data.feed.local_cache import LocalCache
from sparkdl.data.feed.reader import RowGroupReader
from sparkdl.data.feed.row_memory import Buffers, RowMemory, RowOrders
from sparkdl.data.reader_config import ReaderConfig
from sparkdl.errors import ConfigError, DatasetError

__all__ = ["Block", "Feed"]


@dataclass(frozen=True, slots=True)
class Block:
    """Hold a rank's rows of some consecutive steps.

    Attributes:
        arrays: one for each group of the layout, shape ``(rows of all steps, *group.shape)``, the steps' rows one
            after the other; then a row of zeros if a step does not have rows.
        starts, stops: int32, shape ``(steps,)``: each step is fed the rows [start, stop): a padding row if the step
            does not have rows.
        rows: int32, shape ``(steps,)``, the number of rows that count: 0 for a padding row.
        global_rows: int32, shape ``(steps,)``, the number of rows of each step over all ranks.
        first_step: the number of the block's first step, counted from the begin of the first epoch.
        seeds: int64, shape ``(rows of all steps, 2)``, a seed for each row of `arrays`; None unless they are asked for.
    """

    arrays: tuple[np.ndarray, ...]
    starts: np.ndarray
    stops: np.ndarray
    rows: np.ndarray
    global_rows: np.ndarray
    first_step: int
    seeds: np.ndarray | None = None


class Feed:
    """Make the blocks of one rank over one split.

    Args:
        seed: of the epochs' order; None keeps the stored order (validation, evaluation).
        reader: threads and memory.
        cores: the rank's cores: the number of threads that read, unless `reader` gives one.

    Raises:
        ConfigError: the memory that `reader` allows is too small for the order of an epoch.
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
        reader: ReaderConfig | None = None,
        cores: int = 1,
    ) -> None:
        self._dataset = dataset
        self._split = split
        self._rank = rank
        self._world_size = world_size
        self._batch = global_batch_size
        self._seed = seed
        self._reader = reader or ReaderConfig()
        self.cores = cores
        self.memory: FeedMemory = feed_memory(
            dataset, split, self._reader, cores=cores, world_size=world_size, global_batch_size=global_batch_size
        )
        self._kept: RowMemory | None = None
        self._spare: RowMemory | None = None
        self._cache = LocalCache() if self.memory.cache else None

    def plan(self, epoch: int) -> EpochPlan:
        """Return the order of an epoch."""
        return EpochPlan(
            self._split.row_group_rows,
            lanes=self._dataset.lanes,
            global_batch_size=self._batch,
            seed=self._seed,
            epoch=epoch,
        )

    def blocks(
        self, epochs: Sequence[int], *, start_step: int = 0, seeds: bool = False
    ) -> Generator[Block, None, None]:
        """Yield the blocks of epochs, one epoch after the other; a block never crosses an epoch's end.

        Args:
            start_step: the step at which the first of the epochs begins (to go on after an interruption).
            seeds: whether each row gets a seed; not for the stored order, which has no seed.

        Raises:
            ConfigError: `start_step` lies beyond the epoch.
            DatasetError: the reader gives another row group than the plan awaits.
        """
        steps = self.plan(epochs[0]).steps
        if not 0 <= start_step <= steps:
            raise ConfigError(f"start_step={start_step} must be from 0 to {steps}, the steps of an epoch")
        memory = self._row_memory()
        starts = [start_step, *[0] * (len(epochs) - 1)]
        with ExitStack() as stack:
            reader = stack.enter_context(
                RowGroupReader(
                    self._dataset,
                    self._split,
                    self._order(epochs, starts, memory),
                    memory,
                    threads=self.memory.threads,
                    cache=self._cache,
                )
            )
            decoder: Executor | None = None
            if self._dataset.layout.stored_as_bytes and not memory.keeps_all:
                decoder = stack.enter_context(ThreadPoolExecutor(self.cores, thread_name_prefix="sparkdl-decoder"))
            buffers = Buffers()
            for epoch, start in zip(epochs, starts, strict=True):
                yield from self._epoch(self.plan(epoch), start, reader, memory, buffers, decoder, seeds)
        if not memory.keeps_all:
            self._spare = memory

    def _row_memory(self) -> RowMemory:
        """Return a pass's memory: the one that keeps the split, or that of a pass that has ended, or a new one."""
        if self._kept is not None:
            return self._kept
        if self._spare is not None:
            memory, self._spare = self._spare, None
            return memory
        memory = RowMemory(self._dataset, self._split, slots=self.memory.slots)
        if memory.keeps_all:
            self._kept = memory
        return memory

    def _order(self, epochs: Sequence[int], starts: Sequence[int], memory: RowMemory) -> Iterator[int]:
        """Yield the row groups to read: those of every epoch or, for a memory that keeps all, those not read yet."""
        asked = memory.places >= 0
        for epoch, start in zip(epochs, starts, strict=True):
            if memory.keeps_all and asked.all():
                # Looking through all other epochs for missing row groups would delay the first step.
                return
            for row_group in self.plan(epoch).reading_order(self._rank, self._world_size, start).tolist():
                if not (memory.keeps_all and asked[row_group]):
                    asked[row_group] = True
                    yield row_group

    def _epoch(
        self,
        plan: EpochPlan,
        start_step: int,
        reader: RowGroupReader,
        memory: RowMemory,
        buffers: Buffers,
        decoder: Executor | None,
        with_seeds: bool,
    ) -> Iterator[Block]:
        lanes = plan.owned_lanes(self._rank, self._world_size)
        awaited = plan.reading_order(self._rank, self._world_size, start_step)
        # The number of row groups that were used up before start_step.
        passed = self._begun(plan, plan.steps) - len(awaited)
        orders = RowOrders(plan, memory)
        opened = freed = 0
        first = start_step
        while first < plan.steps:
            last = self._block_end(plan, first, (memory.slots or len(awaited)) + passed + freed)
            needed = self._begun(plan, last) - passed
            if memory.slots is not None and needed - freed > memory.slots:
                reader.add_slots(needed - freed - memory.slots)
            for row_group in awaited[opened:needed].tolist():
                reader.wait_for(row_group)
                orders.open(row_group)
            opened = needed
            shares = plan.shares(self._rank, self._world_size, first, last)
            runs = plan.runs(lanes, shares[0], shares[-1])
            targets, starts, rows = _step_order(shares)
            sources = np.empty(len(targets), dtype=np.int64)
            sources[targets] = orders.rows(runs)
            is_empty = rows == 0
            seeds = None
            if with_seeds:
                seeds = np.zeros((len(targets) + bool(is_empty.any()), 2), dtype=np.int64)
                seeds[targets] = plan.row_seeds(runs)
            starts = np.where(is_empty, len(sources), starts)
            borders = np.minimum(np.arange(first, last + 1) * plan.global_batch_size, plan.rows)
            block = Block(
                self._arrays(sources, memory, buffers, decoder, padding=bool(is_empty.any())),
                starts=starts.astype(np.int32),
                stops=(starts + np.maximum(rows, 1)).astype(np.int32),
                rows=rows.astype(np.int32),
                global_rows=np.diff(borders).astype(np.int32),
                first_step=plan.epoch * plan.steps + first,
                seeds=seeds,
            )
            used_up = runs.row_groups[runs.stops == plan.row_group_rows[runs.row_groups]]
            memory.free(used_up)
            reader.read_ahead()
            freed += len(used_up)
            first = last
            yield block
            del block  # its buffers are free again
        if opened != len(awaited) or freed != len(awaited):
            raise DatasetError("the epoch ended before all of its row groups were read; this is an error in sparkdl")

    def _begun(self, plan: EpochPlan, step: int) -> int:
        return plan.row_groups_begun(self._rank, self._world_size, step)

    def _block_end(self, plan: EpochPlan, first: int, most_begun: int) -> int:
        """Return the step after a block's last: `block_steps` steps on if their row groups fit, and at least one."""
        last = min(first + self.memory.block_steps, plan.steps)
        while last > first + 1 and self._begun(plan, last) > most_begun:
            last = first + (last - first) // 2
        return last

    def _arrays(
        self, sources: np.ndarray, memory: RowMemory, buffers: Buffers, decoder: Executor | None, *, padding: bool
    ) -> tuple[np.ndarray, ...]:
        """Gather a block's rows from the memory: an array a group, with a row of zeros at the end if `padding`."""
        arrays = []
        for number, group in enumerate(self._dataset.layout.groups):
            array = buffers.take(group.dtype, (len(sources) + padding, *group.shape))
            memory.gather(number, sources, array[: len(sources)], decoder)
            array[len(sources) :] = 0
            arrays.append(array)
        return tuple(arrays)


def _step_order(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map rows that are taken lane after lane to their rows in a block, step after step.

    Args:
        shares: int64, shape ``(steps + 1, lanes)``, as `EpochPlan.shares` gives it.

    Returns:
        The block's row of each row that is taken, int64, shape ``(rows,)``; each step's first row and number of rows,
        int64, shape ``(steps,)``. Within a step, rows lie lane after lane.
    """
    counts = np.diff(shares, axis=0)  # (steps, lanes)
    rows = counts.sum(axis=1)
    # Where the rows of each (step, lane) begin in the block, and where they begin among the rows as they are taken.
    begins = (np.cumsum(counts.reshape(-1)) - counts.reshape(-1)).reshape(counts.shape)
    by_lane = counts.T.reshape(-1)
    taken = np.cumsum(by_lane) - by_lane
    targets = np.repeat(begins.T.reshape(-1) - taken, by_lane) + np.arange(int(rows.sum()))
    return targets, np.cumsum(rows) - rows, rows
