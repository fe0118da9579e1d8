"""Word the errors for values that a column may not hold: nulls, text that is not UTF-8, and what an encoder refuses.

Pure; used wherever columns are encoded: in prepare's workers, in scoring and in `predict`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from sparkdl.errors import SchemaError, shown

__all__ = ["bad_rows", "check_no_nulls", "check_utf8", "refuse"]


def refuse(name: str, column: pa.Array, bad: np.ndarray, problem: str) -> None:
    """Raise SchemaError if any value is bad; it names the column, the number of rows with bad values, and the first.

    `bad`: bool, of any shape, in row order.
    """
    if bad.any():
        rows: list[int] = np.flatnonzero(bad.reshape(len(column), -1).any(axis=1)).tolist()
        raise bad_rows(name, column, dict.fromkeys(rows, problem))


def bad_rows(name: str, column: pa.Array, problems: Mapping[int, str]) -> SchemaError:
    """Build the error for a column from the problem of each bad row; `problems` holds at least one."""
    row = min(problems)
    message = (
        f"column {name!r}: {problems[row]} in {len(problems)} of {len(column)} rows; row {row} is "
        f"{shown(column[row].as_py())}"
    )
    return SchemaError(message, {row: f"column {name!r}: {problem}" for row, problem in problems.items()})


def check_no_nulls(name: str, column: pa.Array, way_out: str) -> None:
    """Raise SchemaError that names the column and one row if the column holds a null."""
    if column.null_count:
        bad = column.is_null().to_numpy(zero_copy_only=False)
        refuse(name, column, bad, f"null without a policy ({way_out})")


def check_utf8(name: str, column: pa.Array) -> None:
    """Raise SchemaError if text is not UTF-8: Spark's JVM replaces such bytes, so none of its words would be found."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid as error:
        contents = (value.as_py() or b"" for value in column.cast(pa.binary()))
        bad = next(content for content in contents if content.decode("utf-8", "replace").encode() != content)
        raise SchemaError(
            f"column {name!r}: text is not UTF-8, such as {shown(bad)}; give it the charset that it is of, as in "
            "decode(cast(… as binary), 'ISO-8859-1')"
        ) from error
