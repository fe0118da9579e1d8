"""Encode numbers, arrays and vectors without scaling.

Declared on the driver; shape and dtype come from the declaration or the first row; encoded in Spark workers.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from sparkdl.checks import named_options, require
from sparkdl.data.features.bad_values import refuse
from sparkdl.data.features.column_types import check_unit, holds_decimals, is_list, is_vector, unit_of
from sparkdl.data.features.columns import as_array, infer_shape, padded, to_numpy
from sparkdl.data.features.feature import Stored, StoredEncoder, added
from sparkdl.errors import ConfigError, SchemaError, shown

__all__ = ["Tensor", "TensorEncoder"]

DTYPES = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")

# From here on, float64, which decimals are converted to, does not hold every whole number.
_EXACT = 2.0**53


@named_options
@dataclass(frozen=True, slots=True)
class Tensor:
    """Declare a scalar, an array, a nested array or an ML vector, as it is; a bare column name means `Tensor(name)`.

    Takes numbers, booleans, decimals (rounded once to float64; as int64, from 2^53 on an error), dates as days since
    1970-01-01, timestamps as seconds since 1970-01-01 UTC (to the microsecond from 1698 to 2242; one without a time
    zone counts as UTC). NaN and infinite values stay what they are; null is an error.
    Raises ConfigError for an unknown dtype or an axis below 1.
    """

    kind: ClassVar[str] = "tensor"

    name: str
    _: KW_ONLY

    shape: tuple[int, ...] | None = None
    """The shape of one row, checked on every row; None takes the first row's. A flat array of the right number of
    elements is reshaped (row-major)."""

    dtype: str | None = None
    """The dtype of the model's input. None: float32 for fractions, decimals and vectors, int32 or int64 for whole
    numbers by the column's width, bool for booleans, int32 for dates, float64 for timestamps, whose seconds float32
    cannot hold."""

    pad: float | None = added(None)
    """The number that fills shorter arrays at their end up to `shape`, which has one axis; a longer array is an error.
    None: arrays of another length are an error."""

    def __post_init__(self) -> None:
        if self.shape is not None:
            if not isinstance(self.shape, (list, tuple)):
                raise ConfigError(f"Tensor({self.name!r}): shape={shown(self.shape)} must be a list of whole numbers")
            object.__setattr__(self, "shape", tuple(self.shape))
            if not all(isinstance(length, int) and length >= 1 for length in self.shape or ()):
                raise ConfigError(f"Tensor({self.name!r}): shape={shown(self.shape)} must be whole numbers above 0")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"Tensor({self.name!r}): dtype={shown(self.dtype)} must be one of {', '.join(DTYPES)}")
        if self.pad is not None:
            good = isinstance(self.pad, (int, float)) and not isinstance(self.pad, bool)
            require(good, f"Tensor({self.name!r}): pad={shown(self.pad)} must be a number or None")
            good = self.shape is not None and len(self.shape) == 1
            require(good, f"Tensor({self.name!r}): pad={self.pad} needs shape=(n,), the length of an array")


@dataclass(frozen=True, slots=True)
class TensorEncoder(StoredEncoder):
    """Encode a column as a `Tensor` whose shape and dtype are known.

    Attributes:
        column_shape: of a raw row; `shape` is that of the model's input.
        unit: of the column, as in `column_types.unit_of`; a column of another unit is refused.
        pad: as in `Tensor`.
    """

    kind: ClassVar[str] = "tensor"
    stored: ClassVar[Stored] = "values"

    name: str
    column_shape: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    unit: str = "number"
    pad: float | None = added(None)

    @classmethod
    def fit(cls, feature: Tensor, first_row: pa.Array) -> TensorEncoder:
        """Make the encoder for a column with this first row. Raises SchemaError if the row does not fit `feature`."""
        if feature.pad is not None and feature.shape is not None:
            first_row = padded(first_row, name=feature.name, length=feature.shape[0], value=feature.pad)
        found = infer_shape(first_row, name=feature.name)
        shape = found if feature.shape is None else feature.shape
        if int(np.prod(found)) != int(np.prod(shape)) or (len(found) > 1 and found != shape):
            raise SchemaError(f"column {feature.name!r}: declared shape {shape}, the first row's is {found}")
        values = to_numpy(first_row, name=feature.name, shape=found)
        unit = unit_of(first_row.type)
        dtype = np.dtype(feature.dtype) if feature.dtype else _natural(values.dtype, unit)
        return cls(feature.name, found, shape, dtype, unit, feature.pad)

    def encode(self, column: pa.Array) -> np.ndarray:
        column = as_array(column)
        check_unit(self.name, column.type, self.unit)
        if self.pad is not None and not pa.types.is_null(column.type):
            column = padded(column, name=self.name, length=self.shape[0], value=self.pad)
        values = to_numpy(column, name=self.name, shape=self._shape_in(column.type))
        with np.errstate(over="ignore", invalid="ignore"):
            encoded = values.astype(self.dtype, copy=False)
        # Only a narrower float can turn a finite value into an infinite one.
        is_narrower = encoded.dtype.kind == "f" and encoded.dtype.itemsize < values.dtype.itemsize
        if is_narrower and not np.isfinite(encoded).all():
            bad = np.isinf(encoded) & np.isfinite(values)
            refuse(self.name, column, bad, f"value beyond the range of {self.dtype}")
        # Only a cast to whole numbers or booleans can change a value by more than a float's rounding.
        if self.dtype.kind in "iub" and not np.can_cast(values.dtype, self.dtype):
            refuse(self.name, column, encoded != values, f"value does not fit {self.dtype}")
        if encoded.dtype.itemsize == 8 and encoded.dtype.kind == "i" and holds_decimals(column.type):
            bad = np.abs(values) >= _EXACT
            refuse(self.name, column, bad, "decimal that float64 does not hold (cast it to bigint)")
        return encoded.reshape(len(values), *self.shape)

    def _shape_in(self, type_: pa.DataType) -> tuple[int, ...]:
        """Return the shape of a raw row of this type: a flat array stands for a nested one of as many elements."""
        flat = is_vector(type_) or (is_list(type_) and not is_list(type_.value_type))
        return (math.prod(self.column_shape),) if flat and len(self.column_shape) > 1 else self.column_shape


def _natural(dtype: np.dtype, unit: str) -> np.dtype:
    if unit in ("seconds", "local seconds"):
        return np.dtype(np.float64)
    if dtype.kind == "f":
        return np.dtype(np.float32)
    if dtype.kind == "b":
        return dtype
    return np.dtype(np.int32 if dtype.itemsize <= 4 else np.int64)
