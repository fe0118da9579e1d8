"""Fit features: what each encoder must know of the train split, computed in Spark.

Driver; only statistics (moments, vocabularies, one first row) reach it, never the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cloudpickle
import pyarrow as pa

from sparkdl.data.columns import as_array, infer_shape
from sparkdl.data.features import Categorical, Encoder, Feature, Numeric, Tensor
from sparkdl.data.features.categorical import CategoricalEncoder
from sparkdl.data.features.numeric import Moments, NumericEncoder
from sparkdl.data.features.tensor import TensorEncoder
from sparkdl.errors import ConfigError, SchemaError
from sparkdl.spark_columns import column, map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["fit_encoders"]


def fit_encoders(train: DataFrame, features: Sequence[Feature], labels: Sequence[Feature]) -> list[Encoder]:
    """The encoders of all features, then of all labels, fitted over the train split's raw rows.

    Raises:
        SchemaError: a column's type or content does not fit its feature.
    """
    first = _first_row(train, [f.name for f in (*features, *labels)])
    numeric = {f.name: f for f in (*features, *labels) if isinstance(f, Numeric)}
    moments = _moments(train, numeric, first) if numeric else {}
    fitted: list[Encoder] = []
    for place, feature in enumerate((*features, *labels)):
        if isinstance(feature, Tensor):
            fitted.append(TensorEncoder.fit(feature, first[feature.name]))
        elif isinstance(feature, Numeric):
            fitted.append(NumericEncoder.fit(feature, moments[feature.name]))
        elif isinstance(feature, Categorical):
            fitted.append(_categorical(train, feature, is_label=place >= len(features)))
        else:
            raise ConfigError(f"{feature!r} is no feature that prepare knows")
    return fitted


def _first_row(train: DataFrame, names: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of one row, as Arrow sees them in a Spark worker."""

    def serialize(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, batch.schema) as stream:
                    stream.write_batch(batch)
                yield _bytes_row(sink.getvalue().to_pybytes())

    rows = train.select(*[column(name) for name in dict.fromkeys(names)]).limit(1)
    content = map_in_arrow(rows, serialize, "content binary").collect()[0]["content"]
    table = pa.ipc.open_stream(bytes(content)).read_all()
    return {name: as_array(table.column(name)) for name in table.column_names}


def _moments(train: DataFrame, numeric: dict[str, Numeric], first: dict[str, pa.Array]) -> dict[str, Moments]:
    """The moments of every numeric column: one pass, one small state a task, merged in the tasks' order."""
    shapes = {name: _numeric_shape(first[name], name) for name in numeric}

    def observe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        states: dict[str, Moments] = {}
        for batch in batches:
            for name, feature in numeric.items():
                values = batch.column(batch.schema.get_field_index(name))
                seen = Moments.of(values, name=name, shape=shapes[name], missing_allowed=feature.fill is not None)
                states[name] = states[name].merge(seen) if name in states else seen
        if states:
            task = TaskContext.get()
            yield _bytes_row(cloudpickle.dumps((task.partitionId() if task else 0, states)))

    rows = map_in_arrow(train.select(*[column(name) for name in numeric]), observe, "content binary").collect()
    merged: dict[str, Moments] = {}
    for _, states in sorted((cloudpickle.loads(row["content"]) for row in rows), key=lambda pair: int(pair[0])):
        for name, state in states.items():
            merged[name] = merged[name].merge(state) if name in merged else state
    return merged


def _numeric_shape(first: pa.Array, name: str) -> tuple[int, ...]:
    nested = pa.types.is_nested(first.type)
    return infer_shape(first, name=name) if nested else ()


def _categorical(train: DataFrame, feature: Categorical, *, is_label: bool) -> CategoricalEncoder:
    """Count the values in Spark; what arrives here is the vocabulary, at most `max_size` values if that is given."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import BooleanType, IntegralType, StringType

    values = column(feature.name)
    type_ = train.schema[feature.name].dataType
    if isinstance(type_, (BooleanType, IntegralType)):
        values = values.cast("long")
    elif not isinstance(type_, StringType):
        raise SchemaError(
            f"column {feature.name!r}: values of type {type_.simpleString()} are no categories; "
            "use strings or whole numbers"
        )
    counted = (
        train.select(values.alias("value"))
        .where(F.col("value").isNotNull())
        .groupBy("value")
        .agg(F.count(F.lit(1)).alias("rows"))
        .where(F.col("rows") >= feature.min_count)
    )
    if feature.max_size is not None and not is_label:
        counted = counted.orderBy(F.desc("rows"), F.asc("value")).limit(feature.max_size)
    pairs: list[tuple[Any, int]] = [(row["value"], row["rows"]) for row in counted.collect()]
    return CategoricalEncoder.fit(feature, pairs, is_label=is_label)


def _bytes_row(content: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([content], type=pa.binary())], names=["content"])
