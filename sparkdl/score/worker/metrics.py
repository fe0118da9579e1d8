"""Measure the rows, batches and seconds of scoring: counted in Spark workers, summed on the driver.

The sums travel in a Spark accumulator, which is made on the driver.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sparkdl import storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["Figures", "ScoreMetrics"]

_COUNTS = ("tasks", "rows", "bad_rows", "batches", "model_loads")
_STEPS = ("load", "wait", "encode", "predict", "convert")
_FIGURES = (*_COUNTS, *(f"{step}_seconds" for step in _STEPS), "seconds")


class Figures:
    """Hold the counts and seconds of one task. One thread alone writes each metric."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(_FIGURES, 0.0)

    def add(self, name: str, value: float) -> None:
        """Add `value` to a metric."""
        self.values[name] += value

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a metric."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.values[name] += time.perf_counter() - started


class _Sums:
    """Sum metrics for Spark (its AccumulatorParam; pickled by name)."""

    def zero(self, value: Mapping[str, float]) -> dict[str, float]:
        return dict.fromkeys(value, 0.0)

    def addInPlace(self, value1: dict[str, float], value2: Mapping[str, float]) -> dict[str, float]:
        for name, value in value2.items():
            value1[name] = value1.get(name, 0.0) + value
        return value1


class ScoreMetrics:
    """Sum the metrics of scoring over all tasks and actions that have ended.

    Give it as `metrics` to `transform`, `predict_udf`, `register_udf` or `score_parquet`. Spark adds a task's metrics
    when the task succeeds. Work that Spark repeats (an action that runs twice, a lost stage) counts again.

    Args:
        spark: the session that scores.
    """

    def __init__(self, spark: SparkSession) -> None:
        self.accumulator = spark.sparkContext.accumulator(dict.fromkeys(_FIGURES, 0.0), _Sums())  # type: ignore[arg-type]

    def figures(self) -> dict[str, float]:
        """Return the sums so far.

        Metrics: tasks, rows, bad_rows (null by `on_error="null"`), batches (calls of the model), model_loads, and
        seconds over all tasks: load_seconds (TensorFlow and the model), wait_seconds (the model waits for rows),
        encode_seconds (beside the model's work, in a thread), predict_seconds, convert_seconds (predictions to Arrow),
        and seconds in all; the rest of these seconds is the time of Spark, which takes the predictions.
        """
        value = self.accumulator.value
        return {name: int(value[name]) if name in _COUNTS else round(value[name], 3) for name in _FIGURES}

    def figures_since(self, before: Mapping[str, float]) -> dict[str, float]:
        """Return what the sums have grown by since `figures` returned `before`."""
        return {name: round(value - before[name], 3) for name, value in self.figures().items()}

    def summary(self) -> str:
        """Return one line: `4,000,000 rows in 3,912 batches, 2 model loads; seconds of 4 tasks: wait 0.5 …`."""
        figures = self.figures()
        bad = f" ({figures['bad_rows']:,} bad)" if figures["bad_rows"] else ""
        return (
            f"{figures['rows']:,} rows{bad} in {figures['batches']:,} batches, {figures['model_loads']} model loads; "
            f"seconds of {figures['tasks']} tasks: "
            + ", ".join(f"{step} {figures[f'{step}_seconds']:.1f}" for step in _STEPS)
            + f", all {figures['seconds']:.1f}"
        )

    def save(self, path: str) -> None:
        """Write the metrics as a JSON file."""
        storage.write_atomic(path, json.dumps(self.figures(), indent=1).encode())
