"""Tell values that differ by rounding from values that are different. Pure; numpy only."""

from __future__ import annotations

import numpy as np

__all__ = ["differ", "tolerance_of"]

# The rounding error that a sum over rows may have, relative to the sum of the amounts. Functions that mix rows are off
# by far more on drawn rows, so that there is room for functions that compute with fewer digits than they return.
TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 2e-2, "bfloat16": 5e-2}


def tolerance_of(dtype: object) -> float:
    """Return the relative rounding that sums over rows in this floating dtype may show."""
    return TOLERANCE.get(str(dtype), TOLERANCE["float64"])


def differ(one: np.ndarray, other: np.ndarray, *, scale: float, tolerance: float) -> bool:
    """Tell whether values differ by more than rounding. Values that are not finite are alike if they are the same."""
    if one.shape != other.shape:
        return True
    finite = np.isfinite(one) & np.isfinite(other)
    with np.errstate(invalid="ignore"):
        same = finite | (one == other) | (np.isnan(one) & np.isnan(other))
    return bool((~same).any() or (finite & (np.abs(one - other) > tolerance * scale)).any())
