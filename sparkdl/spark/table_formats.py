"""Refuse folders that belong to a Delta, Hudi or Iceberg table where they would be read as plain Parquet.

Driver, within prepare, transform and score_parquet. Such a folder holds deleted rows and replaced files too: only
the table's log, which Spark's Parquet reader does not read, says which rows are alive.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["check_files", "check_folders", "check_plan"]

# The folder of each format's log, in the table's own folder.
_LOGS = {"_delta_log": "Delta", ".hoodie": "Hudi"}
# Iceberg's `metadata` folder has a name that others use too; the files in it are named as nobody else names files.
_ICEBERG_FOLDER = "metadata"
_ICEBERG_FILE = re.compile(r"(v\d+|\d+-[0-9a-fA-F-]{36})(\.gz)?\.metadata\.json(\.gz)?")

# Hadoop writes `file:/data`.
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:(//)?")

_SOURCES = "org.apache.spark.sql.execution.datasources."
# Spark's own readers of files that tables are made of, and its own lists of files. Tables' own readers have theirs.
_PLAIN_READERS = (_SOURCES + "parquet.ParquetFileFormat", _SOURCES + "orc.OrcFileFormat")
_PLAIN_TABLES = (_SOURCES + "v2.parquet.ParquetTable", _SOURCES + "v2.orc.OrcTable")
# Before Spark 4.1, and since.
_STREAMS = tuple(f"org.apache.spark.sql.execution.streaming.{room}StreamingRelation" for room in ("", "runtime."))
_PLAIN_LISTS = tuple(_SOURCES + name for name in ("InMemoryFileIndex", "CatalogFileIndex"))


def check_folders(path: str) -> None:
    """Raise ConfigError if a path on any fsspec filesystem is, or lies in, a table of one of the formats."""
    fs, inner = storage.filesystem(path)
    fs.invalidate_cache()

    _check([inner], fs.exists, lambda folder: fs.ls(folder, detail=False), (OSError, ValueError))


def check_files(path: str, files: Iterable[str]) -> None:
    """Raise ConfigError if one of these files, by their paths relative to a folder, shows that a table is in it."""
    for file in files:
        *folders, name = file.split("/")
        log = next((index for index, folder in enumerate(folders) if folder in _LOGS), None)
        if log is not None:
            raise _refusal(_LOGS[folders[log]], posixpath.join(path, *folders[:log]))
        if folders and folders[-1] == _ICEBERG_FOLDER and _ICEBERG_FILE.fullmatch(name):
            raise _refusal("Iceberg", posixpath.join(path, *folders[:-1]))


def check_plan(df: DataFrame) -> None:
    """Raise ConfigError if the plan of a DataFrame reads a table's files by Spark's reader of plain files.

    A plan that reads by a table's own reader (`format("delta")`) passes: that reader knows which rows are alive.
    """
    from py4j.protocol import Py4JJavaError

    spark = df.sparkSession
    hadoop = spark._jvm.org.apache.hadoop.fs.Path  # type: ignore[union-attr]

    def exists(name: str) -> bool:
        path = hadoop(name)
        return bool(path.getFileSystem(spark._jsc.hadoopConfiguration()).exists(path))

    def names(folder: str) -> list[str]:
        path = hadoop(folder)
        statuses = path.getFileSystem(spark._jsc.hadoopConfiguration()).listStatus(path)
        return [status.getPath().getName() for status in statuses]

    _check(_plain_roots(df._jdf.queryExecution().analyzed()), exists, names, (Py4JJavaError,))


def _plain_roots(plan: Any) -> Iterator[str]:
    """Yield the paths that a plan reads by Spark's readers of plain files."""
    leaves = plan.collectLeaves()
    for index in range(leaves.size()):
        leaf = leaves.apply(index)
        kind = leaf.getClass().getName()
        if kind == _SOURCES + "LogicalRelation" and _class(leaf.relation()) == _SOURCES + "HadoopFsRelation":
            files, plain = leaf.relation().location(), _class(leaf.relation().fileFormat()) in _PLAIN_READERS
        elif kind == _SOURCES + "v2.DataSourceV2Relation" and _class(leaf.table()) in _PLAIN_TABLES:
            files, plain = leaf.table().fileIndex(), True
        elif kind in _STREAMS:
            yield from _streamed(leaf.dataSource())
            continue
        else:
            continue
        if plain and _class(files) in _PLAIN_LISTS:
            yield from files.rootPaths().mkString("\n").split("\n")


def _streamed(source: Any) -> Iterator[str]:
    """Yield the path that a stream of plain files watches; a stream has no list of files before it runs."""
    if source.className().lower() in ("parquet", "orc", *(name.lower() for name in _PLAIN_READERS)):
        path = source.options().get("path")
        if path.isDefined():
            yield path.get()


def _class(of: Any) -> str:
    return str(of.getClass().getName())


def _check(
    paths: Iterable[str],
    exists: Callable[[str], bool],
    names: Callable[[str], Iterable[str]],
    errors: tuple[type[Exception], ...],
) -> None:
    """Raise ConfigError for the first table that one of the paths is or lies in.

    Args:
        exists, names: ask the filesystem about a path, and for what is in a folder.
        errors: what they raise for a path that does not exist, or is in a parent that this process may not look into.
    """

    def answer(question: Callable[[str], Any], path: str) -> Any:
        try:
            return question(path)
        except errors:
            return ()

    for folder in dict.fromkeys(folder for path in paths for folder in _with_parents(path)):
        for log, kind in _LOGS.items():
            if answer(exists, posixpath.join(folder, log)):
                raise _refusal(kind, folder)
        for name in answer(names, posixpath.join(folder, _ICEBERG_FOLDER)):
            if _ICEBERG_FILE.fullmatch(posixpath.basename(name.rstrip("/"))):
                raise _refusal("Iceberg", folder)


def _with_parents(path: str) -> Iterator[str]:
    """Yield a path or URL, the folder that it lies in, and so on, up to the topmost folder below the root."""
    found = _SCHEME.match(path)
    scheme = found[0] if found else ""
    folder = path[len(scheme) :].rstrip("/")
    while folder:
        yield scheme + folder
        folder = folder.rpartition("/")[0].rstrip("/")


def _refusal(kind: str, folder: str) -> ConfigError:
    return ConfigError(
        f"{folder} is a {kind} table, whose files also hold rows that were deleted or replaced; read it by its own "
        f'reader, spark.read.format("{kind.lower()}").load(…), and give that DataFrame to prepare or transform'
    )
