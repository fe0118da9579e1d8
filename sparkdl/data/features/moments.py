"""Compute and merge count, mean, squared deviations and extremes of number columns, per element of the last axis.

Spark workers compute one small state a task, the driver merges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sparkdl.data.features.bad_values import refuse_values
from sparkdl.data.features.column_types import check_unit
from sparkdl.data.features.columns import to_numpy

__all__ = ["Moments", "checked_numbers", "per_last_axis"]


def checked_numbers(
    column: pa.Array,
    *,
    name: str,
    shape: tuple[int, ...],
    unit: str,
    missing_allowed: bool,
    columns: Sequence[str] = (),
) -> np.ndarray:
    """Return a column's values as float64, shape ``(rows, *shape)``; null and NaN are NaN.

    Args:
        columns: the raw columns that lie side by side in `column`; errors name them. () if it is a raw column itself.

    Raises SchemaError for infinite values, for missing values unless `missing_allowed`, and for another unit.
    """
    check_unit(name, column.type, unit)
    numbers = to_numpy(column, name=name, shape=shape, missing=missing_allowed or bool(columns))
    values = numbers.astype(np.float64, copy=False)
    finite = np.isfinite(values)
    if finite.all():
        return values
    refuse_values(name, columns, column, np.isinf(values), "infinite value")
    if not missing_allowed:
        kind = "null or NaN" if columns else "NaN"
        refuse_values(name, columns, column, ~finite, f"{kind} without a policy (Numeric(fill=…))")
    return values


def per_last_axis(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reshape values of shape ``(rows, *shape)`` to ``(all others, last axis)``; scalars have a last axis of one."""
    return values.reshape(-1, shape[-1] if shape else 1)


@dataclass(frozen=True, slots=True)
class Moments:
    """Hold statistics of the values that are not missing; each array has the shape ``(last axis,)``, one for scalars.

    Merging follows Chan, Golub and LeVeque (1979), which stays accurate where summing squares cancels.
    """

    shape: tuple[int, ...]
    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    @np.errstate(over="ignore", invalid="ignore")
    def of(cls, values: np.ndarray, shape: tuple[int, ...]) -> Moments:
        """Compute the moments of one batch of `checked_numbers`, without NaN. `fit` refuses moments that overflowed."""
        matrix = per_last_axis(values, shape)
        missing = np.isnan(matrix)
        count = len(matrix) - missing.sum(axis=0)
        mean = np.where(missing, 0.0, matrix).sum(axis=0) / np.maximum(count, 1)
        squares = np.square(np.where(missing, 0.0, matrix - mean)).sum(axis=0)
        low = np.where(missing, np.inf, matrix).min(axis=0, initial=np.inf)
        high = np.where(missing, -np.inf, matrix).max(axis=0, initial=-np.inf)
        return cls(shape, count, mean, squares, low, high)

    @np.errstate(over="ignore", invalid="ignore")
    def merge(self, other: Moments) -> Moments:
        """Return the moments of both batches together."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        delta = other.mean - self.mean
        return Moments(
            self.shape,
            count,
            self.mean + delta * share,
            self.squares + other.squares + np.square(delta) * (self.count * share),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )
