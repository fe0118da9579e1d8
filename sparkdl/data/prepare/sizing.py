"""Choose the number of parts of a dataset, of rows of a row group, and of rows of an Arrow batch.

Pure; called by prepare on the driver. The sizes depend on rows and bytes alone, not on the cluster, so that the same
input gives the same dataset everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["BINARY_BATCH_ROWS", "part_count", "rows_per_batch", "rows_per_row_group"]

# A task holds one row group while it writes, a rank holds lanes / workers of them: 192 lanes x 1 MiB fit anywhere.
ROW_GROUP_BYTES = 1 << 20
# Big enough for sequential reads from object stores, small enough that writing spreads over tasks.
PART_BYTES = 64 << 20
# Fewer parts would leave cores idle while even a small dataset is encoded.
FEWEST_PARTS = 4
# The size of an Arrow batch: a task holds it in buffers of the JVM and of Python, and in a few copies while it encodes.
BATCH_BYTES = 16 << 20
# Rows of an Arrow batch by content: numbers and words; arrays of any length; images, sounds, documents, which take long
# to decode, so that small batches add no noticeable time.
BATCH_ROWS, NESTED_BATCH_ROWS, BINARY_BATCH_ROWS = 10_000, 512, 64


def part_count(rows: int, record_bytes: int) -> int:
    """Return the number of parts for `rows` rows (of all splits) of `record_bytes` bytes each."""
    return max(FEWEST_PARTS, -(-rows * record_bytes // PART_BYTES))


def rows_per_row_group(rows: int, record_bytes: int, *, lanes: int, parts: int) -> int:
    """Return the number of rows of a full row group of a split.

    The number of row groups becomes at most, and nearly, a multiple of the lanes, so that all lanes are equally long
    and workers in any number up to the lanes get equal work; each part may end with a shorter row group.
    """
    rounds = max(1, -(-rows * record_bytes // (lanes * ROW_GROUP_BYTES)))
    full_row_groups = max(1, lanes * rounds - parts)
    return max(1, -(-rows // full_row_groups))


def rows_per_batch(raw_types: Iterable[str], record_bytes: int | None = None) -> int:
    """Return the number of rows that are handed to Python at once.

    Args:
        raw_types: Spark's types of the columns.
        record_bytes: bytes of an encoded row, or None while the lengths of arrays are unknown.
    """
    types = " ".join(raw_types)
    if "binary" in types:
        return BINARY_BATCH_ROWS
    if record_bytes is not None:
        return max(1, min(BATCH_ROWS, BATCH_BYTES // record_bytes))
    return NESTED_BATCH_ROWS if "<" in types or "vector" in types else BATCH_ROWS
