"""Bound the rows that Spark hands to Python at once, for the time of a job.

Used on the driver around Spark actions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["arrow_batches"]

_SETTING = "spark.sql.execution.arrow.maxRecordsPerBatch"


@dataclass(slots=True)
class _Bounds:
    """Hold the user's setting of a session, and the bounds of all blocks that are open on it, of several threads."""

    before: int
    rows: list[int] = field(default_factory=list)

    def lowest(self) -> int:
        # 0 and below: no limit.
        return min([*self.rows, self.before] if self.before > 0 else self.rows, default=self.before)


_of_session: dict[SparkSession, _Bounds] = {}
_lock = threading.Lock()


@contextmanager
def arrow_batches(spark: SparkSession, rows: int) -> Iterator[None]:
    """Bound the rows of an Arrow batch, within the block: up to Spark 4.0, nothing can bound its bytes.

    The bound is a setting of the session: other jobs that the session starts meanwhile get smaller batches, too, and
    nothing worse.
    """
    with _lock:
        bounds = _of_session.setdefault(spark, _Bounds(int(str(spark.conf.get(_SETTING)))))
        bounds.rows.append(rows)
        spark.conf.set(_SETTING, str(bounds.lowest()))
    try:
        yield
    finally:
        with _lock:
            bounds.rows.remove(rows)
            spark.conf.set(_SETTING, str(bounds.lowest()))
            if not bounds.rows:
                del _of_session[spark]
