"""Numbers, scaled by what the train split looks like.

Declared on the driver, fitted over the train split in Spark, encoded in Spark workers.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.data.columns import any_in_row, first_bad, infer_shape, to_numpy
from sparkdl.errors import ConfigError, SchemaError, shown

__all__ = ["Moments", "Numeric", "NumericEncoder"]

SCALES = ("standardize", "minmax", "none")


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number, or an array of numbers scaled per last axis. The model's input is float32.

    Raises ConfigError for an unknown `scale` or `fill`.
    """

    name: str
    _: KW_ONLY

    scale: str = "standardize"
    """"standardize": (x - mean) / standard deviation (of the population); "minmax": (x - min) / (max - min), outside
    [0, 1] for values beyond the train split's; "none". A constant column is only shifted."""

    fill: str | float | None = None
    """For null and NaN in scalar columns: "mean" of the train split, a constant, or None (an error)."""

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ConfigError(f"Numeric({self.name!r}): scale={shown(self.scale)} must be one of {', '.join(SCALES)}")
        number = isinstance(self.fill, (int, float)) and math.isfinite(self.fill)
        if self.fill not in (None, "mean") and not number:
            raise ConfigError(
                f"Numeric({self.name!r}): fill={shown(self.fill)} must be 'mean', a finite number or None"
            )

    @property
    def kind(self) -> str:
        return "numeric"


@dataclass(frozen=True, slots=True)
class Moments:
    """Statistics of a column that merge exactly: count, mean, sum of squared deviations, extremes, per last axis.

    Merging follows Chan, Golub and LeVeque (1979), which stays accurate where summing squares cancels.
    """

    shape: tuple[int, ...]
    count: int
    mean: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, column: pa.Array, *, name: str, shape: tuple[int, ...], missing_allowed: bool) -> Moments:
        """The moments of one batch. Missing values (null, NaN) are left out where a fill is declared."""
        values = _checked(column, name=name, shape=shape, missing_allowed=missing_allowed)
        if shape == ():
            values = values[~np.isnan(values)]
        # (rows, *shape) -> (values per element of the last axis, last axis); a scalar has an axis of one.
        matrix = values.reshape(-1, shape[-1] if shape else 1)
        if len(matrix) == 0:
            zero = np.zeros(matrix.shape[1])
            return cls(shape, 0, zero, zero, zero + np.inf, zero - np.inf)
        mean = matrix.mean(axis=0)
        squares = np.square(matrix - mean).sum(axis=0)
        return cls(shape, len(matrix), mean, squares, matrix.min(axis=0), matrix.max(axis=0))

    def merge(self, other: Moments) -> Moments:
        """The moments of both batches together."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        return Moments(
            self.shape,
            count,
            self.mean + delta * (other.count / count),
            self.squares + other.squares + np.square(delta) * (self.count * other.count / count),
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )


@dataclass(frozen=True, slots=True)
class NumericEncoder:
    """A fitted `Numeric`: `(x - offset) / divisor` in float64, then float32. Shape is the column's own.

    Attributes:
        mean, std: of the train split, one per element of the last axis (a float for scalars).
    """

    name: str
    shape: tuple[int, ...]
    scale: str
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    fill: float | None

    @classmethod
    def fit(cls, feature: Numeric, moments: Moments) -> NumericEncoder:
        """The encoder that these moments of the train split give. Raises SchemaError where all values are missing."""
        if moments.count == 0:
            raise SchemaError(f"column {feature.name!r}: the train split has no value that is not null")
        # A constant column's deviations are rounding errors, not 0; its extremes are equal exactly.
        std = np.where(moments.low == moments.high, 0.0, np.sqrt(moments.squares / moments.count))
        if not np.isfinite(std).all():
            raise SchemaError(f"column {feature.name!r}: its values are too large to be scaled; rescale them before")
        fill = float(moments.mean[0]) if isinstance(feature.fill, str) else feature.fill
        return cls(
            name=feature.name,
            shape=moments.shape,
            scale=feature.scale,
            mean=_plain(moments.mean, moments.shape),
            std=_plain(std, moments.shape),
            low=_plain(moments.low, moments.shape),
            high=_plain(moments.high, moments.shape),
            fill=None if fill is None else float(fill),
        )

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32)

    def encode(self, column: pa.Array) -> np.ndarray:
        values = _checked(column, name=self.name, shape=self.shape, missing_allowed=self.fill is not None)
        if self.fill is not None:
            values = np.where(np.isnan(values), self.fill, values)
        if self.scale == "none":
            return self._narrow(values, column)
        low = np.asarray(self.mean if self.scale == "standardize" else self.low)
        width = np.asarray(self.std) if self.scale == "standardize" else np.asarray(self.high) - low
        return self._narrow((values - low) / np.where(width > 0, width, 1.0), column)

    def _narrow(self, values: np.ndarray, column: pa.Array) -> np.ndarray:
        """The values as float32. Raises SchemaError for one beyond its range."""
        with np.errstate(over="ignore"):
            encoded = values.astype(np.float32)
        bad = any_in_row(np.isinf(encoded), rows=len(encoded))
        if bad.any():
            raise first_bad(self.name, column, bad, "value beyond the range of float32")
        return encoded

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "numeric",
            "name": self.name,
            "shape": list(self.shape),
            "scale": self.scale,
            "mean": self.mean,
            "std": self.std,
            "low": self.low,
            "high": self.high,
            "fill": self.fill,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> NumericEncoder:
        """The encoder that `to_json` described."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k != "kind"}
        return cls(**fields)


def _plain(values: np.ndarray, shape: tuple[int, ...]) -> float | tuple[float, ...]:
    return float(values[0]) if shape == () else tuple(float(value) for value in values)


def _checked(column: pa.Array, *, name: str, shape: tuple[int, ...], missing_allowed: bool) -> np.ndarray:
    """Values as float64, shape ``(rows, *shape)``; a missing scalar is NaN. Infinite values are an error."""
    if shape == () and missing_allowed and column.null_count:
        types = pa.types
        number = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
        if not any(holds(column.type) for holds in number):
            raise SchemaError(f"column {name!r}: values of type {column.type} are no numbers")
        column = pc.cast(column, pa.float64(), safe=False).fill_null(float("nan"))
    values = to_numpy(column, name=name, shape=shape or infer_scalar(column, name)).astype(np.float64)
    bad = any_in_row(np.isinf(values), rows=len(values))
    if bad.any():
        raise first_bad(name, column, bad, "infinite value")
    bad = any_in_row(np.isnan(values), rows=len(values))
    if bad.any() and not (missing_allowed and shape == ()):
        raise first_bad(name, column, bad, "NaN without a policy (Numeric(fill=…))")
    return values


def infer_scalar(column: pa.Array, name: str) -> tuple[int, ...]:
    """() for a column of scalars; raises SchemaError for arrays, whose shape must have been inferred before."""
    if len(column) and infer_shape(column, name=name) != ():
        raise SchemaError(f"column {name!r}: rows are arrays, scalars were expected")
    return ()
