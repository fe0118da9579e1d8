"""Score a whole DataFrame, Arrow in and Arrow out: the fast path.

Called on the driver; the rows pass through Spark workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkdl.errors import ConfigError, SchemaError, near_miss, shown
from sparkdl.model.signature import Signature
from sparkdl.score.encode import check_types
from sparkdl.score.figures import ScoreMetrics
from sparkdl.score.outputs import spark_type
from sparkdl.score.task import DEFAULT_BATCH_SIZE, score_task
from sparkdl.spark_columns import map_in_arrow

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["transform"]


def transform(
    df: DataFrame,
    model_dir: str,
    *,
    output_col: str = "prediction",
    returns: str = "raw",
    k: int = 5,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_error: str = "raise",
    device: str = "auto",
    metrics: ScoreMetrics | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> DataFrame:
    """The DataFrame with one more column, the prediction; every other column and every row stays. Streams, too.

    Args:
        df: raw rows, with a column for each of the model's inputs.
        model_dir: as in `result.model_dir`.
        output_col: the new column's name.
        on_error: "raise", as in `predict_udf`; or "null", a row that cannot be scored has the prediction null, and the
            reason in a second new column, `<output_col>_error`, a string, null for all others.
        returns, k, batch_size, device, metrics, custom_objects, safe_mode: as in `predict_udf`.

    Raises:
        ModelError: no model there, or it has no classes.
        ConfigError: an option is wrong.
        SchemaError: an input column is missing or of a type that its encoder does not take, or a new column is already
            there.
    """
    from pyspark.sql.types import StringType, StructField, StructType

    task, signature = score_task(
        model_dir,
        returns=returns,
        k=k,
        batch_size=batch_size,
        on_error=on_error,
        device=device,
        custom_objects=custom_objects,
        safe_mode=safe_mode,
        spark=df.sparkSession,
    )
    _check_input_columns(df, signature)
    if not isinstance(output_col, str) or not output_col:
        raise ConfigError(f"output_col={shown(output_col)} must be the name of a column")
    added = [StructField(output_col, spark_type(signature, task.returns))]
    if task.on_error == "null":
        added.append(StructField(f"{output_col}_error", StringType()))
    for field in added:
        # Spark's names do not tell upper from lower case.
        if field.name.lower() in (name.lower() for name in df.columns):
            raise SchemaError(f"the DataFrame already has a column {field.name!r}; choose another output_col")
    places = [df.columns.index(name) for name in signature.input_names]
    names = [*df.columns, *(field.name for field in added)]
    accumulator = None if metrics is None else metrics.accumulator

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from sparkdl.score.scoring import piece_rows, score_batches

        rows = piece_rows(task)
        pieces = (
            (piece, [piece.column(place) for place in places])
            for batch in batches
            for piece in (batch.slice(start, rows) for start in range(0, max(batch.num_rows, 1), rows))
        )
        for scored in score_batches(pieces, task, accumulator):
            columns = [*scored.source.columns, scored.prediction]
            if task.on_error == "null":
                columns.append(scored.reasons)
            yield pa.RecordBatch.from_arrays(columns, names=names)

    return map_in_arrow(df, score, StructType([*df.schema.fields, *added]))


def _check_input_columns(df: DataFrame, signature: Signature) -> None:
    """Raise SchemaError if a DataFrame lacks a column of the model's inputs, or has one of a type that is not taken."""
    from pyspark.sql.pandas.types import to_arrow_schema

    for name in signature.input_names:
        if df.columns.count(name) > 1:
            raise SchemaError(f"the model's input column {name!r} is {df.columns.count(name)} times in the DataFrame")
        if name not in df.columns:
            raise SchemaError(f"the model's input column {name!r} is not in the DataFrame{near_miss(name, df.columns)}")
    fields = [df.schema.fields[df.columns.index(name)] for name in signature.input_names]
    types = to_arrow_schema(type(df.schema)(fields)).types
    check_types(signature.inputs, dict(zip(signature.input_names, types, strict=True)))
