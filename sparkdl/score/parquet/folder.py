"""Find the Parquet files of a folder as Spark finds them, and the one schema that Spark gives them.

Driver, within `score_parquet`; reads the files' footers, never rows. The files and values are those that Spark would
read of the same path; a file or column that Spark would read otherwise, or ignore silently, is refused by name.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sparkdl import storage
from sparkdl.errors import ConfigError, SchemaError
from sparkdl.score.parquet.footer import Footer, read_footer, thrift_of
from sparkdl.score.parquet.input import FileState, InputFile, ParquetInput, file_state
from sparkdl.score.parquet.old_calendar import calendar_of, rebase_modes
from sparkdl.score.parquet.partition_columns import FolderColumns, folder_columns
from sparkdl.score.parquet.spark_types import (
    SPARK_ROW,
    UnknownType,
    arrow_type,
    fits,
    is_set,
    name_of_type,
    spark_fields,
    widest,
)
from sparkdl.spark.table_formats import check_files, check_folders

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["ParquetFolder"]

log = logging.getLogger(__name__)

# Footers are small: reading them is mostly waiting for the store.
_FOOTERS_AT_ONCE = 16
# Files that hold the schema and row groups of others.
_SUMMARIES = ("_common_metadata", "_metadata")
_COPYING = "._COPYING_"
_WRITING = "_temporary"


@dataclass(frozen=True, slots=True)
class ParquetFolder:
    """Describe the Parquet files in a folder and its folders, or one file.

    Attributes:
        footers: the footer of each file by its path relative to the folder, in order ("": `path` is the file itself).
        summaries: the footers of the files beside them that hold no rows and give Spark the schema.
        folders: the columns that Spark finds in the folders' names.
        states: the state of each file.
        merged: whether files may lack columns that others have (spark.sql.parquet.mergeSchema).
        modes: how to read files that do not record their calendar, as `rebase_modes` returned it.
    """

    spark: SparkSession
    path: str
    footers: Mapping[str, Footer]
    summaries: Mapping[str, Footer]
    folders: FolderColumns
    states: Mapping[str, FileState]
    merged: bool
    modes: Mapping[str, str]

    @classmethod
    def found(cls, spark: SparkSession, path: str) -> ParquetFolder:
        """Find the files at `path` and read their footers.

        Raises:
            ConfigError: `path` holds no Parquet files, one that cannot be read, or a table of Delta, Hudi or Iceberg.
            SchemaError: the folders' names do not agree, or Spark would not read all files.
        """
        states, summaries = _found_files(path)
        if not states:
            raise ConfigError(f"{path} holds no Parquet files")
        names = sorted(states)
        paths = [_joined(path, name) for name in (*names, *summaries)]
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            footers = dict(zip((*names, *summaries), pool.map(read_footer, paths), strict=True))
        inner_folders = list(dict.fromkeys(map(_folder, names)))
        folders = folder_columns(spark, path, inner_folders)
        unread = next((name for name in names if _folder(name) not in folders.values), None)
        if unread is not None:
            raise SchemaError(
                f"{path}: Spark would not read {unread}, whose folders name no columns as those of other files do "
                "(name=value); score each folder by itself, or move it away"
            )
        return cls(
            spark=spark,
            path=path,
            footers={name: footers[name] for name in names},
            summaries={name: footers[name] for name in summaries},
            folders=folders,
            states=states,
            merged=is_set(spark, "spark.sql.parquet.mergeSchema"),
            modes=rebase_modes(spark),
        )

    @property
    def name(self) -> str:
        """The fingerprint of the content, as in `ParquetInput`."""
        content: list[Any] = sorted(self.states.items())
        if any(map(pa.types.is_timestamp, self.folders.types.types)):
            # In another time zone of the session the same names give other timestamps.
            content.append(sorted(self.folders.values.items()))
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def columns(self) -> list[str]:
        """The names of all columns: those of the first file, and with `merged` those that later files add.

        Raises SchemaError for a column that occurs twice.
        """
        first = next(iter(self.footers))
        names = list(self.footers[first].schema.names)
        if self.merged:
            later = (name for footer in self.footers.values() for name in footer.schema.names)
            names += [name for name in dict.fromkeys(later) if name not in names]
        names += self.folders.types.names
        exact_case, seen = is_set(self.spark, "spark.sql.caseSensitive"), set()
        for name in names:
            key = name if exact_case else name.lower()
            if key in seen:
                raise SchemaError(f"{self.path}: column {name!r} is there more than once, in files or folders")
            seen.add(key)
        return names

    def check_all_read(self) -> None:
        """Raise SchemaError if some file has a column that the first file lacks, unless such columns are merged."""
        first = next(iter(self.footers))
        known = {*self.footers[first].schema.names, *self.folders.types.names}
        for file, footer in {**self.footers, **self.summaries}.items():
            more = next((name for name in footer.schema.names if name not in known and not self.merged), None)
            if more is not None:
                raise SchemaError(
                    f"{self.path}: column {more!r} is in {file}, and not in {first}; name the columns to write in "
                    "keep, or set spark.sql.parquet.mergeSchema=true: it is null where a file lacks it"
                )

    def reading(self, names: Sequence[str], *, inputs: Sequence[str] = ()) -> ParquetInput:
        """Plan to read these columns of the files; `inputs` are the columns that a model takes.

        Raises SchemaError if columns differ from file to file, or have types that Spark does not read or give on.
        """
        wanted = [name for name in names if name not in self.folders.types.names]
        fields, types = self._one_schema(wanted)
        for name in inputs:
            if name in fields and arrow_type(fields[name]) is None:
                raise SchemaError(
                    f"the model's input column {name!r} is of type {name_of_type(fields[name])}, which Spark gives to "
                    "no UDF; cast it before"
                )
        return ParquetInput(
            files=tuple(map(self._file, self.footers)),
            columns=types,
            partition_columns=self.folders.types,
            spark_types=fields | {field["name"]: field for field in self.folders.fields},
            name=self.name,
        )

    def _file(self, name: str) -> InputFile:
        footer = self.footers[name]
        return InputFile(
            _joined(self.path, name),
            footer.row_groups,
            footer.total_bytes,
            self.folders.values[_folder(name)],
            self.states[name],
            calendar_of(footer.metadata, self.modes),
            footer.int96,
        )

    def _one_schema(self, names: Sequence[str]) -> tuple[dict[str, Any], pa.Schema]:
        """Return Spark's fields for the columns, and the Arrow types to which their values are cast.

        Where files differ, a column has the type that holds the values of all of them.
        """
        # By name, then by type: the field and the file that has it first.
        seen: dict[str, dict[str, tuple[dict[str, Any], str]]] = {}
        stored: dict[str, pa.DataType] = {}
        for file, footer, found in self._kinds(names):
            for name in names:
                if name not in found:
                    if self.merged:
                        continue
                    first = next(iter(self.footers))
                    raise SchemaError(f"{self.path}: column {name!r} is in {first}, and not in {file}")
                field, type_ = found[name], footer.schema.field(name).type
                seen.setdefault(name, {}).setdefault(name_of_type(field), ({**field, "nullable": True}, file))
                # A type that Spark gives to no UDF stays as it is stored.
                own = arrow_type(field) or stored.setdefault(name, type_)
                if not fits(type_, own):
                    raise SchemaError(
                        f"{self.path}: column {name!r} is stored as {type_} in {file}, and Spark takes it for "
                        f"{name_of_type(field)}; write the files again with one type"
                    )
        fields = {name: self._widest(name, by_type) for name, by_type in seen.items()}
        types = {name: arrow_type(field) or stored[name] for name, field in fields.items()}
        return fields, pa.schema([(name, types[name]) for name in names])

    def _widest(self, name: str, by_type: Mapping[str, tuple[dict[str, Any], str]]) -> dict[str, Any]:
        """Return the field of a column whose type holds the values of all files, of those with other types, too."""
        type_ = widest(by_type)
        if type_ is not None:
            return by_type[type_][0]
        one, other = list(by_type)[:2]
        raise SchemaError(
            f"{self.path}: column {name!r} is {one} in {by_type[one][1]}, and {other} in {by_type[other][1]}; write "
            "the files with one schema"
        )

    def _kinds(self, names: Sequence[str]) -> Iterator[tuple[str, Footer, dict[str, Any]]]:
        """Yield the first file of each kind of schema, with its footer and Spark's fields for these columns."""
        seen = set()
        shifts_int96 = is_set(self.spark, "spark.sql.parquet.int96TimestampConversion")
        for file, footer in {**self.footers, **self.summaries}.items():
            shifted = footer.int96.intersection(names) if shifts_int96 and not footer.by_parquet_mr else ()
            if shifted:
                raise SchemaError(
                    f"{self.path}: Spark would shift column {min(shifted)!r} of {file} by its time zone "
                    "(spark.sql.parquet.int96TimestampConversion); score spark.read.parquet(…) with transform"
                )
            if footer.kind in seen:
                continue
            seen.add(footer.kind)
            there = [name for name in names if name in footer.schema.names]
            thrift = thrift_of(_joined(self.path, file))
            found = spark_fields(self.spark, thrift, footer.metadata.get(SPARK_ROW), there)
            for name, field in found.items():
                if isinstance(field, UnknownType):
                    found[name] = _of_nanoseconds(footer.schema.field(name), field, self.path)
            yield file, footer, found


def _of_nanoseconds(field: pa.Field, error: UnknownType, path: str) -> dict[str, Any]:
    """Return Spark's field for pandas' timestamps in nanoseconds, which Spark does not read; raise for other types."""
    if not (pa.types.is_timestamp(field.type) and field.type.unit == "ns"):
        raise SchemaError(
            f"{path}: column {field.name!r} is of type {field.type}, which Spark does not read ({error}); leave it out "
            "of keep, or write it as another type"
        ) from error
    kind = "timestamp" if field.type.tz else "timestamp_ntz"
    return {"name": field.name, "type": kind, "nullable": True, "metadata": {}}


def _joined(path: str, name: str) -> str:
    return storage.join(path, name) if name else path


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _found_files(path: str) -> tuple[dict[str, FileState], list[str]]:
    """Return the state of each file, by its path relative to the folder ("": `path` is the file), and the summaries."""
    check_folders(path)
    fs, inner = storage.filesystem(path)
    fs.invalidate_cache()
    found = fs.find(inner, detail=True)
    if list(found) == [inner]:
        return {"": file_state(found[inner])}, []
    relative = {name[len(inner.rstrip("/")) + 1 :]: info for name, info in found.items()}
    check_files(path, relative)
    if any(name.startswith(f"{_WRITING}/") for name in relative):
        log.warning("%s holds %s: a job still writes there, or died; its other files are scored", path, _WRITING)
    states = {name: file_state(info) for name, info in relative.items() if not _is_hidden(name) and info["size"]}
    return states, [name for name in _SUMMARIES if name in relative]


def _is_hidden(name: str) -> bool:
    """Tell whether Spark ignores a file, by its path in the folder."""
    return any(
        part.startswith(".") or (part.startswith("_") and "=" not in part) or part.endswith(_COPYING)
        for part in name.split("/")
    )
