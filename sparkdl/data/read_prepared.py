"""Return prepared rows as a DataFrame.

Called on the driver; Spark's Python workers read the parts over fsspec, as the feed does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.data.dataset import Dataset, Part, open_dataset
from sparkdl.data.features.columns import arrow_type, to_arrow
from sparkdl.data.generations import fate
from sparkdl.data.layout import RECORD_COLUMN
from sparkdl.errors import DatasetError
from sparkdl.spark.python_worker import drop_zip_importers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["read_prepared"]


def read_prepared(spark: SparkSession, path: str, split: str) -> DataFrame:
    """Return the rows of a split as the model sees them, with the kept columns, in stored order within a partition.

    Columns: the encoded features, the labels, the weight, the kept columns. Where two columns would have one name, the
    later one is named `<name>_label`, `<name>_weight` or `<name>_raw`, with more underscores if that name is taken too.
    Images that are stored encoded come as their bytes.

    Raises:
        DatasetError: `path` does not hold a dataset, or the dataset does not have the split.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    dataset = open_dataset(path)
    parts = dataset.split(split).parts
    schema = _schema(dataset, parts[0].file)

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        drop_zip_importers()
        for batch in batches:
            for index in batch.column(0).to_pylist():
                yield from _read_part(dataset, parts[index], schema)

    numbered = spark.range(0, len(parts), 1, numPartitions=len(parts))
    return numbered.mapInArrow(read, from_arrow_schema(schema, prefer_timestamp_ntz=True))


def _names(dataset: Dataset) -> list[str]:
    """Return the column names of the fields, then of the kept columns, each name once."""
    names: list[str] = []
    for name, second in (
        *((field.name, f"{field.name}_{field.role}") for field in dataset.layout.fields),
        *((kept, f"{kept}_raw") for kept in dataset.keep),
    ):
        name = second if name in names else name
        while name in names:
            name += "_"
        names.append(name)
    return names


def _schema(dataset: Dataset, first_file: str) -> pa.Schema:
    fs, inner = storage.filesystem(storage.join(dataset.path, first_file))
    with fs.open(inner, "rb") as handle:
        stored = pq.read_schema(handle)
    types = [
        pa.binary() if field.stored == "bytes" else arrow_type(np.dtype(field.dtype), field.shape)
        for field in dataset.layout.fields
    ]
    types += [stored.field(name).type for name in dataset.keep]
    return pa.schema(list(zip(_names(dataset), types, strict=True)))


def _read_part(dataset: Dataset, part: Part, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    fs, inner = storage.filesystem(storage.join(dataset.path, part.file))
    try:
        opened = fs.open(inner, "rb")
    except OSError as error:
        # Spark reads the rows when an action asks for them, perhaps long after the DataFrame was made.
        gone = f"{dataset.path}/{part.file} cannot be read: {error}; {fate(dataset.path, dataset.generation)}"
        raise DatasetError(gone) from error
    with opened as handle:
        file = pq.ParquetFile(handle)
        footer = file.metadata
        rows = tuple(footer.row_group(index).num_rows for index in range(footer.num_row_groups))
        if rows != part.row_groups:
            raise DatasetError(
                f"{dataset.path}/{part.file} has {sum(rows)} rows in {len(rows)} row groups, the manifest says "
                f"{sum(part.row_groups)} in {len(part.row_groups)}; prepare the dataset again"
            )
        for batch in file.iter_batches():
            records = dataset.layout.from_arrow(batch.column(RECORD_COLUMN))
            columns = [
                batch.column(field.key) if field.stored == "bytes" else to_arrow(records[field.key])
                for field in dataset.layout.fields
            ]
            columns += [batch.column(name) for name in dataset.keep]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
