"""Encode raw Arrow columns for the model, and find the rows that cannot be encoded.

Pure; runs in Spark workers, in the thread that prefetches for the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from sparkdl.data.features import Encoder
from sparkdl.data.features.bad_values import shown_row
from sparkdl.data.features.columns import raw_values
from sparkdl.data.features.feature import raw_columns
from sparkdl.errors import SchemaError

__all__ = ["check_types", "encode_columns"]


def check_types(encoders: Sequence[Encoder], types: Mapping[str, pa.DataType]) -> None:
    """Raise SchemaError for a column whose type its encoder never takes; the shapes of values show only in the rows."""
    for encoder in encoders:
        encoder.encode(raw_values(encoder, {name: pa.array([], types[name]) for name in raw_columns(encoder)}))


def encode_columns(
    encoders: Sequence[Encoder], columns: Mapping[str, pa.Array], *, row_name: Callable[[int], str], keep_bad: bool
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Encode raw columns, by name, as the model's inputs; return also the bad rows with their reasons.

    Args:
        row_name: names a row in messages (0 is the first of these rows): "row 17 of partition 3".
        keep_bad: bad rows become zeros and are reported; else the first bad row raises an error.

    Returns:
        Arrays of shape ``(rows, *encoder.shape)`` by name, and the error of each bad row (0 is the first row).

    Raises:
        SchemaError: a bad row, named with its number and value, or a column as a whole.
    """
    inputs: dict[str, np.ndarray] = {}
    problems: dict[int, str] = {}
    for encoder in encoders:
        column = raw_values(encoder, columns)
        try:
            inputs[encoder.name] = encoder.encode(column)
        except SchemaError as error:
            if not error.rows:
                raise
            if not keep_bad:
                row = min(error.rows)
                # A problem of one of several columns says that column's value.
                value = "" if raw_columns(encoder) != (encoder.name,) else f" is {shown_row(column, row)}"
                raise SchemaError(f"{error.rows[row]}; {row_name(row)}{value}") from error
            inputs[encoder.name], found = _without_bad(encoder, column, error.rows)
            problems = found | problems
    return inputs, problems


def _without_bad(encoder: Encoder, column: pa.Array, bad: Mapping[int, str]) -> tuple[np.ndarray, dict[int, str]]:
    """Encode a column with zeros for the bad rows; return also all bad rows, since an error names rows of one kind."""
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
