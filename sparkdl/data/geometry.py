"""Decide how many parts a dataset gets and how many rows a row group.

Pure; called by prepare on the driver. It depends on rows and bytes alone, not on the cluster, so that the same input
gives the same dataset everywhere.
"""

from __future__ import annotations

__all__ = ["part_count", "rows_per_row_group"]

# A task holds one row group while it writes, a rank holds lanes / workers of them: 192 lanes x 1 MiB fit anywhere.
ROW_GROUP_BYTES = 1 << 20
# Big enough for sequential reads from object stores, small enough that writing spreads over tasks.
PART_BYTES = 64 << 20
# Fewer parts would leave cores idle while even a small dataset is encoded.
FEWEST_PARTS = 4


def part_count(rows: int, record_bytes: int) -> int:
    """The number of parts for so many rows (of all splits) of so many bytes."""
    return max(FEWEST_PARTS, -(-rows * record_bytes // PART_BYTES))


def rows_per_row_group(rows: int, record_bytes: int, *, lanes: int, parts: int) -> int:
    """Rows of a full row group of a split.

    The count of row groups comes out at most, and nearly, a multiple of the lanes, so that all lanes are equally long
    and every number of workers up to the lanes finds equal work; each part may end with a shorter row group.
    """
    rounds = max(1, -(-rows * record_bytes // (lanes * ROW_GROUP_BYTES)))
    full_row_groups = max(1, lanes * rounds - parts)
    return max(1, -(-rows // full_row_groups))
