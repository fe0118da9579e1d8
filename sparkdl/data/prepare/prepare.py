"""Turn a DataFrame into a prepared dataset: find it, or divide, fit, shuffle once, encode, write, commit.

Runs on the driver; rows are processed only by Spark and its Python workers.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sparkdl import storage
from sparkdl.data import generations
from sparkdl.data.dataset import Dataset, Source, find_dataset
from sparkdl.data.features import Encoder
from sparkdl.data.layout import Field, RecordLayout
from sparkdl.data.prepare.all_nulls import all_nulls_named
from sparkdl.data.prepare.columns import side_by_side, types_side_by_side
from sparkdl.data.prepare.count import CONTENT_COLUMN, Counted, count_rows, split_names
from sparkdl.data.prepare.fingerprint import name_content
from sparkdl.data.prepare.fit import fit_encoders
from sparkdl.data.prepare.input_files import files_stay, files_that_are_read
from sparkdl.data.prepare.plan import (
    PreparePlan,
    declared_columns,
    find_made_of,
    other_columns,
    plan_prepare,
    rows_by_split,
)
from sparkdl.data.prepare.row_changes import check_rows_stay, warn_of_chance
from sparkdl.data.prepare.row_sums import whole_rows
from sparkdl.data.prepare.shuffle import ORDER_COLUMN, order_key
from sparkdl.data.prepare.sizing import part_count, rows_per_batch, rows_per_row_group
from sparkdl.data.prepare.splits.apply import split_index
from sparkdl.data.prepare.splits.resolve import resolved_split
from sparkdl.data.prepare.write import check_counts, differing, hash_columns, write_rows
from sparkdl.data.prepare.writer import SPLIT_COLUMN, PartPlan
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import DatasetError
from sparkdl.spark.arrow_batches import arrow_batches
from sparkdl.spark.columns import column as named
from sparkdl.spark.errors import errors_from_workers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["prepare"]

log = logging.getLogger(__name__)


def prepare(df: DataFrame, config: PrepareConfig) -> Dataset:
    """Write a DataFrame as a prepared dataset and open it, or open the one at the path if it has the same input.

    Features are fitted over the train split only. The rows are shuffled once by `config.seed`; the stored order depends
    on the rows and the seed, not on the cluster. The same config, plan and input files find the finished dataset and
    write nothing; so do the same rows that no file identifies (from memory, from Python code), after one pass over
    the rows. Otherwise a dataset that is already at the path is replaced when the new one is complete; handles to
    the old one stay readable until the next replacement. Several prepares may run at once: the last to finish stays.

    The DataFrame is read several times. Each reading adds up hashes of the rows, to detect that readings see other
    rows.

    Raises:
        ConfigError: `df` is not a DataFrame of Spark, is a stream, or reads a table's files as plain Parquet; `config`
            is not a PrepareConfig.
        SchemaError: a column is missing, ambiguous, or not what its feature declares (names column and row).
        DatasetError: no rows, an empty split, a path that holds something else; a file that has changed since the
            DataFrame was made; columns whose values change from one reading to the next (names these).
    """
    with errors_from_workers():
        return _prepare(df, config, plan_prepare(df, config))


def _prepare(df: DataFrame, config: PrepareConfig, plan: PreparePlan) -> Dataset:
    if plan.found is not None:
        return plan.found
    path, source = plan.path, plan.source
    try:
        storage.make_folder(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {error}") from error
    raw, files = declared_columns(df, list(plan.columns)), files_that_are_read(df)
    warn_of_chance(raw)
    features = (*config.features, *config.labels)
    several = side_by_side(features, plan.columns)
    types = types_side_by_side(features, other_columns(config), plan.columns)
    used = raw.select(*[several.get(name, named(name)).alias(name) for name in types]) if several else raw
    with files_stay(df.sparkSession, files):
        config = resolved_split(config, used, types)
        rows = _divided(used, config, types, by_content=source.fingerprint is None)
        counted = count_rows(rows, config)
    if source.fingerprint is None:
        log.info("the rows are named by their content: %s; PrepareConfig(version=…) names them at once", plan.obstacle)
        source = name_content(config, plan.columns, counted.rows, counted.content, source.paths)
        found = find_made_of(path, source)
        if found is not None:
            return found
    if find_dataset(path) is not None:
        log.warning("%s is prepared anew: what is there is of another input, configuration or setting of Spark", path)
    generation = generations.new_generation()
    with generations.Lease(path, generation) as lease:
        generations.sweep(path, lease)
        try:
            with all_nulls_named(used, config), files_stay(df.sparkSession, files):
                written, differs = _write_dataset(rows, counted, config, plan, generation, source, types)
            if differs:
                check_rows_stay(raw, config, differs, plan.columns)
                check_counts(written.parts, split_names(config), counted.rows)
            dataset = generations.commit(written, lease)
        except BaseException:
            generations.abandon(path, generation)
            raise
    log.info("prepared %s in %d parts at %s", rows_by_split(dataset), len(dataset.parts), path)
    return dataset


def _write_dataset(
    rows: DataFrame,
    counted: Counted,
    config: PrepareConfig,
    prepared: PreparePlan,
    generation: str,
    source: Source,
    types: Mapping[str, str],
) -> tuple[Dataset, str]:
    """Fit and write; return the dataset, still to be committed, and a text on readings of the rows that differ.

    Args:
        rows: the columns of `types` (Spark types, DDL), and those that `_divided` adds.
    """
    path = prepared.path
    names = split_names(config)
    train = rows.where(f"{SPLIT_COLUMN} = {names.index('train')}")
    with arrow_batches(rows.sparkSession, rows_per_batch(types.values())):
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
    with arrow_batches(rows.sparkSession, rows_per_batch(types.values(), layout.row_bytes)):
        written, sums = write_rows(rows, plan, written_parts, hashes, types, repeated=counted.repeated)
    # The generation is unique; the rest guards against an edited manifest.
    content = [generation, layout.to_json(), [(part.file, part.row_groups) for part in written]]
    dataset = Dataset(
        path=path,
        encoders=encoders,
        label_encoders=label_encoders,
        weight=config.weight,
        keep=config.keep,
        raw_types=prepared.columns,
        rule=config.splits,
        seed=config.seed,
        lanes=config.lanes,
        layout=layout,
        parts=tuple(written),
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32],
        source=source,
    )
    return dataset, differing(sums, counted, names, fitted.seen)


def record_layout(encoders: Sequence[Encoder], labels: Sequence[Encoder], weight: str | None) -> RecordLayout:
    """Lay out the record of a row: features, labels, weight."""
    fields = [Field("feature", e.name, e.dtype.name, e.shape, e.stored) for e in encoders]
    fields += [Field("label", e.name, e.dtype.name, e.shape, e.stored) for e in labels]
    fields += [Field("weight", weight, "float32", ())] if weight else []
    return RecordLayout(tuple(fields))


def _divided(used: DataFrame, config: PrepareConfig, types: Mapping[str, str], *, by_content: bool) -> DataFrame:
    """Add to each row, of any split or none, its split index, its order key and, with `by_content`, a hash of it."""
    from pyspark.sql import functions as F

    index = F.lit(0) if config.splits is None else split_index(config.splits, types)
    rows = used.select("*", index.alias(SPLIT_COLUMN), order_key(config.seed, types).alias(ORDER_COLUMN))
    return rows.select("*", whole_rows(ORDER_COLUMN, types).alias(CONTENT_COLUMN)) if by_content else rows
