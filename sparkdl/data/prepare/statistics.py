"""Compute statistics of raw columns in Spark: types and shapes, moments, medians, frequencies of values.

Runs on the driver, which receives one row, one small state a task, or as many values as a vocabulary keeps, never all
rows. Each pass over the rows also adds up their hashes, by which prepare checks that all passes saw the same rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import pyarrow as pa

from sparkdl.data.features import Categorical, Categories, Text
from sparkdl.data.features.categorical import as_categories
from sparkdl.data.features.categories import elements
from sparkdl.data.features.columns import as_array
from sparkdl.data.features.moments import Moments, checked_numbers, per_last_axis
from sparkdl.data.features.text import words
from sparkdl.data.prepare.row_sums import LIMBS, NOTHING, Seen, Sums, add, hash_of, sums_in
from sparkdl.spark.columns import column, map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["VOCABULARY_LIMIT", "NumberColumn", "counted_values", "first_row", "frequencies", "medians", "moments"]

# Values that a vocabulary without `max_size` may have: more values are probably ids, and would fill the driver.
VOCABULARY_LIMIT = 1_000_000
# The column with a row's hash over the columns that a pass reads; and the value of "place", the index of a feature, in
# rows that hold limbs of these hashes.
HASH_COLUMN = "__hash__"
SUMS_PLACE = -1


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """Hold the arguments of `checked_numbers` for a column."""

    name: str
    shape: tuple[int, ...]
    unit: str
    missing_allowed: bool
    columns: tuple[str, ...] = ()

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Return the values of a batch: float64, shape ``(rows, *self.shape)``, NaN where a value is missing."""
        return checked_numbers(batch.column(self.name), **dataclasses.asdict(self))


def first_row(rows: DataFrame, names: Iterable[str]) -> dict[str, pa.Array]:
    """Read the columns of one row, as Arrow arrays of a Spark worker; {} if `rows` is empty."""

    def serialize(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema) as stream:
                    stream.write_batch(batch)
                yield _bytes_row(sink.getvalue().to_pybytes())

    one = rows.select(*[column(name) for name in dict.fromkeys(names)]).limit(1)
    found = map_in_arrow(one, serialize, "content binary").collect()
    if not found:
        return {}
    table = pa.ipc.open_stream(bytes(found[0]["content"])).read_all()
    return {name: as_array(table.column(name)) for name in table.column_names}


def moments(rows: DataFrame, numbers: Sequence[NumberColumn]) -> tuple[dict[str, Moments], Seen]:
    """Compute the moments of every column by name: one pass, one small state a task, merged in the tasks' order."""
    names = tuple(number.name for number in numbers)

    def observe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        states: dict[str, Moments] = {}
        sums = NOTHING
        for batch in batches:
            sums = add(sums, sums_in(batch.column(HASH_COLUMN)))
            for number in numbers:
                _merge(states, number.name, Moments.of(number.of(batch), number.shape))
        if states:
            task = TaskContext.get()
            yield _bytes_row(cloudpickle.dumps((task.partitionId() if task else 0, states, sums)))

    found = map_in_arrow(_hashed(rows, names), observe, "content binary").collect()
    merged: dict[str, Moments] = {}
    total = NOTHING
    by_task = sorted((cloudpickle.loads(row["content"]) for row in found), key=lambda state: int(state[0]))
    for _, states, sums in by_task:
        total = add(total, sums)
        for name, state in states.items():
            _merge(merged, name, state)
    return merged, Seen("their statistics were computed", names, total)


def medians(rows: DataFrame, numbers: Sequence[NumberColumn]) -> tuple[dict[str, np.ndarray], Seen]:
    """Compute the exact medians of every column by name, per element of the last axis.

    Each has shape ``(last axis,)``, (1,) for scalars. A position without any value is NaN. Spark holds the distinct
    values of a position in one task's memory.
    """
    from pyspark.sql import functions as F

    names = tuple(number.name for number in numbers)

    def present(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            # Whole numbers below 2**53 add up without rounding as doubles, too.
            limbs = [np.full(len(LIMBS), SUMS_PLACE, np.int32), np.arange(len(LIMBS), dtype=np.int32)]
            limbs.append(np.array(sums_in(batch.column(HASH_COLUMN)), np.float64))
            yield pa.RecordBatch.from_arrays([pa.array(c) for c in limbs], names=["place", "position", "value"])
            for place, number in enumerate(numbers):
                matrix = per_last_axis(number.of(batch), number.shape)
                row, position = np.nonzero(~np.isnan(matrix))
                columns = [np.full(len(row), place, np.int32), position.astype(np.int32), matrix[row, position]]
                yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], names=["place", "position", "value"])

    values = map_in_arrow(_hashed(rows, names), present, "place int, position int, value double")
    result = {number.name: np.full(number.shape[-1] if number.shape else 1, np.nan) for number in numbers}
    limbs = list(NOTHING)
    aggregates = F.median("value").alias("median"), F.sum("value").alias("sum")
    for row in values.groupBy("place", "position").agg(*aggregates).collect():
        if row["place"] == SUMS_PLACE:
            limbs[row["position"]] = int(row["sum"])
        else:
            result[numbers[row["place"]].name][row["position"]] = row["median"]
    return result, Seen("their medians were computed", names, tuple(limbs))


def frequencies(
    rows: DataFrame, features: Sequence[Categorical | Categories | Text]
) -> tuple[list[list[tuple[Any, int]]], Seen]:
    """Count each feature's most frequent values, as many as it keeps, as (value, count) pairs: one pass for all.

    A feature without `max_size` gets at most `VOCABULARY_LIMIT` + 1 pairs.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    names = tuple(dict.fromkeys(feature.name for feature in features))

    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _limbs(sums_in(batch.column(HASH_COLUMN)))
            for place, feature in enumerate(features):
                yield _counted(place, counted_values(batch.column(feature.name), feature))

    counted = map_in_arrow(_hashed(rows, names), count, "place int, text string, number long, rows long")
    least = F.array(*[F.lit(feature.min_count) for feature in features])
    most = F.array(*[F.lit(feature.max_size or VOCABULARY_LIMIT + 1) for feature in features])
    by_frequency = Window.partitionBy("place").orderBy(F.desc("rows"), F.asc("text"), F.asc("number"))
    kept = (
        counted.groupBy("place", "text", "number")
        .agg(F.sum("rows").alias("rows"))
        .where((F.col("place") == SUMS_PLACE) | (F.col("rows") >= F.get(least, F.col("place"))))
        .select("*", F.row_number().over(by_frequency).alias("rank"))
        .where((F.col("place") == SUMS_PLACE) | (F.col("rank") <= F.get(most, F.col("place"))))
    )
    pairs: list[list[tuple[Any, int]]] = [[] for _ in features]
    limbs = list(NOTHING)
    for row in kept.collect():
        if row["place"] == SUMS_PLACE:
            limbs[row["number"]] = row["rows"]
            continue
        value = row["number"] if row["text"] is None else row["text"]
        pairs[row["place"]].append((value, row["rows"]))
    return pairs, Seen("their values were counted", names, tuple(limbs))


def counted_values(values: pa.Array, feature: Categorical | Categories | Text) -> pa.Array:
    """Return the values of a column that a vocabulary counts, by the code that also encodes the column."""
    if isinstance(feature, Text):
        return words(
            values, name=feature.name, fill=feature.fill, normalize=feature.normalize, tokenizer=feature.tokenizer
        )[0]
    if isinstance(feature, Categories):
        return elements(values, name=feature.name, missing=feature.missing)[0]
    is_category = feature.missing == "category"
    return as_categories(values, name=feature.name, fill=feature.fill, nulls=is_category).drop_null()


def _counted(place: int, values: pa.Array) -> pa.RecordBatch:
    """Return the distinct values of a batch and their counts, for Spark to add up."""
    counts = values.value_counts()
    distinct = counts.field("values")
    number = pa.types.is_integer(distinct.type)
    return pa.RecordBatch.from_pydict(
        {
            "place": np.full(len(counts), place, np.int32),
            "text": pa.nulls(len(counts), pa.string()) if number else distinct.cast(pa.string()),
            "number": distinct if number else pa.nulls(len(counts), pa.int64()),
            "rows": counts.field("counts"),
        }
    )


def _limbs(sums: Sums) -> pa.RecordBatch:
    """Return sums of hashes in the form of counted values, for Spark to add up: a limb's number, its sum as `rows`."""
    return pa.RecordBatch.from_pydict(
        {
            "place": np.full(len(sums), SUMS_PLACE, np.int32),
            "text": pa.nulls(len(sums), pa.string()),
            "number": np.arange(len(sums)),
            "rows": pa.array(sums, pa.int64()),
        }
    )


def _hashed(rows: DataFrame, names: Sequence[str]) -> DataFrame:
    """Select columns, and the hash of each row over these."""
    types = {name: rows.schema[name].dataType.simpleString() for name in names}
    return rows.select(*map(column, names), hash_of(names, types).alias(HASH_COLUMN))


def _merge(states: dict[str, Moments], name: str, more: Moments) -> None:
    states[name] = states[name].merge(more) if name in states else more


def _bytes_row(content: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([content], type=pa.binary())], names=["content"])
