"""Turn a DataFrame into a prepared dataset: find it, or divide, fit, shuffle once, encode, write, commit.

Driver; the rows themselves are touched by Spark and its Python workers only.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from sparkdl import storage
from sparkdl.config import PrepareConfig
from sparkdl.data import generations
from sparkdl.data import parts as part_files
from sparkdl.data.dataset import Dataset, Part, Source, find_dataset
from sparkdl.data.features import Encoder
from sparkdl.data.fit_features import fit_encoders
from sparkdl.data.geometry import part_count, rows_per_batch, rows_per_row_group
from sparkdl.data.layout import RECORD_COLUMN, Field, RecordLayout
from sparkdl.data.nulls import all_nulls_named
from sparkdl.data.parts import SPLIT_COLUMN, PartPlan
from sparkdl.data.source import name_source
from sparkdl.data.split_rows import LEFT_OUT, split_index
from sparkdl.data.stored_order import ORDER_COLUMN, different_rows, order_key, repeats, shuffled
from sparkdl.data.table_formats import check_plan
from sparkdl.errors import ConfigError, DatasetError, SchemaError, shown
from sparkdl.spark_batches import arrow_batches
from sparkdl.spark_columns import check_types, map_in_arrow, require_column
from sparkdl.spark_columns import column as named
from sparkdl.spark_errors import errors_from_workers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["check_arguments", "check_columns", "check_folder", "find_same", "prepare", "used_columns"]

log = logging.getLogger(__name__)


def prepare(df: DataFrame, config: PrepareConfig) -> Dataset:
    """Write a DataFrame as a prepared dataset and open it; find the one that is there, if it was made of the same.

    Features are fitted over the train split only. The rows are shuffled once by `config.seed`; the stored order depends
    on the rows and the seed, not on the cluster. The same config, plan and input files find the finished dataset and
    write nothing. Otherwise a dataset that is already at the path is replaced when the new one is complete; handles to
    it stay readable until it is replaced once more. Several prepares may run at once: the last to finish stays.

    Raises:
        ConfigError: not a DataFrame of Spark, a stream, a table's files read as plain Parquet, or no PrepareConfig.
        SchemaError: a column is missing, twice there, or not what its feature declares (names column and row).
        DatasetError: no rows, an empty split, or a path that holds something else.
    """
    check_arguments(df, config)
    with errors_from_workers():
        return _prepare(df, config, storage.absolute(config.path))


def check_arguments(df: object, config: object) -> None:
    """Raise ConfigError for what is no batch DataFrame of Spark, a table read as plain files, or no PrepareConfig."""
    if not hasattr(df, "sparkSession") or not hasattr(df, "mapInArrow"):
        raise ConfigError(f"prepare takes a Spark DataFrame, not {type(df).__name__}; spark.createDataFrame makes one")
    if df.isStreaming:  # type: ignore[attr-defined]
        raise ConfigError("prepare takes a DataFrame that ends, not a stream")
    if not isinstance(config, PrepareConfig):
        raise ConfigError(f"prepare takes a PrepareConfig, not {type(config).__name__}")
    check_plan(df)  # type: ignore[arg-type]


def _prepare(df: DataFrame, config: PrepareConfig, path: str) -> Dataset:
    names = used_columns(config)
    check_columns(df, names)
    check_folder(path)
    try:
        storage.make_folder(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error
    source, obstacle = name_source(df, config)
    found = _find(path, source, obstacle)
    if found is not None:
        return found
    generation = generations.new_generation()
    with generations.Lease(path, generation) as lease:
        generations.sweep(path, lease)
        try:
            with all_nulls_named(df.select(*map(named, used_columns(config))), config):
                written = _write_dataset(df, config, path, generation, source)
            dataset = generations.commit(written, lease)
        except BaseException:
            generations.abandon(path, generation)
            raise
    log.info("prepared %s in %d parts at %s", _rows_by_split(dataset), len(dataset.parts), path)
    return dataset


def find_same(df: DataFrame, config: PrepareConfig, path: str) -> Dataset | None:
    """The dataset at the path, if `prepare` would give it back."""
    return _find(path, *name_source(df, config))


def _find(path: str, source: Source, obstacle: str) -> Dataset | None:
    """The dataset at the path, if it is whole and was made of the same."""
    standing = find_dataset(path)
    if source.fingerprint is None:
        log.info("%s is prepared anew whenever asked for: %s; PrepareConfig(version=…) can name it", path, obstacle)
        return None
    if standing is None or standing.source.fingerprint != source.fingerprint:
        return None
    damage = generations.damage(standing)
    if damage:
        log.warning("%s is prepared anew: %s", path, damage)
        return None
    log.info("found %s at %s, prepared from the same input", _rows_by_split(standing), path)
    return standing


def _write_dataset(df: DataFrame, config: PrepareConfig, path: str, generation: str, source: Source) -> Dataset:
    """Divide, count, fit and write; what comes back is complete but for its commit."""
    names = used_columns(config)
    raw_types = {name: df.schema[name].dataType.simpleString() for name in names}
    rows = _divided(df, config, raw_types)
    counts, repeated = _count(rows, config)
    train = rows.where(f"{SPLIT_COLUMN} = {_split_names(config).index('train')}")
    with arrow_batches(df.sparkSession, rows_per_batch(raw_types.values())):
        fitted = fit_encoders(train, config.features, config.labels)
    encoders, label_encoders = fitted[: len(config.features)], fitted[len(config.features) :]
    layout = record_layout(encoders, label_encoders, config.weight)
    written_parts = part_count(sum(counts), layout.row_bytes)
    plan = PartPlan(
        folder=path,
        generation=generation,
        layout=layout,
        encoders={field.key: encoder for field, encoder in zip(layout.fields, fitted, strict=False)},
        weight=config.weight,
        keep=config.keep,
        splits=_split_names(config),
        row_group_rows=tuple(
            rows_per_row_group(count, layout.row_bytes, lanes=config.lanes, parts=written_parts) for count in counts
        ),
    )
    with arrow_batches(df.sparkSession, rows_per_batch(raw_types.values(), layout.row_bytes)):
        written = _write(rows, plan, written_parts, repeated=repeated)
    check_counts(written, _split_names(config), counts)
    return Dataset(
        path=path,
        encoders=tuple(encoders),
        label_encoders=tuple(label_encoders),
        weight=config.weight,
        keep=config.keep,
        raw_types=raw_types,
        rule=config.splits,
        seed=config.seed,
        lanes=config.lanes,
        layout=layout,
        parts=tuple(written),
        fingerprint=_fingerprint(plan, written),
        source=source,
    )


def used_columns(config: PrepareConfig) -> list[str]:
    """Every raw column that the dataset reads, once each, in a fixed order."""
    names = [f.name for f in (*config.features, *config.labels)]
    names += [config.weight] if config.weight else []
    names += list(config.keep)
    names += list(config.splits.columns) if config.splits else []
    return list(dict.fromkeys(names))


def check_columns(df: DataFrame, names: Sequence[str]) -> None:
    """Raise SchemaError for a missing, an ambiguous or a reserved column name, and for a type that cannot be read."""
    for name in names:
        require_column(df.columns, name)
    reserved = {RECORD_COLUMN, SPLIT_COLUMN, ORDER_COLUMN} & set(names)
    if reserved:
        raise SchemaError(f"column name {sorted(reserved)[0]!r} is used by sparkdl itself; rename the column")
    check_types(df.schema, names)


def record_layout(encoders: Sequence[Encoder], labels: Sequence[Encoder], weight: str | None) -> RecordLayout:
    """The record of a row: features, labels, weight."""
    fields = [Field("feature", e.name, e.dtype.name, e.shape, e.stored) for e in encoders]
    fields += [Field("label", e.name, e.dtype.name, e.shape, e.stored) for e in labels]
    fields += [Field("weight", weight, "float32", ())] if weight else []
    return RecordLayout(tuple(fields))


def check_counts(parts: Sequence[Part], names: Sequence[str], counts: Sequence[int]) -> None:
    """Raise DatasetError if what was written is not what was counted: the input changed in between."""
    for name, count in zip(names, counts, strict=True):
        written = sum(sum(part.row_groups) for part in parts if part.split == name)
        if written != count:
            raise DatasetError(
                f"split {name!r} had {count} rows when it was counted and {written} when it was written; "
                "the input changes while it is read: write it to files first"
            )


def check_folder(path: str) -> bool:
    """Whether anything is there. Raises DatasetError for a folder that holds something other than a dataset."""
    try:
        names = storage.listing(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    strange = [name for name in names if not generations.is_ours(name)]
    if strange:
        raise DatasetError(f"{path} holds {shown(strange[0])}, which is no part of a dataset; choose an empty folder")
    return bool(names)


def _split_names(config: PrepareConfig) -> tuple[str, ...]:
    return ("train",) if config.splits is None else config.splits.names


def _divided(df: DataFrame, config: PrepareConfig, raw_types: Mapping[str, str]) -> DataFrame:
    """The used columns, each row's split (also of rows that are left out of all splits), and its place in the order."""
    from pyspark.sql import functions as F

    place = F.lit(0) if config.splits is None else split_index(config.splits, raw_types)
    columns = [named(name) for name in raw_types]
    return df.select(*columns, place.alias(SPLIT_COLUMN), order_key(config.seed, raw_types).alias(ORDER_COLUMN))


def _count(rows: DataFrame, config: PrepareConfig) -> tuple[list[int], bool]:
    """Rows of each split, in the order of their names, and whether many rows repeat others.

    Raises DatasetError for no rows, an empty split, or rows that have none.
    """
    from pyspark.sql import functions as F

    figures = F.count(F.lit(1)).alias("rows"), different_rows().alias("different")
    found = rows.groupBy(SPLIT_COLUMN).agg(*figures).collect()
    counts = {row[SPLIT_COLUMN]: row["rows"] for row in found}
    if not counts:
        raise DatasetError("the DataFrame has no rows")
    if None in counts:
        raise _no_split(rows.where(f"{SPLIT_COLUMN} is null"), config, counts[None])
    if LEFT_OUT in counts:
        log.info("%d rows are in no split and are left out", counts[LEFT_OUT])
    by_split = [counts.get(place, 0) for place in range(len(_split_names(config)))]
    for name, count in zip(_split_names(config), by_split, strict=True):
        if count == 0:
            raise DatasetError(
                f"split {name!r} is empty ({sum(by_split)} rows in all); give it a larger share, or drop it from splits"
            )
    return by_split, any(repeats(row["rows"], row["different"]) for row in found)


def _no_split(rows: DataFrame, config: PrepareConfig, count: int) -> DatasetError:
    """The error for rows whose columns do not answer the split's rule; shows one of them."""
    read = config.splits.columns if config.splits else ()
    one = rows.select(*[named(name) for name in read]).first()
    values = ", ".join(f"{name!r} is {shown(value)}" for name, value in zip(read, one or (), strict=False))
    need = f"one of {shown(_split_names(config))}" if config.splits and config.splits.kind == "column" else "a time"
    return DatasetError(f"{count} rows have no split: in one of them column {values}, which must be {need}")


def _write(rows: DataFrame, plan: PartPlan, parts: int, *, repeated: bool) -> list[Part]:
    """Shuffle and write; a part for each task and split."""

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        task = TaskContext.get()
        partition = task.partitionId() if task else 0
        yield from part_files.descriptions(part_files.write_parts(batches, plan, partition), partition)

    stored = shuffled(rows.where(f"{SPLIT_COLUMN} != {LEFT_OUT}"), parts, repeated=repeated)
    found = map_in_arrow(stored, write, "partition long, part string").collect()
    described = [json.loads(row["part"]) for row in sorted(found, key=lambda row: row["partition"])]
    return [Part(part["file"], part["split"], tuple(part["row_groups"]), part["bytes"]) for part in described]


def _fingerprint(plan: PartPlan, written: Sequence[Part]) -> str:
    """Names the content: the generation is unique, the rest guards against an edited manifest."""
    content = [plan.generation, plan.layout.to_json(), [(part.file, part.row_groups) for part in written]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _rows_by_split(dataset: Dataset) -> dict[str, int]:
    return {name: dataset.split(name).rows for name in dataset.splits}
