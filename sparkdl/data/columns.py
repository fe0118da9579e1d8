"""Convert Arrow columns to dense numpy arrays and back, without a Python object per row.

Runs in Spark workers (prepare, score) and on the driver (`predict`); knows shapes and dtypes, nothing of features.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparkdl.errors import SchemaError, shown

__all__ = ["any_in_row", "as_array", "arrow_type", "check_no_nulls", "first_bad", "infer_shape", "to_arrow", "to_numpy"]

# What Spark's ML vectors look like in Arrow (pyspark.ml.linalg.VectorUDT.sqlType): type 0 is sparse, 1 is dense.
_VECTOR_FIELDS = {"type", "size", "indices", "values"}
_SPARSE = 0

# Spark has no unsigned and no half types: the next wider type that holds every value.
_WIDER = {"uint8": "int16", "uint16": "int32", "uint32": "int64", "float16": "float32"}


def as_array(column: Any) -> pa.Array:
    """An Arrow array, chunked array or sequence of values as one Arrow array."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(column, pa.Array):
        return column
    if isinstance(column, np.ndarray):
        return to_arrow(column)
    return pa.array(column, from_pandas=True)


def first_bad(name: str, column: pa.Array, bad: np.ndarray, problem: str) -> SchemaError:
    """The error for a column with bad rows: names the column, how many, and the first of them.

    `bad`: bool, shape ``(rows,)``, with at least one True.
    """
    row = int(np.flatnonzero(bad)[0])
    value = shown(column[row].as_py())
    return SchemaError(f"column {name!r}: {problem} in {int(bad.sum())} of {len(bad)} rows; row {row} is {value}")


def check_no_nulls(name: str, column: pa.Array, way_out: str) -> None:
    """Raise SchemaError that names the column and one row if the column holds a null."""
    if column.null_count:
        bad = column.is_null().to_numpy(zero_copy_only=False)
        raise first_bad(name, column, bad, f"null without a policy ({way_out})")


def any_in_row(bad: np.ndarray, *, rows: int) -> np.ndarray:
    """Whether any element of a row is bad: bool, shape ``(rows,)``, for elements of any shape in row order."""
    return bad.reshape(rows, bad.size // rows if rows else 0).any(axis=1)


def infer_shape(column: pa.Array, *, name: str) -> tuple[int, ...]:
    """The shape of one row, taken from the first row: () for scalars, (3,) for arrays of length 3."""
    column = column[:1]
    if _is_vector(column.type):
        row = column[0].as_py()
        if row is None:
            raise SchemaError(f"column {name!r}: the first row is null; declare the shape")
        return (row["size"] if row["type"] == _SPARSE else len(row["values"]),)
    shape: tuple[int, ...] = ()
    while _is_list(column.type):
        if len(column) == 0 or not column[0].is_valid:
            raise SchemaError(f"column {name!r}: the first row is empty or null; declare the shape")
        shape = (*shape, len(column[0]))
        column = column.flatten()[:1]
    return shape


def to_numpy(column: pa.Array, *, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The column as a dense array of its own dtype, shape ``(rows, *shape)``.

    Scalars, decimals, (nested) lists and ML vectors, dense and sparse. Raises SchemaError for nulls, for rows of
    another shape (with one such row) and for types that are no numbers.
    """
    check_no_nulls(name, column, "fill it before, or drop such rows")
    if _is_vector(column.type):
        return _vectors(column, name=name, shape=shape)
    values = column
    # Flatten axis by axis; after axis i, `values` holds rows * shape[0] * … * shape[i] elements.
    for axis, length in enumerate(shape):
        if not _is_list(values.type):
            raise SchemaError(f"column {name!r}: shape {shape} was expected, but values are {column.type}")
        lengths = _lengths(values)
        wrong = lengths != length
        if wrong.any():
            per_row = any_in_row(wrong, rows=len(column))
            raise first_bad(name, column, per_row, f"axis {axis} is not of length {length} (ragged array)")
        values = values.flatten()
        if values.null_count:
            per_row = any_in_row(values.is_null().to_numpy(zero_copy_only=False), rows=len(column))
            raise first_bad(name, column, per_row, "null inside an array")
    if _is_list(values.type):
        raise SchemaError(f"column {name!r}: rows are arrays of more axes than the shape {shape}")
    return _numbers(values, name=name).reshape(len(column), *shape)


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def _is_vector(type_: pa.DataType) -> bool:
    return pa.types.is_struct(type_) and {f.name for f in type_} == _VECTOR_FIELDS


def _lengths(column: pa.Array) -> np.ndarray:
    """The length of each list; a null list has length -1. int64, shape ``(len(column),)``."""
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(len(column), column.type.list_size, dtype=np.int64)
        lengths[column.is_null().to_numpy(zero_copy_only=False)] = -1
        return lengths
    return pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def _numbers(values: pa.Array, *, name: str) -> np.ndarray:
    type_ = values.type
    if pa.types.is_decimal(type_):
        values = values.cast(pa.float64())
    elif not (pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_)):
        hint = "; strings need an encoder: Categorical" if pa.types.is_string(type_) else ""
        raise SchemaError(f"column {name!r}: values of type {type_} are no numbers{hint}")
    return values.to_numpy(zero_copy_only=False)


def _vectors(column: pa.Array, *, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Dense and sparse ML vectors as float64, shape ``(rows, size)``."""
    if len(shape) != 1:
        raise SchemaError(f"column {name!r}: ML vectors have one axis, the declared shape is {shape}")
    values = column.field("values")
    sparse = column.field("type").to_numpy(zero_copy_only=False) == _SPARSE
    lengths = _lengths(values)
    sizes = np.where(sparse, column.field("size").fill_null(-1).to_numpy(zero_copy_only=False), lengths)
    wrong = sizes != shape[0]
    if wrong.any():
        raise first_bad(name, column, wrong, f"vector is not of size {shape[0]}")
    dense = np.zeros((len(column), shape[0]), dtype=np.float64)
    flat = values.flatten().to_numpy(zero_copy_only=False)
    # rows, positions: where each stored value belongs; a dense row stores all of its positions.
    rows = np.repeat(np.arange(len(column)), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    positions = np.arange(len(flat)) - starts
    stored_sparse = sparse[rows]
    positions[stored_sparse] = column.field("indices").filter(pa.array(sparse)).flatten().to_numpy(zero_copy_only=False)
    dense[rows, positions] = flat
    return dense


def arrow_type(dtype: np.dtype, shape: tuple[int, ...]) -> pa.DataType:
    """The Arrow type, readable by Spark, of values of this dtype and shape: nested lists for axes."""
    type_ = pa.from_numpy_dtype(np.dtype(_WIDER.get(dtype.name, dtype.name)))
    for _ in shape:
        type_ = pa.list_(type_)
    return type_


def to_arrow(array: np.ndarray) -> pa.Array:
    """An array of shape ``(rows, *shape)`` as an Arrow column of (nested lists of) numbers Spark can read."""
    wider = _WIDER.get(array.dtype.name)
    flat = np.ascontiguousarray(array if wider is None else array.astype(wider)).reshape(-1)
    column: pa.Array = pa.array(flat)
    # From the innermost axis outwards: group every `length` elements into one list.
    for axis in range(array.ndim - 1, 0, -1):
        lists, length = math.prod(array.shape[:axis]), array.shape[axis]
        offsets = pa.array(np.arange(lists + 1, dtype=np.int32) * np.int32(length))
        column = pa.ListArray.from_arrays(offsets, column)
    return column
