"""Name a DataFrame's columns so that dots, spaces and backticks in names do no harm.

Runs on the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column

__all__ = ["column"]


def column(name: str) -> Column:
    """The column of exactly this name; `F.col` would take `a.b` for field b of a."""
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")
