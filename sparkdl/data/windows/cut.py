"""Cut sorted rows of time series into windows.

Runs in Spark workers, inside the `mapInArrow` of `windows`; batch by batch, without a Python object per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.data.features.columns import to_arrow
from sparkdl.errors import SchemaError, shown

__all__ = ["WindowPlan", "cut_windows"]

# Windows overlap, so they are many times larger than their rows: a batch of windows stays below this.
BATCH_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowPlan:
    """Hold all that a task needs to cut windows.

    Attributes:
        columns, targets: the columns of `past` and of `horizon`; a bare one is a single column, without a last axis.
        every: the distance of two steps, or None for any: microseconds for timestamps, days for dates.
    """

    key: tuple[str, ...]
    time: str
    columns: tuple[str, ...]
    columns_dtype: np.dtype
    columns_bare: bool
    targets: tuple[str, ...]
    targets_dtype: np.dtype
    targets_bare: bool
    past: int
    horizon: int
    every: int | None

    @property
    def span(self) -> int:
        """The number of rows of a window."""
        return self.past + self.horizon


def cut_windows(batches: Iterable[pa.RecordBatch], plan: WindowPlan) -> Iterator[pa.RecordBatch]:
    """Cut windows from rows that come sorted by key and time, in any division into batches.

    Raises SchemaError for null keys and times, times that come twice, and nulls in whole numbers.
    """
    # The last rows, which may begin windows that end in the next batch; at least one row, to see times that come twice.
    carry: pa.Table | None = None
    for batch in batches:
        if not batch.num_rows:
            continue
        _check_nulls(batch, plan)
        rows = pa.Table.from_batches([batch])
        # Windows that begin in the first `done` rows have been cut before.
        done = 0
        if carry is not None:
            done = max(0, len(carry) - plan.span + 1)
            rows = pa.concat_tables([carry, rows])
        rows = rows.combine_chunks()
        yield from _cut(rows, plan, done)
        carry = rows.slice(max(0, len(rows) - max(1, plan.span - 1)))


def _cut(rows: pa.Table, plan: WindowPlan, done: int) -> Iterator[pa.RecordBatch]:
    """Cut the windows of one table of sorted rows that begin at row `done` or later."""
    # The run of consecutive steps that each row belongs to: a new series, or a missing step, begins another run.
    run = np.concatenate(([0], np.cumsum(_breaks(rows, plan))))
    ends = np.arange(done + plan.span - 1, len(rows))
    starts = ends - plan.span + 1
    starts = starts[run[starts] == run[ends]]
    inputs = _matrix(rows, plan.columns, plan.columns_dtype)
    targets = _matrix(rows, plan.targets, plan.targets_dtype)
    bytes_each = plan.past * inputs[0].nbytes + plan.horizon * targets[0].nbytes
    most = max(1, BATCH_BYTES // bytes_each)
    for at in range(0, len(starts), most):
        yield _windows_from(rows, plan, inputs, targets, starts[at : at + most])


def _windows_from(
    rows: pa.Table, plan: WindowPlan, inputs: np.ndarray, targets: np.ndarray, starts: np.ndarray
) -> pa.RecordBatch:
    """Make the windows that begin at the rows `starts`: int64, shape ``(windows,)``."""
    named_by = pa.array(starts + plan.past - (0 if plan.horizon else 1))
    columns = {name: rows.column(name).take(named_by).combine_chunks() for name in (*plan.key, plan.time)}
    if plan.horizon:
        last = pa.array(starts + plan.span - 1)
        columns[f"{plan.time}_last"] = rows.column(plan.time).take(last).combine_chunks()
    columns["past"] = _arrays(inputs, starts, plan.past, plan.columns_bare)
    if plan.horizon:
        columns["horizon"] = _arrays(targets, starts + plan.past, plan.horizon, plan.targets_bare)
    return pa.RecordBatch.from_pydict(columns)


def _arrays(matrix: np.ndarray, starts: np.ndarray, length: int, bare: bool) -> pa.Array:
    """Take `length` rows of the matrix from each start on, as nested lists: (windows, length, columns)."""
    steps = matrix[starts[:, None] + np.arange(length)]
    return to_arrow(steps[:, :, 0] if bare else steps)


def _matrix(rows: pa.Table, names: Sequence[str], dtype: np.dtype) -> np.ndarray:
    """Put columns side by side, shape ``(rows, columns)``; null is NaN."""
    type_ = pa.from_numpy_dtype(dtype)
    return np.stack([rows.column(name).cast(type_, safe=False).to_numpy() for name in names], axis=1)


def _breaks(rows: pa.Table, plan: WindowPlan) -> np.ndarray:
    """Tell for each row but the first whether it does not continue the row before: bool, shape ``(rows - 1,)``."""
    times = rows.column(plan.time)
    # Whole numbers, int64, in the unit of `WindowPlan.every`.
    ticks = (times.cast(pa.int32()) if pa.types.is_date(times.type) else times).cast(pa.int64()).to_numpy()
    new_series = np.zeros(len(rows) - 1, dtype=bool)
    for name in plan.key:
        column = rows.column(name)
        new_series |= pc.not_equal(column.slice(1), column.slice(0, len(rows) - 1)).to_numpy()
    distance = np.diff(ticks)
    twice = ~new_series & (distance == 0)
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        where = f" for {_key_text(rows, plan, row)}" if plan.key else ""
        value = shown(str(times[row].as_py()))
        raise SchemaError(f"column {plan.time!r}: {value} comes twice{where}; a series has each time once")
    return new_series if plan.every is None else new_series | (distance != plan.every)


def _key_text(rows: pa.Table | pa.RecordBatch, plan: WindowPlan, row: int) -> str:
    return ", ".join(f"{name!r} {shown(rows.column(name)[row].as_py())}" for name in plan.key)


def _check_nulls(batch: pa.RecordBatch, plan: WindowPlan) -> None:
    """Raise SchemaError for a null key or time, and for a null in a column that would make NaN of whole numbers."""
    whole: list[str] = []
    for names, dtype in ((plan.columns, plan.columns_dtype), (plan.targets, plan.targets_dtype)):
        whole += names if dtype.kind != "f" else ()
    for name in (*plan.key, plan.time, *whole):
        column = batch.column(name)
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            time = shown(str(batch.column(plan.time)[row].as_py()))
            where = f"; time {time}" + (f", {_key_text(batch, plan, row)}" if plan.key else "")
            raise SchemaError(f"column {name!r}: null in a series{where}; drop such rows, or fill them")
