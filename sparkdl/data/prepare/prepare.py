"""Turn a DataFrame into a prepared dataset: find it, or divide, fit, shuffle once, encode, write, commit.

Driver; the rows themselves are touched by Spark and its Python workers only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparkdl import storage
from sparkdl.data import generations
from sparkdl.data.dataset import Dataset, Part, Source, find_dataset
from sparkdl.data.features import Encoder
from sparkdl.data.layout import RECORD_COLUMN, Field, RecordLayout
from sparkdl.data.prepare.apply_split import split_index
from sparkdl.data.prepare.count import CONTENT_COLUMN, Counted, count_rows, split_names
from sparkdl.data.prepare.fingerprint import name_content, name_source
from sparkdl.data.prepare.fit import fit_encoders
from sparkdl.data.prepare.input_files import files_stay, files_that_are_read
from sparkdl.data.prepare.nulls import all_nulls_named
from sparkdl.data.prepare.row_changes import check_rows_stay, warn_of_chance
from sparkdl.data.prepare.row_sums import whole_rows
from sparkdl.data.prepare.shuffle import ORDER_COLUMN, order_key
from sparkdl.data.prepare.sizing import part_count, rows_per_batch, rows_per_row_group
from sparkdl.data.prepare.write import check_counts, differing, hash_columns, write_rows
from sparkdl.data.prepare.writer import SPLIT_COLUMN, PartPlan
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import ConfigError, DatasetError, SchemaError, shown
from sparkdl.spark.arrow_batches import arrow_batches
from sparkdl.spark.columns import check_types, require_column
from sparkdl.spark.columns import column as named
from sparkdl.spark.errors import errors_from_workers
from sparkdl.spark.table_formats import check_plan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["check_arguments", "check_columns", "check_folder", "find_same", "prepare", "used_columns"]

log = logging.getLogger(__name__)

# The columns that prepare adds to the rows.
RESERVED = re.compile("__(split|order|place|content|hash|hash_[0-9]+)__")


def prepare(df: DataFrame, config: PrepareConfig) -> Dataset:
    """Write a DataFrame as a prepared dataset and open it; find the one that is there, if it was made of the same.

    Features are fitted over the train split only. The rows are shuffled once by `config.seed`; the stored order depends
    on the rows and the seed, not on the cluster. The same config, plan and input files find the finished dataset and
    write nothing; so do the same rows where no file names them (from memory, from Python code), after one pass over
    them. Otherwise a dataset that is already at the path is replaced when the new one is complete; handles to it stay
    readable until it is replaced once more. Several prepares may run at once: the last to finish stays.

    The DataFrame is read several times. Each reading adds up hashes of the rows, so that none can see others.

    Raises:
        ConfigError: not a DataFrame of Spark, a stream, a table's files read as plain Parquet, or no PrepareConfig.
        SchemaError: a column is missing, twice there, or not what its feature declares (names column and row).
        DatasetError: no rows, an empty split, a path that holds something else; a file that has changed since the
            DataFrame was made; columns whose values change from one reading to the next (names them).
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
    found = _find(path, source)
    if found is not None:
        return found
    raw_types = {name: df.schema[name].dataType.simpleString() for name in names}
    used, files = df.select(*map(named, names)), files_that_are_read(df)
    warn_of_chance(used)
    rows = _divided(used, config, raw_types, by_content=source.fingerprint is None)
    with files_stay(df.sparkSession, files):
        counted = count_rows(rows, config)
    if source.fingerprint is None:
        log.info("the rows are named by their content: %s; PrepareConfig(version=…) names them at once", obstacle)
        source = name_content(config, raw_types, counted.rows, counted.content, source.paths)
        found = _find(path, source)
        if found is not None:
            return found
    _warn_of_another(path)
    generation = generations.new_generation()
    with generations.Lease(path, generation) as lease:
        generations.sweep(path, lease)
        try:
            with all_nulls_named(used, config), files_stay(df.sparkSession, files):
                written, differs = _write_dataset(rows, counted, config, path, generation, source, raw_types)
            if differs:
                check_rows_stay(used, config, differs, raw_types)
                check_counts(written.parts, split_names(config), counted.rows)
            dataset = generations.commit(written, lease)
        except BaseException:
            generations.abandon(path, generation)
            raise
    log.info("prepared %s in %d parts at %s", _rows_by_split(dataset), len(dataset.parts), path)
    return dataset


def find_same(df: DataFrame, config: PrepareConfig, path: str) -> tuple[Dataset | None, bool]:
    """The dataset at the path, if `prepare` would give it back without reading rows; and whether it would read them
    before it knows.
    """
    source, _ = name_source(df, config)
    return _find(path, source), source.fingerprint is None


def _find(path: str, source: Source) -> Dataset | None:
    """The dataset at the path, if it is whole and was made of the same."""
    standing = find_dataset(path)
    if standing is None or source.fingerprint is None or standing.source.fingerprint != source.fingerprint:
        return None
    damage = generations.damage(standing)
    if damage:
        log.warning("%s is prepared anew: %s", path, damage)
        return None
    log.warning("found %s at %s, prepared from the same input: nothing is written", _rows_by_split(standing), path)
    return standing


def _warn_of_another(path: str) -> None:
    if find_dataset(path) is not None:
        log.warning("%s is prepared anew: what is there is of another input, configuration or setting of Spark", path)


def _write_dataset(
    rows: DataFrame,
    counted: Counted,
    config: PrepareConfig,
    path: str,
    generation: str,
    source: Source,
    raw_types: Mapping[str, str],
) -> tuple[Dataset, str]:
    """Fit and write: the dataset, complete but for its commit, and which readings of the rows differ, in words."""
    names = split_names(config)
    train = rows.where(f"{SPLIT_COLUMN} = {names.index('train')}")
    with arrow_batches(rows.sparkSession, rows_per_batch(raw_types.values())):
        fitted = fit_encoders(train, config.features, config.labels)
    encoders, label_encoders = fitted.encoders[: len(config.features)], fitted.encoders[len(config.features) :]
    layout = record_layout(encoders, label_encoders, config.weight)
    written_parts = part_count(sum(counted.rows), layout.row_bytes)
    hashes = hash_columns(fitted.seen)
    plan = PartPlan(
        folder=path,
        generation=generation,
        layout=layout,
        encoders={field.key: encoder for field, encoder in zip(layout.fields, fitted.encoders, strict=False)},
        weight=config.weight,
        keep=config.keep,
        splits=names,
        row_group_rows=tuple(
            rows_per_row_group(count, layout.row_bytes, lanes=config.lanes, parts=written_parts)
            for count in counted.rows
        ),
        hashes=(ORDER_COLUMN, *hashes),
    )
    with arrow_batches(rows.sparkSession, rows_per_batch(raw_types.values(), layout.row_bytes)):
        written, sums = write_rows(rows, plan, written_parts, hashes, raw_types, repeated=counted.repeated)
    dataset = Dataset(
        path=path,
        encoders=encoders,
        label_encoders=label_encoders,
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
    return dataset, differing(sums, counted, names, fitted.seen)


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
    reserved = [name for name in names if name == RECORD_COLUMN or RESERVED.fullmatch(name)]
    if reserved:
        raise SchemaError(f"column name {reserved[0]!r} is used by sparkdl itself; rename the column")
    check_types(df.schema, names)


def record_layout(encoders: Sequence[Encoder], labels: Sequence[Encoder], weight: str | None) -> RecordLayout:
    """The record of a row: features, labels, weight."""
    fields = [Field("feature", e.name, e.dtype.name, e.shape, e.stored) for e in encoders]
    fields += [Field("label", e.name, e.dtype.name, e.shape, e.stored) for e in labels]
    fields += [Field("weight", weight, "float32", ())] if weight else []
    return RecordLayout(tuple(fields))


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


def _divided(used: DataFrame, config: PrepareConfig, raw_types: Mapping[str, str], *, by_content: bool) -> DataFrame:
    """Each row's split (also of rows that are left out of all splits), and its place in the order, beside its columns.

    Args:
        by_content: also the hash that names rows by their content.
    """
    from pyspark.sql import functions as F

    place = F.lit(0) if config.splits is None else split_index(config.splits, raw_types)
    rows = used.select("*", place.alias(SPLIT_COLUMN), order_key(config.seed, raw_types).alias(ORDER_COLUMN))
    return rows.select("*", whole_rows(ORDER_COLUMN, raw_types).alias(CONTENT_COLUMN)) if by_content else rows


def _fingerprint(plan: PartPlan, written: Sequence[Part]) -> str:
    """Names the content: the generation is unique, the rest guards against an edited manifest."""
    content = [plan.generation, plan.layout.to_json(), [(part.file, part.row_groups) for part in written]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _rows_by_split(dataset: Dataset) -> dict[str, int]:
    return {name: dataset.split(name).rows for name in dataset.splits}
