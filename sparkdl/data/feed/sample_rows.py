"""Read a few rows of a split that show what all of it is like.

Runs in a rank process; numpy only. The rows are a function of the dataset alone, not of the rank or the world size.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sparkdl.data.dataset import Dataset, SplitParts
from sparkdl.data.feed.reader import RowGroupReader
from sparkdl.data.feed.row_memory import RowMemory

__all__ = ["sample_rows"]

# Enough to find what one part of the data has and another has not; a row group more costs a request.
ROW_GROUPS = 4


def sample_rows(dataset: Dataset, split: SplitParts, *, most: int = 64) -> list[np.ndarray]:
    """Read at most so many rows, of row groups from all over the split; of each value of a label some.

    Returns:
        An array for each group of the layout, shape ``(rows, *group.shape)``.

    Raises DatasetError where a part is missing or damaged.
    """
    count = len(split.row_group_rows)
    chosen = sorted(set(np.linspace(0, count - 1, min(ROW_GROUPS, count)).round().astype(int).tolist()))
    encoders = {field.key: dataset.encoder_of(field) for field in dataset.layout.stored_as_bytes}
    memory = RowMemory(dataset.layout, encoders, split.row_group_rows, slots=len(chosen))
    places = []
    with RowGroupReader(dataset, split, chosen, memory, threads=len(chosen)) as reader:
        for row_group in chosen:
            reader.wait_for(row_group)
            place = int(memory.places[row_group])
            places.append(np.arange(place, place + split.row_group_rows[row_group]))
    sources = np.concatenate(places)
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
    """The rows' labels that are single values, ``(rows, labels)``."""
    found = []
    for number, group in enumerate(dataset.layout.groups):
        single = group.stored == "values" and (len(group.fields) > 1 or group.shape in ((), (1,)))
        if not single or not any(field.role == "label" for field in group.fields):
            continue
        rows = _gathered(dataset, memory, number, sources, None).reshape(len(sources), -1)
        found += [rows[:, place] for place, field in enumerate(group.fields) if field.role == "label"]
    return np.stack(found, axis=1) if found else np.zeros((len(sources), 1))


def _spread(labels: np.ndarray) -> np.ndarray:
    """An order of rows ``(rows,)`` in which each value of a label comes before any comes again, and rows lie apart.

    Args:
        labels: shape ``(rows, labels)``.
    """
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
