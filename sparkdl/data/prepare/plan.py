"""Plan a `prepare`: check all that can be checked before a row is read, and find a finished dataset.

Runs on the driver; starts no job and writes nothing. `prepare` carries the plan out, a dry run shows it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparkdl import storage
from sparkdl.data import generations
from sparkdl.data.dataset import Dataset, Source, find_dataset
from sparkdl.data.layout import RECORD_COLUMN
from sparkdl.data.prepare.columns import raw_names
from sparkdl.data.prepare.fingerprint import name_source
from sparkdl.data.prepare_config import PrepareConfig
from sparkdl.errors import ConfigError, DatasetError, SchemaError, shown
from sparkdl.spark.columns import check_types, require_columns
from sparkdl.spark.table_formats import check_plan

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["PreparePlan", "find_made_of", "other_columns", "plan_prepare", "rows_by_split"]

log = logging.getLogger(__name__)

# The columns that prepare adds to the rows.
RESERVED = re.compile("__(split|order|place|content|hash|hash_[0-9]+)__")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparePlan:
    """Describe what `prepare` is going to do.

    Attributes:
        path: of the dataset, absolute.
        columns: the Spark type (DDL) of each raw column that is read.
        source: what the dataset is made of; without a fingerprint if only a pass over the rows can give one.
        obstacle: why `source` does not have a fingerprint before rows are read; "" if it has one.
        found: the finished dataset at the path with the same source fingerprint, or None.
        occupied: whether the folder holds anything.
    """

    path: str
    columns: Mapping[str, str]
    source: Source
    obstacle: str
    found: Dataset | None
    occupied: bool

    @property
    def state(self) -> str:
        """The outcome: "new", "finished", "replaces another one", or "finished if its rows are the same"."""
        if self.found is not None:
            return "finished"
        if not self.occupied:
            return "new"
        return "finished if its rows are the same" if self.source.fingerprint is None else "replaces another one"


def plan_prepare(df: DataFrame, config: PrepareConfig) -> PreparePlan:
    """Plan a `prepare` of a DataFrame. Raises what `prepare` raises before it reads rows."""
    check_arguments(df, config)
    path = storage.absolute(config.path)
    names = used_columns(config)
    check_reserved([feature.name for feature in config.features])
    used = declared_columns(df, names)
    occupied = check_folder(path)
    source, obstacle = name_source(df, config)
    return PreparePlan(
        path=path,
        columns={name: used.schema[name].dataType.simpleString() for name in names},
        source=source,
        obstacle=obstacle,
        found=find_made_of(path, source),
        occupied=occupied,
    )


def check_arguments(df: object, config: object) -> None:
    """Raise ConfigError unless given a batch DataFrame, not of a table read as plain files, and a PrepareConfig."""
    if not hasattr(df, "sparkSession") or not hasattr(df, "mapInArrow"):
        raise ConfigError(f"prepare takes a Spark DataFrame, not {type(df).__name__}; spark.createDataFrame makes one")
    if df.isStreaming:  # type: ignore[attr-defined]
        raise ConfigError("prepare takes a DataFrame that ends, not a stream")
    if not isinstance(config, PrepareConfig):
        raise ConfigError(f"prepare takes a PrepareConfig, not {type(config).__name__}")
    check_plan(df)  # type: ignore[arg-type]


def used_columns(config: PrepareConfig) -> list[str]:
    """Return every raw column that the dataset reads, once each, in a fixed order."""
    return raw_names((*config.features, *config.labels), other_columns(config))


def other_columns(config: PrepareConfig) -> list[str]:
    """Return the raw columns that are read beside features and labels: the weight, kept columns, the split's."""
    weight = [config.weight] if config.weight else []
    return [*weight, *config.keep, *(config.splits.reads if config.splits else ())]


def declared_columns(df: DataFrame, names: Sequence[str]) -> DataFrame:
    """Return the columns that these names mean, under these names.

    Raises SchemaError for a missing, an ambiguous or a reserved column name, and for a type that cannot be read.
    """
    found = require_columns(df, names)
    check_reserved(names)
    used = df.select(*found)
    require_columns(used, names)  # two names that mean one column
    check_types(used.schema, names)
    return used


def check_reserved(names: Sequence[str]) -> None:
    """Raise SchemaError for a name of sparkdl's own columns."""
    reserved = [name for name in names if name == RECORD_COLUMN or RESERVED.fullmatch(name)]
    if reserved:
        raise SchemaError(f"column name {reserved[0]!r} is used by sparkdl itself; rename the column")


def check_folder(path: str) -> bool:
    """Tell whether a folder holds anything. Raises DatasetError for a folder that holds other things than a dataset."""
    try:
        names = storage.listing(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    other = [name for name in names if not generations.is_ours(name)]
    if other:
        raise DatasetError(f"{path} holds {shown(other[0])}, which is not part of a dataset; choose an empty folder")
    return bool(names)


def find_made_of(path: str, source: Source) -> Dataset | None:
    """Return the dataset at the path if it is complete and has the same source fingerprint, else None."""
    standing = find_dataset(path)
    if standing is None or source.fingerprint is None or standing.source.fingerprint != source.fingerprint:
        return None
    missing_part = generations.damage(standing)
    if missing_part:
        log.warning("%s is prepared anew: %s", path, missing_part)
        return None
    log.warning("found %s at %s, prepared from the same input: nothing is written", rows_by_split(standing), path)
    return standing


def rows_by_split(dataset: Dataset) -> dict[str, int]:
    return {name: dataset.split(name).rows for name in dataset.splits}
