"""Tell whether ranks still train the same model.

Pure; used in ranks. All ranks add the same sums to the same weights; what some of them do alone, a callback that sets
the learning rate, would go unseen otherwise: each rank would train a model of its own, and one of them be saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["difference"]

# Of a norm. Processors of several kinds round differently; another learning rate makes more than that at once.
TOLERANCE = 1e-3


def difference(values: np.ndarray, names: Sequence[str]) -> str | None:
    """What differs between ranks, and which ranks, or None.

    Args:
        values: float64 ``(ranks, values)``; where all are NaN or infinite they are the same.
        names: of the values.
    """
    first = values[0]
    same = np.isclose(values, first, rtol=TOLERANCE, atol=0.0, equal_nan=True)
    if same.all():
        return None
    place = int(np.flatnonzero(~same.all(axis=0))[0])
    rank = int(np.flatnonzero(~same[:, place])[0])
    return f"{names[place]} is {first[place]:.6g} on rank 0 and {values[rank, place]:.6g} on rank {rank}"
