"""Hold row groups in memory, in arrays from which any rows are gathered with one call.

Runs in rank processes: the reader's threads put row groups in, the feed gathers rows and frees what it has used up.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor

import numpy as np
import pyarrow as pa

from sparkdl.data.features import Encoder
from sparkdl.data.feed.epoch_plan import EpochPlan, Runs
from sparkdl.data.layout import RecordLayout

__all__ = ["Buffers", "RowMemory", "RowOrders"]

# Rows that one task decodes: enough to outweigh a task's cost, few enough to share a block among threads.
ROWS_OF_A_TASK = 16


class RowMemory:
    """Memory for rows: one array for each group of the layout, shape ``(rows, *group.shape)``.

    Either every row group has a place of its own for ever (`slots=None`), or there are `slots` places of equal size,
    each used again when its row group is freed. What is stored as bytes is decoded when it is put in, in the first
    case, and when it is gathered, in the second: decoded images would need many times the memory.

    Args:
        row_group_rows: rows of each row group of the split.
        encoders: by field key, of the fields that are stored as bytes.
    """

    def __init__(
        self,
        layout: RecordLayout,
        encoders: Mapping[str, Encoder],
        row_group_rows: Sequence[int],
        *,
        slots: int | None,
    ) -> None:
        self._layout = layout
        self._encoders = encoders
        self._rows = np.asarray(row_group_rows, dtype=np.int64)
        self.slots = slots
        self._slot_rows = int(self._rows.max())
        self.places = np.full(len(self._rows), -1)
        """Where each row group begins, in rows, int64; -1 for those that are not here."""
        self._own_places = np.cumsum(self._rows) - self._rows
        self._free = [] if slots is None else [slot * self._slot_rows for slot in reversed(range(slots))]
        self._arrays: list[np.ndarray | None] = [
            None if slots is not None and group.stored == "bytes" else np.empty((self.rows, *group.shape), group.dtype)
            for group in layout.groups
        ]
        # By place: the columns of bytes that are decoded when they are gathered, by field key.
        self._encoded: dict[int, Mapping[str, pa.Array]] = {}

    @property
    def rows(self) -> int:
        """The rows that there is room for."""
        return int(self._rows.sum()) if self.slots is None else self.slots * self._slot_rows

    @property
    def keeps_all(self) -> bool:
        """Whether a row group that was put in stays."""
        return self.slots is None

    def reserve(self, row_group: int) -> int | None:
        """A place for a row group, or None if none is free now.

        A row group may have two: one that is used up in this epoch, one that is read ahead for the next.
        """
        if self.keeps_all:
            return int(self._own_places[row_group])
        return self._free.pop() if self._free else None

    def put(self, place: int, records: np.ndarray, encoded: Mapping[str, pa.Array]) -> None:
        """Copy a row group to a place. Called from several threads at once, for different places."""
        by_group = records.view(self._layout.group_dtype)
        for number, (group, array) in enumerate(zip(self._layout.groups, self._arrays, strict=True)):
            if array is None:
                continue
            key = group.fields[0].key
            values = by_group[str(number)] if group.stored == "values" else self._encoders[key].encode(encoded[key])
            array[place : place + len(records)] = values
        if not self.keeps_all:
            self._encoded[place] = encoded

    def free(self, row_groups: np.ndarray) -> None:
        """The rows of these row groups are not needed any more; nothing happens where all are kept."""
        if self.keeps_all:
            return
        for row_group in row_groups:
            place = int(self.places[row_group])
            self._free.append(place)
            self._encoded.pop(place, None)
            self.places[row_group] = -1

    def add_slots(self, count: int) -> None:
        """Make room for more row groups. No thread may be putting one in meanwhile."""
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
            executor: decodes what is stored as bytes.
        """
        array = self._arrays[group]
        if array is not None:
            # Any mode but "raise" fills `out` itself instead of a copy; no source is out of range.
            array.take(sources, axis=0, out=out, mode="clip")
            return
        assert executor is not None
        key = self._layout.groups[group].fields[0].key

        def decode(start: int) -> None:
            some = sources[start : start + ROWS_OF_A_TASK]
            places = some - some % self._slot_rows
            encoded = [
                self._encoded[p][key][r].as_py() for p, r in zip(places.tolist(), (some - places).tolist(), strict=True)
            ]
            out[start : start + len(some)] = self._encoders[key].encode(pa.array(encoded, type=pa.binary()))

        for _ in executor.map(decode, range(0, len(sources), ROWS_OF_A_TASK)):
            pass


class RowOrders:
    """Where the rows of the open row groups lie in a memory, in the order of one epoch."""

    def __init__(self, plan: EpochPlan, memory: RowMemory) -> None:
        self._plan = plan
        self._memory = memory
        self._sources = np.empty(memory.rows, dtype=np.int64)

    def open(self, row_group: int) -> None:
        """Permute a row group that is in the memory."""
        if len(self._sources) < self._memory.rows:
            self._sources = np.resize(self._sources, self._memory.rows)
        place = self._memory.places[row_group]
        order = self._plan.permute(row_group)
        np.add(order, place, out=self._sources[place : place + len(order)])

    def rows(self, runs: Runs) -> np.ndarray:
        """The rows of these runs, one run after the other: places in the memory, int64."""
        lengths = runs.stops - runs.starts
        begins = self._memory.places[runs.row_groups] + runs.starts - (np.cumsum(lengths) - lengths)
        return self._sources.take(np.repeat(begins, lengths) + np.arange(int(lengths.sum())))


# TensorFlow takes over an array without a copy if it begins at such an address (EIGEN_MAX_ALIGN_BYTES).
ALIGNMENT = 64


class Buffers:
    """Memory that is used again as soon as nobody holds an array in it.

    Fresh pages cost: filling a new array took up to 20 times as long as filling a used one on the machines where this
    was measured. TensorFlow holds the arrays that it took over without a copy for as long as it needs them; Python's
    count of references tells.
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
