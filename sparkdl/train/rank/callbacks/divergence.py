"""Tell whether ranks still train the same model.

Pure; used in ranks. All ranks add the same sums to the same weights. Without this check a change on some ranks only (a
callback that sets the learning rate) would go unnoticed: each rank would train another model, and one would be saved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["difference"]

# Relative to a norm. Different processors round differently, by less than this; another learning rate soon gives more.
TOLERANCE = 1e-3


def difference(values: np.ndarray, names: Sequence[str]) -> str | None:
    """Describe the first value that differs between ranks, and on which ranks; None if all are the same.

    Args:
        values: float64 ``(ranks, values)``; NaN equals NaN, and infinity equals infinity.
        names: the names of the values.
    """
    first = values[0]
    same = np.isclose(values, first, rtol=TOLERANCE, atol=0.0, equal_nan=True)
    if same.all():
        return None
    column = int(np.flatnonzero(~same.all(axis=0))[0])
    rank = int(np.flatnonzero(~same[:, column])[0])
    return f"{names[column]} is {first[column]:.6g} on rank 0 and {values[rank, column]:.6g} on rank {rank}"
