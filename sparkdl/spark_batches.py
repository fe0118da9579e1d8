"""Bound the rows that Spark hands to Python at once, for the time of a job.

Used on the driver around Spark actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["arrow_batches"]

_SETTING = "spark.sql.execution.arrow.maxRecordsPerBatch"


@contextmanager
def arrow_batches(spark: SparkSession, rows: int) -> Iterator[None]:
    """Within the block, an Arrow batch has at most so many rows: up to Spark 4.0, nothing can bound its bytes.

    It is a setting of the session: other jobs that it starts meanwhile get smaller batches, too, and nothing worse.
    """
    before = str(spark.conf.get(_SETTING))
    # 0 and below: no limit.
    spark.conf.set(_SETTING, str(min(rows, int(before)) if int(before) > 0 else rows))
    try:
        yield
    finally:
        spark.conf.set(_SETTING, before)
