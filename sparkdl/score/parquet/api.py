"""Score Parquet files into Parquet files: each Spark task reads, predicts and writes; no row goes through the JVM.

Called on the driver.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkdl import storage
from sparkdl.data.dataset import find_dataset
from sparkdl.errors import ConfigError, DatasetError, SchemaError, near_miss, shown
from sparkdl.model.signature import Signature
from sparkdl.progress import TasksProgress
from sparkdl.score.commit import NewOutput, check_outside, new_output
from sparkdl.score.options import DEFAULT_BATCH_SIZE, ScoreOptions
from sparkdl.score.parquet.folder import ParquetFolder
from sparkdl.score.parquet.input import ParquetInput, split_input
from sparkdl.score.parquet.part import PartsPlan, Run, WrittenPart, runs_of_tasks, score_part
from sparkdl.score.parquet.spark_types import spark_keys
from sparkdl.score.plan import ScorePlan
from sparkdl.score.worker.encode import check_types
from sparkdl.score.worker.metrics import ScoreMetrics
from sparkdl.score.worker.predictions import prediction_type
from sparkdl.score.worker.prepared_rows import PreparedRows
from sparkdl.score.worker.spec import ScoreSpec, score_spec
from sparkdl.spark.errors import errors_from_workers
from sparkdl.spark.python_worker import drop_zip_importers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["ParquetPlan", "plan_scoring", "score_parquet", "score_planned"]

_TASK_BYTES = 512 << 20  # uncompressed, that a task reads; a lost task is repeated as a whole, and each costs 0.3 s


def score_parquet(
    spark: SparkSession,
    path: str,
    model_dir: str,
    out: str,
    *,
    keep: Sequence[str] | None = None,
    split: str | None = None,
    output_col: str = "prediction",
    returns: str = "raw",
    k: int = 5,
    batch_size: int = DEFAULT_BATCH_SIZE,
    on_error: str = "raise",
    device: str = "auto",
    metrics: ScoreMetrics | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    if_exists: str = "reuse",
) -> int:
    """Score the Parquet files at `path` into a new folder of Parquet files; rows stay in order.

    The output appears complete or not at all, whatever is killed; on an object store `_SUCCESS` shows that it is there.

    Args:
        spark: the session whose tasks read, score and write.
        path: a Parquet file, or a folder of Parquet files with one schema; `name=value` folders are columns. Or a
            prepared dataset, whose rows are encoded already. Every executor must see the path.
        model_dir: the path of a model, as in `result.model_dir`.
        out: the new folder.
        keep: the columns to write beside the prediction; None: all of the input's, of a dataset its kept columns.
        split: the split of a prepared dataset; None if the dataset has one split.
        output_col, on_error: as in `transform`.
        returns, k, batch_size, device, metrics, custom_objects, safe_mode: as in `predict_udf`.
        if_exists: "reuse", predictions at `out` of the same files, model, user's code and options are reused, with a
            warning, and others are an error; code of `__main__` or inside of functions never counts as the same.
            "error", any predictions are an error. "replace", they stay until the new ones are complete, which then
            replace them.

    Returns:
        The number of rows.

    Raises:
        ConfigError: `path` holds no Parquet files, or a Delta, Hudi or Iceberg table; `out` holds something else or is
            in `path`; or an option is wrong.
        ModelError: `model_dir` holds no model, or the model has no classes or fails.
        SchemaError: a column is missing, of another type than its encoder takes, differs from file to file, or would be
            read otherwise by Spark; a row, named by its number in its file, cannot be scored.
        DatasetError: the dataset has no such split; a file changed meanwhile.
    """
    options = ScoreOptions(returns, k, batch_size, on_error, device, custom_objects, safe_mode, output_col, keep)
    plan = plan_scoring(spark, path, model_dir, out, options, split=split, if_exists=if_exists)
    return score_planned(spark, plan, metrics)


def score_planned(spark: SparkSession, plan: ParquetPlan, metrics: ScoreMetrics | None) -> int:
    """Carry out a plan as `score_parquet` does; return the number of rows."""
    saved = plan.found()
    if saved is not None:
        return int(saved["rows"])
    metrics = metrics or ScoreMetrics(spark)
    before = metrics.figures()
    with new_output(plan.out, replace=plan.if_exists == "replace") as new:
        parts = _score(spark, plan, new, metrics)
        rows = sum(part.rows for part in parts)
        if rows != plan.source.rows:
            raise DatasetError(f"{plan.path} has {plan.source.rows} rows, {rows} were scored; score it again")
        saved = {"made_of": plan.made_of, "rows": rows, "figures": metrics.figures_since(before)}
        new.commit({part.file: part.bytes for part in parts}, saved)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetPlan(ScorePlan):
    """Describe an output of Parquet files: the result of all checks before any job.

    Attributes:
        path: the input, absolute.
        source: the files to read.
        parts: how tasks read, score and write them.
    """

    path: str
    source: ParquetInput
    parts: PartsPlan

    @property
    def columns(self) -> dict[str, str]:
        """The Arrow type of each column that will be written."""
        return {field.name: str(field.type) for field in self.parts.written}


def plan_scoring(
    spark: SparkSession,
    path: str,
    model_dir: str,
    out: str,
    options: ScoreOptions,
    *,
    split: str | None = None,
    if_exists: str = "reuse",
) -> ParquetPlan:
    """Plan a `score_parquet`, whose errors this raises; read the model and the files' footers."""
    task, signature = score_spec(model_dir, options)
    path, out = storage.absolute(path), storage.absolute(out)
    check_outside(out, path)
    source, kept, prepared = _source(spark, path, signature, options.keep, split)
    if prepared is None:
        types = pa.schema([*source.columns, *source.partition_columns])
        check_types(signature.inputs, {name: types.field(name).type for name in signature.input_names})
    written = _written(source, kept, prediction_type(signature, task.returns), options, spark.version)
    return ParquetPlan(
        out=out,
        if_exists=if_exists,
        made_of=_name(source, task, written) if task.code.is_named else None,
        path=path,
        source=source,
        parts=PartsPlan(
            inputs=prepared.columns if prepared else signature.input_names,
            types=source.columns,
            partition=source.partition_columns,
            written=written,
            keep=kept,
            score=task,
            prepared=prepared,
        ),
    )


def _source(
    spark: SparkSession, path: str, signature: Signature, keep: Sequence[str] | None, split: str | None
) -> tuple[ParquetInput, tuple[str, ...], PreparedRows | None]:
    """Return the files to read, the columns to keep and, for a prepared dataset, how to make inputs of its rows."""
    dataset = find_dataset(path)
    if dataset is not None:
        if split is None and len(dataset.splits) > 1:
            raise ConfigError(f"{path} is a prepared dataset: split must be one of {', '.join(dataset.splits)}")
        prepared = PreparedRows.of(dataset, signature)
        kept = _kept(dataset.keep, keep)
        return split_input(dataset, split or dataset.splits[0], [*prepared.columns, *kept]), kept, prepared
    if split is not None:
        raise ConfigError(f"split={shown(split)}: {path} is not a prepared dataset")
    folder = ParquetFolder.found(spark, path)
    columns = folder.columns
    for name in signature.input_names:
        if name not in columns:
            raise SchemaError(f"the model's input column {name!r} is not in {path}{near_miss(name, columns)}")
    kept = _kept(columns, keep)
    if keep is None:
        folder.check_all_read()
    read = [name for name in columns if name in kept or name in signature.input_names]
    return folder.reading(read, inputs=signature.input_names), kept, None


def _kept(columns: Sequence[str], keep: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns to write beside the prediction. Raises SchemaError."""
    if keep is None:
        return tuple(columns)
    for name in keep:
        if name not in columns:
            raise SchemaError(f"keep: column {name!r} is not in the input{near_miss(name, columns)}")
    return tuple(dict.fromkeys(keep))


def _written(
    source: ParquetInput, kept: Sequence[str], prediction: pa.DataType, options: ScoreOptions, spark_version: str
) -> pa.Schema:
    """Return the columns of the output, with Spark's metadata for them."""
    new = zip(options.new_columns(kept), (prediction, pa.string()), strict=False)
    fields = pa.schema([*source.columns, *source.partition_columns])
    schema = pa.schema([*(fields.field(name) for name in kept), *new])
    if source.spark_types is None:
        return schema
    # A new column may have the name of an input column that is not kept.
    known = {name: field for name, field in source.spark_types.items() if name in kept}
    return schema.with_metadata(spark_keys(schema, known, spark_version))


def _name(source: ParquetInput, task: ScoreSpec, written: pa.Schema) -> str:
    """Fingerprint the sources of the output, except how it is computed: batches, devices, tasks."""
    columns = [[field.name, str(field.type)] for field in written]
    return hashlib.sha256(json.dumps([source.name, task.content, columns]).encode()).hexdigest()[:32]


def _tasks(source: ParquetInput, parallelism: int) -> tuple[tuple[Run, ...], ...]:
    """Divide the files among tasks: as many tasks as run at once, or a multiple where each would read too much."""
    read = sum(file.total_bytes for file in source.files)
    rounds = max(1, -(-read // (parallelism * _TASK_BYTES)))
    return runs_of_tasks(source.files, tasks=parallelism * rounds)


def _score(spark: SparkSession, plan: ParquetPlan, new: NewOutput, metrics: ScoreMetrics) -> list[WrittenPart]:
    """Score in a Spark job; return the finished parts in order, one for each task, whatever attempts it had."""
    tasks = _tasks(plan.source, spark.sparkContext.defaultParallelism)
    # The job is sent these, and not the plan with all that the driver knows.
    parts, folder, lease, accumulator = plan.parts, new.folder, new.lease.file, metrics.accumulator

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        drop_zip_importers()
        for batch in batches:
            for number in batch.column(0).to_pylist():
                part = score_part(parts, number, tasks[number], folder, lease, accumulator)
                yield pa.RecordBatch.from_pylist([asdict(part)])

    numbers = spark.range(0, len(tasks), 1, numPartitions=len(tasks))
    with errors_from_workers(), TasksProgress(spark, "score"):
        found = numbers.mapInArrow(score, "task long, file string, rows long, bytes long").collect()
    return sorted((WrittenPart(*row) for row in found), key=lambda part: part.task)
