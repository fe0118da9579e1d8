"""What `score_parquet` reads: the Parquet files of a folder, or of a split of a prepared dataset.

Driver; looks at the files' footers, never at rows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparkdl import storage
from sparkdl.data.dataset import Dataset
from sparkdl.errors import ConfigError, SchemaError
from sparkdl.score.hive import Value, column_type, folder_values, value_of

__all__ = [
    "SPARK_ROW",
    "SPARK_VERSION",
    "FileState",
    "InputFile",
    "ParquetFolder",
    "ParquetInput",
    "file_state",
    "split_input",
]

SPARK_ROW = b"org.apache.spark.sql.parquet.row.metadata"
SPARK_VERSION = b"org.apache.spark.version"
# Footers are small: reading them is waiting for the store.
_FOOTERS_AT_ONCE = 16


# The bytes of a file, and its tag in the store or else the time when it was written.
FileState = tuple[int, str]


def file_state(info: Mapping[str, Any]) -> FileState:
    """What tells one content of a file from another, of what fsspec tells of it."""
    written = next((info[key] for key in ("ETag", "mtime", "LastModified", "updated") if key in info), "")
    return info["size"], str(written)


@dataclass(frozen=True, slots=True)
class InputFile:
    """A Parquet file.

    Attributes:
        state: as it was found; None for a part of a dataset, which never changes.
        row_groups: the rows of each of its row groups.
        row_group_bytes: of each, uncompressed.
        partition: the values of the columns that its folders name, in the order of `ParquetInput.partition_columns`.
    """

    path: str
    row_groups: tuple[int, ...]
    row_group_bytes: tuple[int, ...]
    partition: tuple[Value, ...] = ()
    state: FileState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParquetInput:
    """Files with one schema.

    Attributes:
        columns: the type of each column that the files hold.
        partition_columns: the types of the columns that folders name, `day=2024-05-01`.
        spark_types: columns' Spark types, as Spark keeps them beside Parquet's own (JSON of a StructField), of those
            of which all files tell the same; None if Spark did not write all.
        spark_version: of the oldest Spark that wrote one of the files.
        name: names the very content; another one means other files.
    """

    files: tuple[InputFile, ...]
    columns: pa.Schema
    partition_columns: pa.Schema
    spark_types: Mapping[str, Any] | None
    spark_version: bytes | None
    name: str

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(sum(file.row_groups) for file in self.files)


@dataclass(frozen=True, slots=True)
class _Footer:
    """What a file says of itself."""

    schema: pa.Schema
    row_groups: tuple[int, ...]
    row_group_bytes: tuple[int, ...]
    metadata: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class ParquetFolder:
    """The Parquet files in a folder and its folders, or one file.

    Attributes:
        footers: of each file by its path relative to the folder, in order ("": `path` is the file itself).
        partition: the values of the columns that each file's folders name, in order.
        states: of each file.
    """

    path: str
    footers: Mapping[str, _Footer]
    partition: Mapping[str, Mapping[str, str | None]]
    states: Mapping[str, FileState]

    @classmethod
    def found(cls, path: str) -> ParquetFolder:
        """What is there. Raises ConfigError for no Parquet files, or one that cannot be read."""
        states = _found_files(path)
        if not states:
            raise ConfigError(f"{path} holds no Parquet files")
        names = sorted(states)
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            footers = list(pool.map(lambda name: _footer(_joined(path, name)), names))
        partition = {name: folder_values(name) for name in names}
        return cls(path, dict(zip(names, footers, strict=True)), partition, states)

    @property
    def name(self) -> str:
        """As in `ParquetInput`."""
        return hashlib.sha256(json.dumps(sorted(self.states.items())).encode()).hexdigest()

    @property
    def columns(self) -> list[str]:
        """The names of all columns, as the first file has them. Raises SchemaError for one that is there twice."""
        first = next(iter(self.footers))
        names = [*self.footers[first].schema.names, *self.partition[first]]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SchemaError(f"{self.path}: column {twice!r} is there more than once")
        return names

    def reading(self, names: Sequence[str]) -> ParquetInput:
        """The files, of which only these columns are read. Raises SchemaError if they differ from file to file."""
        partition = self._partition_types()
        schema = self._one_schema([name for name in names if name not in partition.names])
        by_spark = all({SPARK_ROW, SPARK_VERSION} <= footer.metadata.keys() for footer in self.footers.values())
        return ParquetInput(
            files=tuple(self._file(name, partition) for name in self.footers),
            columns=schema,
            partition_columns=partition,
            spark_types=self._spark_types() if by_spark else None,
            spark_version=self._oldest_spark() if by_spark else None,
            name=self.name,
        )

    def _spark_types(self) -> dict[str, Any]:
        rows = {footer.metadata[SPARK_ROW] for footer in self.footers.values()}
        fields = [{field["name"]: field for field in json.loads(row)["fields"]} for row in rows]
        return {
            name: {**field, "nullable": True}
            for name, field in fields[0].items()
            if all(name in other and other[name]["type"] == field["type"] for other in fields)
        }

    def _oldest_spark(self) -> bytes:
        versions = {footer.metadata[SPARK_VERSION] for footer in self.footers.values()}
        return min(versions, key=lambda version: [int(number) for number in re.findall(rb"\d+", version)])

    def _file(self, name: str, partition: pa.Schema) -> InputFile:
        texts = self.partition[name].values()
        values = tuple(value_of(text, field.type) for field, text in zip(partition, texts, strict=True))
        footer = self.footers[name]
        path = _joined(self.path, name)
        return InputFile(path, footer.row_groups, footer.row_group_bytes, values, self.states[name])

    def _partition_types(self) -> pa.Schema:
        first = next(iter(self.partition))
        keys = list(self.partition[first])
        strange = next((name for name, values in self.partition.items() if list(values) != keys), None)
        if strange is not None:
            raise SchemaError(f"{self.path}: the folders of {strange} name other columns than those of {first}")
        return pa.schema([(key, column_type(values[key] for values in self.partition.values())) for key in keys])

    def _one_schema(self, names: Sequence[str]) -> pa.Schema:
        first = next(iter(self.footers))
        schema = self.footers[first].schema
        for file, footer in self.footers.items():
            for name in names:
                place = footer.schema.get_field_index(name)
                if place < 0:
                    raise SchemaError(f"{self.path}: column {name!r} is in {first}, and not in {file}")
                if footer.schema.field(place).type != schema.field(name).type:
                    raise SchemaError(
                        f"{self.path}: column {name!r} is {schema.field(name).type} in {first}, and "
                        f"{footer.schema.field(place).type} in {file}; write the files with one schema"
                    )
        return pa.schema([schema.field(name).with_nullable(True) for name in names])


def _joined(path: str, name: str) -> str:
    return storage.join(path, name) if name else path


def split_input(dataset: Dataset, split: str, names: Sequence[str]) -> ParquetInput:
    """The parts of a split of a prepared dataset, of which only these columns are read.

    Raises DatasetError for an unknown split.
    """
    parts = dataset.split(split).parts
    first = _footer(storage.join(dataset.path, parts[0].file))
    row_bytes = dataset.layout.row_bytes
    files = tuple(
        InputFile(
            storage.join(dataset.path, part.file), part.row_groups, tuple(rows * row_bytes for rows in part.row_groups)
        )
        for part in parts
    )
    return ParquetInput(
        files=files,
        columns=pa.schema([first.schema.field(name) for name in names]),
        partition_columns=pa.schema([]),
        spark_types=None,
        spark_version=None,
        name=f"{dataset.fingerprint} {split}",
    )


def _handed_on(schema: pa.Schema, int96: frozenset[str]) -> pa.Schema:
    """The types in which columns are handed on.

    Spark's old timestamps (INT96) are moments, which Parquet and pyarrow do not say; Spark's own are microseconds.
    """

    def moments(type_: pa.DataType) -> pa.DataType:
        if pa.types.is_timestamp(type_):
            return pa.timestamp("us", "UTC")
        if pa.types.is_list(type_):
            return pa.list_(moments(type_.value_type))
        if pa.types.is_struct(type_):
            return pa.struct([field.with_type(moments(field.type)) for field in type_])
        if pa.types.is_map(type_):
            return pa.map_(moments(type_.key_type), moments(type_.item_type))
        return type_

    def handed_on(field: pa.Field) -> pa.Field:
        if pa.types.is_dictionary(field.type):
            return field.with_type(field.type.value_type)
        return field.with_type(moments(field.type)) if field.name in int96 else field

    return pa.schema([handed_on(field) for field in schema])


def _found_files(path: str) -> dict[str, FileState]:
    """The state of each file, by its path relative to the folder ("": `path` is the file)."""
    fs, inner = storage.filesystem(path)
    fs.invalidate_cache()
    found = fs.find(inner, detail=True)
    if list(found) == [inner]:
        return {"": file_state(found[inner])}
    relative = {name[len(inner.rstrip("/")) + 1 :]: info for name, info in found.items()}
    return {name: file_state(info) for name, info in relative.items() if not _is_hidden(name) and info["size"]}


def _is_hidden(name: str) -> bool:
    """Whether Spark passes a file over, by its path in the folder."""
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in name.split("/"))


def _footer(path: str) -> _Footer:
    fs, inner = storage.filesystem(path)
    try:
        with fs.open(inner, "rb") as handle:
            file = pq.ParquetFile(handle, coerce_int96_timestamp_unit="us")
            # Of each leaf the column's name, which may have dots, comes first.
            footer, schema, paths = file.metadata, file.schema_arrow, file.reader.column_paths
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error
    leaves = [footer.schema.column(place) for place in range(footer.num_columns)]
    int96 = frozenset(path[0] for path, leaf in zip(paths, leaves, strict=True) if leaf.physical_type == "INT96")
    groups = [footer.row_group(place) for place in range(footer.num_row_groups)]
    return _Footer(
        _handed_on(schema.remove_metadata(), int96),
        tuple(group.num_rows for group in groups),
        tuple(group.total_byte_size for group in groups),
        footer.metadata or {},
    )
