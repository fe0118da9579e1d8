"""Describe the input of `score_parquet`: the Parquet files of a folder, or of a split of a prepared dataset.

Driver; reads the files' footers, never rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.score.parquet.footer import read_footer
from sparkdl.score.parquet.old_calendar import NO_CALENDAR, Calendar
from sparkdl.score.parquet.partition_columns import Value

__all__ = ["FileState", "InputFile", "ParquetInput", "file_state", "split_input"]

# The bytes of a file, and its tag in the store or else the time when it was written.
FileState = tuple[int, str]


def file_state(info: Mapping[str, Any]) -> FileState:
    """Return the part of fsspec's metadata that changes with a file's content."""
    written = next((info[key] for key in ("ETag", "mtime", "LastModified", "updated") if key in info), "")
    return info["size"], str(written)


@dataclass(frozen=True, slots=True)
class InputFile:
    """Describe a Parquet file.

    Attributes:
        state: its state when it was found; None for a part of a dataset, which never changes.
        row_groups: the rows of each of its row groups.
        total_bytes: the bytes of all of its row groups, uncompressed.
        partition: the values of the columns that its folders name, in the order of `ParquetInput.partition_columns`.
        calendar: says which of its dates and timestamps may be of the old calendar.
        int96: the columns that hold timestamps in 96 bits.
    """

    path: str
    row_groups: tuple[int, ...]
    total_bytes: int
    partition: tuple[Value, ...] = ()
    state: FileState | None = None
    calendar: Calendar = NO_CALENDAR
    int96: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetInput:
    """Describe files with one schema.

    Attributes:
        columns: the type to which the values of each column of the files are cast.
        partition_columns: the types of the columns that folders name, `day=2024-05-01`.
        spark_types: Spark's field for each of these columns (JSON of a StructField); None for a prepared dataset.
        name: the fingerprint of the content; another fingerprint means other files.
    """

    files: tuple[InputFile, ...]
    columns: pa.Schema
    partition_columns: pa.Schema
    spark_types: Mapping[str, Any] | None
    name: str

    @property
    def rows(self) -> int:
        """The number of rows of all files."""
        return sum(sum(file.row_groups) for file in self.files)


def split_input(dataset: Dataset, split: str, names: Sequence[str]) -> ParquetInput:
    """Plan to read these columns of the parts of a split of a prepared dataset.

    Raises DatasetError for an unknown split.
    """
    parts = dataset.split(split).parts
    first = read_footer(storage.join(dataset.path, parts[0].file))
    row_bytes = dataset.layout.row_bytes
    return ParquetInput(
        files=tuple(
            InputFile(storage.join(dataset.path, part.file), part.row_groups, sum(part.row_groups) * row_bytes)
            for part in parts
        ),
        columns=pa.schema([first.schema.field(name) for name in names]),
        partition_columns=pa.schema([]),
        spark_types=None,
        name=f"{dataset.fingerprint} {split}",
    )
