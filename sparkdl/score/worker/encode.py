"""Encode raw Arrow columns for the model, and tell which rows cannot be.

Pure; runs in Spark workers, in the thread that works ahead of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from sparkdl.data.features import Encoder
from sparkdl.errors import SchemaError, shown

__all__ = ["check_types", "encode_columns", "rows_at_once"]

# Of encoded values: what is encoded, and handed to Spark, at once. Fewer bytes cost calls, more cost memory.
_BYTES_AT_ONCE = 8 << 20


def rows_at_once(row_bytes: int) -> int:
    """How many rows of so many bytes, encoded inputs or outputs, are worked on at once."""
    return max(1, _BYTES_AT_ONCE // max(row_bytes, 1))


def check_types(encoders: Sequence[Encoder], types: Mapping[str, pa.DataType]) -> None:
    """Raise SchemaError for a column whose type its encoder never takes; shapes are in the rows."""
    for encoder in encoders:
        encoder.encode(pa.array([], types[encoder.name]))


def encode_columns(
    encoders: Sequence[Encoder], columns: Sequence[pa.Array], *, row_name: Callable[[int], str], keep_bad: bool
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """The model's inputs for these raw columns, one for each encoder, and the bad rows with their reasons.

    Args:
        encoders: of the inputs, in order.
        columns: the raw columns in the same order, all of the same number of rows.
        row_name: what a row is called in messages (0 is the first of these): "row 17 of partition 3".
        keep_bad: bad rows become zeros and are reported; else the first one is an error.

    Returns:
        Arrays of shape ``(rows, *encoder.shape)`` by name, and what is wrong with which row (0 is the first of these).

    Raises:
        SchemaError: a bad row, named with its number and value, or a column as a whole.
    """
    inputs: dict[str, np.ndarray] = {}
    problems: dict[int, str] = {}
    for encoder, column in zip(encoders, columns, strict=True):
        try:
            inputs[encoder.name] = encoder.encode(column)
        except SchemaError as error:
            if not error.rows:
                raise
            if not keep_bad:
                row = min(error.rows)
                value = shown(column[row].as_py())
                raise SchemaError(f"{error.rows[row]}; {row_name(row)} is {value}") from error
            inputs[encoder.name], found = _without_bad(encoder, column, error.rows)
            problems = found | problems
    return inputs, problems


def _without_bad(encoder: Encoder, column: pa.Array, bad: Mapping[int, str]) -> tuple[np.ndarray, dict[int, str]]:
    """The column encoded with zeros for the bad rows, and all that are bad: each error names those of one kind."""
    problems = dict(bad)
    values = np.zeros((len(column), *encoder.shape), encoder.dtype)
    while True:
        good = np.delete(np.arange(len(column)), list(problems))
        try:
            values[good] = encoder.encode(column.take(pa.array(good)))
            return values, problems
        except SchemaError as error:
            if not error.rows:
                raise
            problems |= {int(good[row]): problem for row, problem in error.rows.items()}
