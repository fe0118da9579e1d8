"""Convert Arrow columns to dense numpy arrays and back, without a Python object per row.

Runs in Spark workers (prepare, score) and on the driver (`predict`); this module knows shapes and dtypes, not features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.data.features.bad_values import check_no_nulls, refuse
from sparkdl.data.features.column_types import check_numbers, is_list, is_nested, is_vector, unit_of
from sparkdl.data.features.feature import Encoder, raw_columns
from sparkdl.errors import SchemaError, shown

__all__ = ["arrow_type", "as_array", "infer_shape", "list_lengths", "padded", "raw_values", "to_arrow", "to_numpy"]

# `type` of an ML vector: 0 is sparse, 1 is dense.
_SPARSE = 0

# Spark has no unsigned and no half types: use the next wider type that holds every value.
_WIDER = {"uint8": "int16", "uint16": "int32", "uint32": "int64", "float16": "float32"}


def as_array(column: Any) -> pa.Array:
    """Make one Arrow array of an array (plain, chunked, dictionary-encoded), numpy, pandas or a sequence of values.

    Masked elements of a numpy array, None, and pandas' NA and NaT become nulls. Raises SchemaError for values that do
    not fit one Arrow type.
    """
    if isinstance(column, pa.ChunkedArray):
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.DictionaryArray):
        return column.dictionary_decode()
    if isinstance(column, pa.Array):
        return column
    try:
        # pyarrow makes a null of NaN in a pandas Series; a NaN in a list stays NaN.
        of_objects = isinstance(column, (list, tuple)) or getattr(column, "dtype", None) == np.dtype(object)
        if isinstance(column, np.ndarray):
            made = to_arrow(column)
        else:
            made = as_array(pa.array(_without_masks(column) if of_objects else column))
    except (pa.ArrowException, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        what = f"{type(column).__name__} of {getattr(column, 'dtype', 'values')}"
        raise SchemaError(f"no Arrow column can be made of {what}: {shown(' '.join(str(error).split()))}") from error
    if of_objects and pa.types.is_timestamp(made.type):
        has_zone = [value.tzinfo is not None for value in column if isinstance(value, datetime)]
        # Arrow would take those without a zone for UTC.
        if any(has_zone) and not all(has_zone):
            raise SchemaError(
                f"{sum(has_zone)} of {len(has_zone)} datetimes have a time zone and the others have none; give all of "
                "them one: value.replace(tzinfo=…)"
            )
    return made


def _without_masks(values: Any) -> Any:
    """Replace masked values and pandas' NA and NaT by None, in values of any type: pyarrow ignores such masks."""
    import pandas as pd

    if not any(isinstance(value, np.ma.MaskedArray) or value is pd.NA or value is pd.NaT for value in values):
        return values
    masked: Any = np.ma.MaskedArray  # its methods have no types
    # A masked value that was taken out of its array is an array without axes, whose `tolist` is None.
    plain = [value.tolist() if isinstance(value, masked) else value for value in values]
    return [None if value is pd.NA or value is pd.NaT else value for value in plain]


def infer_shape(column: pa.Array, *, name: str) -> tuple[int, ...]:
    """Return the shape of one row, taken from the first row: () for scalars, (3,) for arrays of length 3."""
    column = column[:1]
    if is_vector(column.type):
        row = column[0].as_py()
        if row is None:
            raise SchemaError(f"column {name!r}: the first row is null; fill or drop such rows")
        return (row["size"] if row["type"] == _SPARSE else len(row["values"]),)
    shape: tuple[int, ...] = ()
    while is_list(column.type):
        if len(column) == 0 or not column[0].is_valid or len(column[0]) == 0:
            raise SchemaError(f"column {name!r}: the first row is, or begins with, an empty or null array; drop it")
        shape = (*shape, len(column[0]))
        column = column.flatten()[:1]
    return shape


def to_numpy(column: pa.Array, *, name: str, shape: tuple[int, ...], missing: bool = False) -> np.ndarray:
    """Convert a column to a dense array of its dtype, shape ``(rows, *shape)``, which may share its memory, read-only.

    Takes scalars, decimals (float64), dates (int32, days since 1970-01-01), timestamps (float64, seconds since
    1970-01-01 UTC), (nested) lists of these and ML vectors, dense and sparse. With `missing`, nulls at any depth are
    NaN and values beside them float64. Raises SchemaError for nulls without `missing`, for rows of another shape (with
    one such row) and for types that are not numbers.
    """
    check_numbers(column.type, name)
    if missing and pa.types.is_null(column.type):
        return np.full((len(column), *shape), np.nan)
    if not missing:
        check_no_nulls(name, column, "fill it before, or drop such rows")
    if is_vector(column.type):
        return _vectors(column, name=name, shape=shape)
    values = column
    # Flatten axis by axis; after axis i, `values` holds rows * shape[0] * … * shape[i] elements.
    for axis, length in enumerate(shape):
        if not is_list(values.type):
            raise SchemaError(f"column {name!r}: shape {shape} was expected, but values are {values.type}")
        lengths = list_lengths(values)
        present = lengths >= 0
        wrong = present & (lengths != length)
        refuse(name, column, wrong, f"axis {axis} is not of length {length} (ragged array)")
        values = _spread(values.flatten(), np.repeat(present, length))
        if values.null_count and not missing:
            refuse(name, column, values.is_null().to_numpy(zero_copy_only=False), "null inside an array")
    if is_list(values.type):
        raise SchemaError(f"column {name!r}: rows are arrays of more axes than the shape {shape}")
    return _numbers(values).reshape(len(column), *shape)


def list_lengths(column: pa.Array) -> np.ndarray:
    """Return the length of each list, -1 for a null list: int64, shape ``(len(column),)``."""
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(len(column), column.type.list_size, dtype=np.int64)
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = -1
        return lengths
    return pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def padded(column: pa.Array, *, name: str, length: int, value: float) -> pa.Array:
    """Fill arrays of numbers at their ends up to `length` elements; null arrays stay null.

    Raises SchemaError for a column that does not hold arrays of numbers, for longer arrays, and for a value that the
    arrays' type does not hold.
    """
    check_numbers(column.type, name)
    if not is_list(column.type) or is_list(column.type.value_type):
        raise SchemaError(f"column {name!r}: pad={value} is for arrays of numbers, not for {column.type!s:.80}")
    lengths = list_lengths(column)
    way_out = f"slice({name}, 1, {length}) in Spark keeps the first"
    refuse(name, column, lengths > length, f"array of more than {length} elements ({way_out})")
    flat = column.flatten()
    try:
        pad = pa.array([value]).cast(flat.type if not pa.types.is_null(flat.type) else pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"column {name!r}: pad={value} is not a value of {flat.type!s:.80}") from error
    present = np.arange(length) < lengths[:, None]
    indices = np.full(present.shape, len(flat), np.int64)
    indices[present] = np.arange(len(flat))
    values = pa.concat_arrays([flat.cast(pad.type), pad]).take(pa.array(indices.reshape(-1)))
    # Arrow takes an offset that is null for a null list.
    offsets = pa.array(
        np.arange(len(column) + 1, dtype=np.int32) * np.int32(length), mask=np.append(lengths < 0, False)
    )
    return pa.ListArray.from_arrays(offsets, values)


def raw_values(encoder: Encoder, columns: Mapping[str, Any]) -> Any:
    """Return what an encoder encodes of raw columns by name: its column, or the several it is made of side by side."""
    names = raw_columns(encoder)
    return _side_by_side({name: columns[name] for name in names}) if names != (encoder.name,) else columns[encoder.name]


def _side_by_side(columns: Mapping[str, Any]) -> pa.FixedSizeListArray:
    """Put columns of plain numbers or booleans together, as one column of arrays of float64; nulls become NaN.

    Spark's cast to double gives the same values. Raises SchemaError that names a column of another type.
    """
    arrays = {name: as_array(column) for name, column in columns.items()}
    for name, array in arrays.items():
        check_numbers(array.type, name)
        if is_nested(array.type) or unit_of(array.type) != "number":
            raise SchemaError(
                f"column {name!r} is {array.type!s:.80}; an input of several columns takes plain numbers and booleans"
            )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise SchemaError(f"columns differ in length: {shown(lengths)}")
    values = np.stack([_numbers(array).astype(np.float64) for array in arrays.values()], axis=1)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), len(arrays))


def _spread(values: pa.Array, present: np.ndarray) -> pa.Array:
    """Put the values where `present` is True, and null elsewhere. `present`: bool, with `len(values)` True."""
    if present.all():
        return values
    indices = np.cumsum(present) - 1
    return values.take(pa.array(indices, mask=~present))


def _numbers(values: pa.Array) -> np.ndarray:
    """Convert scalars that `check_numbers` accepts to int, float or bool, or to float64 with NaN if one is null."""
    type_ = values.type
    if pa.types.is_null(type_):
        values = values.cast(pa.float64())
    elif pa.types.is_decimal(type_):
        # Through text, which is rounded once; the direct cast is off by an ulp in a fifth of all values.
        values = values.cast(pa.string()).cast(pa.float64())
    elif pa.types.is_date(type_):
        values = values.cast(pa.date32()).cast(pa.int32())
    elif pa.types.is_timestamp(type_):
        # Spark counts microseconds; pandas' nanoseconds are cut off, so that both give the same seconds.
        whole = values.cast(pa.timestamp("us", type_.tz), safe=type_.unit != "ns").cast(pa.int64())
        values = pc.divide(pc.cast(whole, pa.float64(), safe=False), 1e6)
    if values.null_count:
        values = pc.cast(values, pa.float64(), safe=False).fill_null(math.nan)
    return values.to_numpy(zero_copy_only=False)


def _vectors(column: pa.Array, *, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Convert dense and sparse ML vectors to float64, shape ``(rows, size)``; a null vector is NaN throughout."""
    if len(shape) != 1:
        raise SchemaError(f"column {name!r}: ML vectors have one axis, the declared shape is {shape}")
    parts = {field.name: part for field, part in zip(column.type, column.flatten(), strict=True)}
    present = column.is_valid().to_numpy(zero_copy_only=False)
    sparse = parts["type"].fill_null(_SPARSE).to_numpy(zero_copy_only=False) == _SPARSE
    lengths = np.maximum(list_lengths(parts["values"]), 0)
    sizes = np.where(sparse, parts["size"].fill_null(-1).to_numpy(zero_copy_only=False), lengths)
    refuse(name, column, present & (sizes != shape[0]), f"vector is not of size {shape[0]}")
    flat = parts["values"].flatten().to_numpy(zero_copy_only=False)
    if not sparse.any():
        return flat.reshape(len(column), shape[0])
    dense = np.zeros((len(column), shape[0]), dtype=np.float64)
    # rows, positions: where each stored value belongs; a dense row stores all of its positions.
    rows = np.repeat(np.arange(len(column)), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = np.arange(len(flat)) - starts
    stored_sparse = sparse[rows]
    positions[stored_sparse] = parts["indices"].filter(pa.array(sparse)).flatten().to_numpy(zero_copy_only=False)
    dense[rows, positions] = flat
    dense[~present] = np.nan
    return dense


def arrow_type(dtype: np.dtype, shape: tuple[int, ...]) -> pa.DataType:
    """Return the Arrow type, readable by Spark, of values of this dtype and shape: nested lists for axes."""
    type_ = pa.from_numpy_dtype(np.dtype(_WIDER.get(dtype.name, dtype.name)))
    for _ in shape:
        type_ = pa.list_(type_)
    return type_


def to_arrow(array: np.ndarray) -> pa.Array:
    """Convert an array of shape ``(rows, *shape)`` to an Arrow column of (nested lists of) numbers that Spark can read.

    Masked elements become nulls.
    """
    wider = _WIDER.get(array.dtype.name)
    flat = np.ascontiguousarray(array if wider is None else array.astype(wider)).reshape(-1)
    mask = np.broadcast_to(array.mask, array.shape).reshape(-1) if isinstance(array, np.ma.MaskedArray) else None
    column: pa.Array = pa.array(_without_masks(flat) if flat.dtype == object else flat, mask=mask)
    # From the innermost axis outwards: group every `length` elements into one list.
    for axis in range(array.ndim - 1, 0, -1):
        lists, length = math.prod(array.shape[:axis]), array.shape[axis]
        offsets = pa.array(np.arange(lists + 1, dtype=np.int32) * np.int32(length))
        column = pa.ListArray.from_arrays(offsets, column)
    return column
