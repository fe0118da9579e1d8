"""Word the errors for values that a column may not hold: nulls, text that is not UTF-8, and what an encoder refuses.

Pure; used wherever columns are encoded: in prepare's workers, in scoring and in `predict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from sparkdl.data.features.column_types import is_list
from sparkdl.errors import SchemaError, shown

__all__ = ["bad_rows", "check_no_nulls", "check_utf8", "refuse", "refuse_values", "shown_row"]


def refuse(name: str, column: pa.Array, bad: np.ndarray, problem: str) -> None:
    """Raise SchemaError if any value is bad; it names the column, the number of rows with bad values, and the first.

    `bad`: bool, of any shape, in row order.
    """
    if bad.any():
        rows: list[int] = np.flatnonzero(bad.reshape(len(column), -1).any(axis=1)).tolist()
        raise bad_rows(name, column, dict.fromkeys(rows, problem))


def refuse_values(name: str, columns: Sequence[str], column: pa.Array, bad: np.ndarray, problem: str) -> None:
    """Raise SchemaError if any value is bad, as `refuse`; of several columns it names each row's first bad one.

    Args:
        name: of the input.
        columns: the raw columns side by side in `column`, in order; () if it is one column, `name`.
        bad: bool, shape ``(rows, …)``; with `columns` ``(rows, columns)``.
    """
    if not columns:
        refuse(name, column, bad, problem)
    elif bad.any():
        rows = np.flatnonzero(bad.any(axis=1))
        places = bad[rows].argmax(axis=1).tolist()
        own = {
            row: f"column {columns[place]!r}: {problem} ({shown(column[row][place].as_py())})"
            for row, place in zip(rows.tolist(), places, strict=True)
        }
        count = f"in {int(bad[:, places[0]].sum())} of {len(column)} rows"
        raise SchemaError(f"{own[int(rows[0])]} {count}, the first is row {rows[0]}", own)


def bad_rows(name: str, column: pa.Array, problems: Mapping[int, str]) -> SchemaError:
    """Build the error for a column from the problem of each bad row; `problems` holds at least one."""
    row = min(problems)
    message = (
        f"column {name!r}: {problems[row]} in {len(problems)} of {len(column)} rows; row {row} is "
        f"{shown_row(column, row)}"
    )
    return SchemaError(message, {row: f"column {name!r}: {problem}" for row, problem in problems.items()})


def shown_row(column: pa.Array, row: int) -> str:
    """Return a row's value for a message, at most 80 characters; as bytes where it holds text that is not UTF-8."""
    try:
        return shown(column[row].as_py())
    except UnicodeDecodeError:
        as_bytes = pa.list_(pa.binary()) if is_list(column.type) else pa.binary()
        return shown(column[row : row + 1].cast(as_bytes)[0].as_py())


def check_no_nulls(name: str, column: pa.Array, way_out: str) -> None:
    """Raise SchemaError that names the column and one row if the column holds a null."""
    if column.null_count:
        bad = column.is_null().to_numpy(zero_copy_only=False)
        refuse(name, column, bad, f"null without a policy ({way_out})")


def check_utf8(name: str, column: pa.Array) -> None:
    """Raise SchemaError that names the rows whose text is not UTF-8: the JVM replaces such bytes, so no word is found.

    Spark's readers of text and CSV pass the bytes of files in other charsets through as they are.
    """
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        contents = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
        bad = np.array([not _is_utf8(content) for content in contents.to_pylist()], dtype=bool)
        way_out = "give it its charset, as in decode(cast(… as binary), 'ISO-8859-1')"
        refuse(name, column, bad, f"text that is not UTF-8 ({way_out})")
        raise


def _is_utf8(content: bytes | None) -> bool:
    try:
        (content or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
