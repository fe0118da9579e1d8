"""Read a few rows that represent a split.

Runs in a rank process; numpy only. The rows are a function of the dataset alone, not of the rank or the world size.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.feed.reader import RowGroupReader
from sparkdl.data.feed.row_memory import RowMemory

__all__ = ["sample_rows"]

# Enough to see differences between parts of the data; each row group costs a request.
ROW_GROUPS = 4


def sample_rows(dataset: Dataset, split: SplitParts, *, most: int = 64) -> list[np.ndarray]:
    """Read at most `most` rows, from row groups all over the split; values of a label come in turn.

    Returns:
        An array for each group of the layout, shape ``(rows, *group.shape)``.

    Raises DatasetError where a part is missing or damaged.
    """
    count = len(split.row_group_rows)
    chosen = sorted(set(np.linspace(0, count - 1, min(ROW_GROUPS, count)).round().astype(int).tolist()))
    memory = RowMemory(dataset, split, slots=len(chosen))
    rows_of_groups = []
    with RowGroupReader(dataset, split, chosen, memory, threads=len(chosen)) as reader:
        for row_group in chosen:
            reader.wait_for(row_group)
            start = int(memory.places[row_group])
            rows_of_groups.append(np.arange(start, start + split.row_group_rows[row_group]))
    sources = np.concatenate(rows_of_groups)
    sources = sources[_spread(_labels(dataset, memory, sources))[:most]]
    with ThreadPoolExecutor(1) as decoder:
        return [_gathered(dataset, memory, number, sources, decoder) for number in range(len(dataset.layout.groups))]


def _gathered(
    dataset: Dataset, memory: RowMemory, number: int, sources: np.ndarray, decoder: ThreadPoolExecutor | None
) -> np.ndarray:
    group = dataset.layout.groups[number]
    rows = np.empty((len(sources), *group.shape), group.dtype)
    memory.gather(number, sources, rows, decoder)
    return rows


def _labels(dataset: Dataset, memory: RowMemory, sources: np.ndarray) -> np.ndarray:
    """Return the rows' labels that are single values, ``(rows, labels)``."""
    found = []
    for number, group in enumerate(dataset.layout.groups):
        single = group.stored == "values" and (len(group.fields) > 1 or group.shape in ((), (1,)))
        if not single or not any(field.role == "label" for field in group.fields):
            continue
        rows = _gathered(dataset, memory, number, sources, None).reshape(len(sources), -1)
        found += [rows[:, column] for column, field in enumerate(group.fields) if field.role == "label"]
    return np.stack(found, axis=1) if found else np.zeros((len(sources), 1))


def _spread(labels: np.ndarray) -> np.ndarray:
    """Order rows of ``(rows, labels)`` so that each value of a label comes before any again, without neighbours."""
    rows = len(labels)
    # The rows in a fixed order without neighbours.
    order = np.random.default_rng(0).permutation(rows)
    turns = np.full(rows, rows)
    for column in labels[order].T:
        _, codes, counts = np.unique(column, return_inverse=True, return_counts=True)
        by_value = np.argsort(codes, kind="stable")
        turn = np.empty(rows, dtype=np.int64)
        turn[by_value] = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
        turns = np.minimum(turns, turn)
    return order[np.argsort(turns, kind="stable")]
