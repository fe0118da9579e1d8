"""Hold row groups in memory, in arrays from which any rows are gathered with one call.

Runs in rank processes: the reader's threads put row groups in, the feed gathers rows and frees used row groups.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from concurrent.futures import Executor

import numpy as np
import pyarrow as pa

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.feed.epoch_plan import EpochPlan, Runs

__all__ = ["Buffers", "RowMemory", "RowOrders"]

# Rows that one call decodes: enough to outweigh the call's cost, few enough to share a block among threads.
ROWS_OF_A_TASK = 16


class RowMemory:
    """Hold rows: one array for each group of the layout, shape ``(rows, *group.shape)``.

    Either every row group has a fixed slot that is never freed (`slots=None`), or there are `slots` slots of equal
    size, each used again when its row group is freed. Fields that are stored as bytes are decoded by `put` in the first
    case, and by `gather` in the second: decoded images would need many times the memory.
    """

    def __init__(self, dataset: Dataset, split: SplitParts, *, slots: int | None) -> None:
        self._layout = dataset.layout
        self._encoders = {field.key: dataset.encoder_of(field) for field in dataset.layout.stored_as_bytes}
        self._rows = np.asarray(split.row_group_rows, dtype=np.int64)
        self.slots = slots
        self._slot_rows = int(self._rows.max())
        self.places = np.full(len(self._rows), -1)
        """The row at which each row group's slot begins, int64; -1 for row groups that are not in the memory."""
        self._fixed_starts = np.cumsum(self._rows) - self._rows
        self._free = [] if slots is None else [slot * self._slot_rows for slot in reversed(range(slots))]
        self._arrays: list[np.ndarray | None] = [
            None if slots is not None and group.stored == "bytes" else np.empty((self.rows, *group.shape), group.dtype)
            for group in self._layout.groups
        ]
        # By the slot's first row: the columns of bytes that `gather` decodes, by field key.
        self._encoded: dict[int, Mapping[str, pa.Array]] = {}

    @property
    def rows(self) -> int:
        """The number of rows that the memory has room for."""
        return int(self._rows.sum()) if self.slots is None else self.slots * self._slot_rows

    @property
    def keeps_all(self) -> bool:
        """True if row groups are never freed."""
        return self.slots is None

    def reserve(self, row_group: int) -> int | None:
        """Return the first row of a slot for a row group, or None if all slots are in use.

        A row group may have two slots: one that is used up in this epoch, one that is read ahead for the next.
        """
        if self.keeps_all:
            return int(self._fixed_starts[row_group])
        return self._free.pop() if self._free else None

    def put(self, start: int, records: np.ndarray, encoded: Mapping[str, pa.Array]) -> None:
        """Copy a row group to the slot that begins at `start`. Several threads may put at once, to different slots."""
        by_group = records.view(self._layout.group_dtype)
        for number, (group, array) in enumerate(zip(self._layout.groups, self._arrays, strict=True)):
            if array is None:
                continue
            key = group.fields[0].key
            values = by_group[str(number)] if group.stored == "values" else self._encoders[key].encode(encoded[key])
            array[start : start + len(records)] = values
        if not self.keeps_all:
            self._encoded[start] = encoded

    def free(self, row_groups: np.ndarray) -> None:
        """Free the slots of row groups that are used up; do nothing if the memory keeps all."""
        if self.keeps_all:
            return
        for row_group in row_groups:
            start = int(self.places[row_group])
            self._free.append(start)
            self._encoded.pop(start, None)
            self.places[row_group] = -1

    def add_slots(self, count: int) -> None:
        """Make room for more row groups. No thread may call `put` meanwhile."""
        assert self.slots is not None
        first = self.slots * self._slot_rows
        more = count * self._slot_rows
        self._arrays = [
            None if array is None else np.concatenate([array, np.empty((more, *array.shape[1:]), array.dtype)])
            for array in self._arrays
        ]
        self._free += range(first, first + more, self._slot_rows)
        self.slots += count

    def gather(self, group: int, sources: np.ndarray, out: np.ndarray, executor: Executor | None) -> None:
        """Copy rows into `out`, in the order of `sources`.

        Args:
            group: index into the layout's groups.
            sources: rows of this memory, int64, shape ``(n,)``.
            out: shape ``(n, *group.shape)``.
            executor: decodes fields that are stored as bytes.
        """
        array = self._arrays[group]
        if array is not None:
            # Any mode but "raise" fills `out` itself instead of a copy; all sources are in range.
            array.take(sources, axis=0, out=out, mode="clip")
            return
        assert executor is not None
        key = self._layout.groups[group].fields[0].key

        def decode(start: int) -> None:
            some = sources[start : start + ROWS_OF_A_TASK]
            slots = some - some % self._slot_rows
            encoded = [
                self._encoded[s][key][r].as_py() for s, r in zip(slots.tolist(), (some - slots).tolist(), strict=True)
            ]
            out[start : start + len(some)] = self._encoders[key].encode(pa.array(encoded, type=pa.binary()))

        for _ in executor.map(decode, range(0, len(sources), ROWS_OF_A_TASK)):
            pass


class RowOrders:
    """Index the rows of the open row groups in a memory, in the order of one epoch."""

    def __init__(self, plan: EpochPlan, memory: RowMemory) -> None:
        self._plan = plan
        self._memory = memory
        self._sources = np.empty(memory.rows, dtype=np.int64)

    def open(self, row_group: int) -> None:
        """Permute a row group that is in the memory."""
        if len(self._sources) < self._memory.rows:
            self._sources = np.resize(self._sources, self._memory.rows)
        start = self._memory.places[row_group]
        order = self._plan.permute(row_group)
        np.add(order, start, out=self._sources[start : start + len(order)])

    def rows(self, runs: Runs) -> np.ndarray:
        """Return the rows of runs, one run after the other, as indices into the memory, int64."""
        lengths = runs.stops - runs.starts
        begins = self._memory.places[runs.row_groups] + runs.starts - (np.cumsum(lengths) - lengths)
        return self._sources.take(np.repeat(begins, lengths) + np.arange(int(lengths.sum())))


# TensorFlow takes over an array without a copy if its address is a multiple of this (EIGEN_MAX_ALIGN_BYTES).
ALIGNMENT = 64


class Buffers:
    """Lend memory for arrays, and use it again as soon as nobody holds an array in it.

    Fresh pages are expensive: filling a new array took up to 20 times as long as filling a used one on the machines
    where this was measured. TensorFlow holds an array that it took over without a copy for as long as it needs the
    array; Python's count of references shows when it ends.
    """

    # References to a buffer that nobody uses: from the list, from the loop, and from the call that counts.
    UNUSED = 3

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []

    def take(self, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array, not filled, that begins at a multiple of ALIGNMENT."""
        size = math.prod(shape) * dtype.itemsize
        for buffer in self._buffers:
            if len(buffer) >= size + ALIGNMENT and sys.getrefcount(buffer) == self.UNUSED:
                break
        else:
            buffer = np.empty(size + ALIGNMENT, dtype=np.uint8)
            self._buffers.append(buffer)
        offset = -buffer.ctypes.data % ALIGNMENT
        return buffer[offset : offset + size].view(dtype).reshape(shape)
