"""Encode numbers, scaled by statistics of the train split.

Declared on the driver, fitted over the train split in Spark, encoded in Spark workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from sparkdl.checks import named_options
from sparkdl.data.features.bad_values import refuse_values
from sparkdl.data.features.columns import as_array
from sparkdl.data.features.feature import Stored, StoredEncoder, added
from sparkdl.data.features.moments import Moments, checked_numbers
from sparkdl.errors import ConfigError, SchemaError, shown

__all__ = ["Numeric", "NumericEncoder"]

SCALES = ("standardize", "minmax", "none")
FILLS = ("mean", "median", "indicator")


@named_options
@dataclass(frozen=True, slots=True)
class Numeric:
    """Declare a number, or an array of numbers scaled per last axis; the model's input is float32.

    Takes whole numbers, fractions, decimals, booleans, dates (days since 1970-01-01), timestamps (seconds since
    1970-01-01 UTC), (nested) arrays of these and ML vectors. Infinite values are an error. Raises ConfigError for an
    unknown `scale` or `fill`, and for several columns without a `name`.
    """

    kind: ClassVar[str] = "numeric"

    columns: str | Sequence[str] = added(())
    """The column, whose name is also that of the model's input; or several columns of plain numbers or booleans, which
    become one input of shape (columns,), each scaled and filled by its own statistics: `Numeric(["age", "hours"],
    name="numbers")`. A feature of one column keeps it as `name`, and () here."""

    _: KW_ONLY

    scale: str = "standardize"
    """"standardize": (x - mean) / standard deviation (of the population); "minmax": (x - min) / (max - min), outside
    [0, 1] for values beyond the train split's; "none". A constant column is only shifted."""

    fill: str | float | None = None
    """For null and NaN: "mean" or "median" of the train split (in arrays per last axis), a constant in the column's own
    units, or None (an error). "indicator", for scalars: the input is float32 (2,), the number, or the mean where it is
    missing, and 1.0 where it is missing."""

    name: str = ""
    """The name of the model's input, for several columns."""

    def __post_init__(self) -> None:
        columns, name = _columns_and_name(self.columns, self.name)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "name", name)
        if self.scale not in SCALES:
            raise ConfigError(f"Numeric({self.name!r}): scale={shown(self.scale)} must be one of {', '.join(SCALES)}")
        number = isinstance(self.fill, (int, float)) and math.isfinite(self.fill)
        if self.fill is not None and self.fill not in FILLS and not number:
            raise ConfigError(
                f"Numeric({self.name!r}): fill={shown(self.fill)} must be one of {', '.join(FILLS)}, "
                "a finite number or None"
            )
        if columns and self.fill == "indicator":
            raise ConfigError(
                f"Numeric({self.name!r}): fill='indicator' is for one column; give each column with nulls a Numeric of "
                "its own"
            )


def _columns_and_name(columns: object, name: object) -> tuple[tuple[str, ...], str]:
    """Return the columns of a feature of several, () of one, and its name. Raises ConfigError."""
    if isinstance(columns, str) and name in ("", columns):
        columns, name = (), columns
    if not (isinstance(name, str) and (name or columns)):
        raise ConfigError(f"Numeric: name={shown(name)} must be the name of a column")
    if isinstance(columns, str):
        raise ConfigError(f"Numeric({columns!r}, name={name!r}): an input of one column has the column's name")
    if not isinstance(columns, (list, tuple)) or columns == [] or not all(isinstance(c, str) and c for c in columns):
        raise ConfigError(f"Numeric: columns={shown(columns)} must be a column or a list of columns")
    if not name:
        raise ConfigError(f"Numeric({shown(columns)}): several columns need a name: Numeric([…], name='numbers')")
    if name.lower() in map(str.lower, columns):
        raise ConfigError(f"Numeric({shown(columns)}): name={name!r} is that of a column; choose another name")
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise ConfigError(f"Numeric({name!r}): column {twice!r} is named twice; name each once")
    return tuple(columns), name


@dataclass(frozen=True, slots=True)
class NumericEncoder(StoredEncoder):
    """Encode a column as a fitted `Numeric`: `(x - offset) / divisor` in float64, then float32, in the column's shape.

    Attributes:
        mean, std, low, high: statistics of the train split's values that are not missing; one per element of the last
            axis (a float for scalars).
        fill: the value that stands for a missing one, before scaling; one per element of the last axis, or one for all.
        indicator: the shape is (2,): the number, and whether it was missing.
        unit: of the column, as in `column_types.unit_of`; a column of another unit is refused.
        columns: the raw columns of an input of several, in order; () if there is one, `name`.
    """

    kind: ClassVar[str] = "numeric"
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)
    stored: ClassVar[Stored] = "values"

    name: str
    shape: tuple[int, ...]
    scale: str
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    fill: float | tuple[float, ...] | None
    indicator: bool = False
    unit: str = "number"
    columns: tuple[str, ...] = added(())

    @classmethod
    def fit(
        cls, feature: Numeric, moments: Moments, *, median: np.ndarray | None = None, unit: str = "number"
    ) -> NumericEncoder:
        """Fit an encoder to moments of the train split.

        Args:
            feature: the declaration.
            moments: of the train split.
            median: per element of the last axis, shape ``(last axis,)``; needed for `fill="median"`.
            unit: of the column.

        Raises:
            SchemaError: a position of the last axis without any value, or values too large or too small to be scaled.
        """
        if (empty := moments.count == 0).any():
            where = f" at position {int(np.argmax(empty))} of the last axis"
            where = where if moments.shape and not feature.columns else ""
            raise SchemaError(f"{_named(feature, empty)}: the train split has no value that is not null{where}")
        # A constant column's deviations are rounding errors, not 0; its extremes are equal exactly.
        constant = moments.low == moments.high
        std = np.where(constant, 0.0, np.sqrt(np.where(constant, 0.0, moments.squares) / moments.count))
        if (large := np.asarray(~np.isfinite([moments.mean, std]).all(axis=0))).any():
            raise SchemaError(f"{_named(feature, large)}: its values are too large to be scaled; rescale them before")
        if feature.scale == "standardize" and (small := ~constant & (std == 0)).any():
            raise SchemaError(
                f"{_named(feature, small)}: its values are too small to be scaled, their deviation is 0 in float64; "
                "rescale them before"
            )
        indicator = feature.fill == "indicator"
        return cls(
            name=feature.name,
            shape=(2,) if indicator else moments.shape,
            scale=feature.scale,
            mean=_plain(moments.mean, moments.shape),
            std=_plain(std, moments.shape),
            low=_plain(moments.low, moments.shape),
            high=_plain(moments.high, moments.shape),
            fill=_fill(feature, moments, median),
            indicator=indicator,
            unit=unit,
            columns=tuple(feature.columns),
        )

    def encode(self, column: pa.Array) -> np.ndarray:
        column = as_array(column)
        shape = () if self.indicator else self.shape
        values = checked_numbers(
            column,
            name=self.name,
            shape=shape,
            unit=self.unit,
            missing_allowed=self.fill is not None,
            columns=self.columns,
        )
        missing = np.isnan(values)
        if missing.any():
            values = np.where(missing, np.asarray(self.fill), values)
        scaled = self._scaled(values)
        with np.errstate(over="ignore"):
            encoded = scaled.astype(np.float32)
        refuse_values(self.name, self.columns, column, np.isinf(encoded), "value beyond the range of float32")
        return np.stack([encoded, missing.astype(np.float32)], axis=1) if self.indicator else encoded

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        if self.scale == "none":
            return values
        low = np.asarray(self.mean if self.scale == "standardize" else self.low)
        width = np.asarray(self.std) if self.scale == "standardize" else np.asarray(self.high) - low
        scaled = np.subtract(values, low)
        scaled /= np.where(width > 0, width, 1.0)
        return scaled


def _named(feature: Numeric, bad: np.ndarray) -> str:
    """Name the column of a feature, of several the first one that is bad; `bad`: bool, shape ``(last axis,)``."""
    return f"column {(feature.columns[int(np.argmax(bad))] if feature.columns else feature.name)!r}"


def _fill(feature: Numeric, moments: Moments, median: np.ndarray | None) -> float | tuple[float, ...] | None:
    if feature.fill == "median":
        assert median is not None, "prepare computes it"
        return _plain(median, moments.shape)
    if isinstance(feature.fill, str):
        return _plain(moments.mean, moments.shape)
    return None if feature.fill is None else float(feature.fill)


def _plain(values: np.ndarray, shape: tuple[int, ...]) -> float | tuple[float, ...]:
    return float(values[0]) if shape == () else tuple(float(value) for value in values)
