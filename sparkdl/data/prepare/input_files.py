"""List the files that a DataFrame's plan reads, and check that none changed since the DataFrame was made.

Runs on the driver. Spark lists the files once, when a DataFrame over a folder is made, and reads no more than it listed
then: of a file that grew, it reads the first bytes, up to the middle of a row. The JVM gives that list, and a new one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparkdl.errors import DatasetError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = [
    "RELATION",
    "SQL",
    "Relation",
    "check_unchanged",
    "files_of",
    "files_stay",
    "files_that_are_read",
    "relations_of",
    "without_secrets",
]

log = logging.getLogger(__name__)

SQL = "org.apache.spark.sql."
RELATION = SQL + "execution.datasources.LogicalRelation"
_FILES = SQL + "execution.datasources.HadoopFsRelation"
_CACHED = SQL + "execution.columnar.InMemoryRelation"
_V2 = SQL + "execution.datasources.v2.DataSourceV2Relation"
_FILE_STATUS = re.compile(r"path=(.*?); isDirectory=false; length=(\d+);.*?modification_time=(\d+)")

WAY_OUT = "read it again (df = spark.read…; a table: spark.catalog.refreshTable(name) before) and prepare that"


@dataclass(frozen=True, slots=True)
class Relation:
    """Describe one relation by which a plan reads files."""

    reader: str
    index: str
    options: str
    schema: str
    roots: tuple[str, ...]
    files: Mapping[str, tuple[int, int]]
    """Path -> (bytes, milliseconds), as they were when the DataFrame was made."""
    location: Any = field(compare=False, repr=False)
    """The JVM's list of the files."""
    filters: Any = field(compare=False, repr=False)
    """The JVM's options that decide which files are listed, or None if they are unknown."""

    def to_json(self) -> list[Any]:
        return [self.reader, self.options, self.schema, sorted(self.files.items())]


def relations_of(plan: Any) -> list[Relation]:
    """Find the relations by which a plan of the JVM reads files with Spark's own readers, in the plan's order."""
    found = []
    for leaf in _leaves(plan):
        if leaf.getClass().getName() == RELATION and leaf.relation().getClass().getName() == _FILES:
            relation = leaf.relation()
            reader = relation.fileFormat().getClass().getName()
            found.append(_relation(relation.location(), reader, relation.options(), relation.schema().json()))
    return found


def files_of(spark: SparkSession, plan: Any) -> dict[str, tuple[int, int]]:
    """Map path to (bytes, milliseconds) for all files that a plan reads by Spark's own readers, as listed now.

    Each query lists the files of tables with partitions anew, so `Relation.files` does not hold these.
    """
    jvm: Any = spark._jvm
    found: dict[str, tuple[int, int]] = {}
    for relation in _files_of(plan):
        found |= relation.files
        if relation.index == "CatalogFileIndex":
            all_partitions = getattr(getattr(jvm.scala.collection.immutable, "Nil$"), "MODULE$")
            found |= _statuses(relation.location.filterPartitions(all_partitions).allFiles().mkString("\n"))
    return found


def files_that_are_read(df: DataFrame) -> list[Relation]:
    """Find the files that an action on the DataFrame would read: not those whose rows are all in a cache.

    Warns of files that changed since their rows were cached.
    """
    if df.isStreaming:
        return []
    execution = df.select("*")._jdf.queryExecution()  # a new execution looks for the caches of now
    with_caches, without = execution.withCachedData(), _files_of(execution.analyzed())
    caches = [leaf for leaf in _leaves(with_caches) if leaf.getClass().getName() == _CACHED]
    if not all(cache.cacheBuilder().isCachedColumnBuffersLoaded() for cache in caches):
        return without
    if caches:
        try:
            check_unchanged(df.sparkSession, without)
        except DatasetError as error:
            log.warning("the rows come from a cache, and are those of before: %s", error)
    return _files_of(with_caches)


def check_unchanged(spark: SparkSession, relations: Iterable[Relation], *, tell_new: bool = False) -> None:
    """Raise DatasetError if a file has changed since the DataFrame was made.

    Args:
        tell_new: warn of files that are new since, and not in the DataFrame.
    """
    for relation in relations:
        if not relation.files:
            continue
        now = _listed_now(spark, relation)
        changed = next((path for path, state in relation.files.items() if now.get(path) != state), None)
        if changed is not None:
            raise DatasetError(
                f"{without_secrets(changed)} {_change(relation.files[changed], now.get(changed))} since the DataFrame "
                f"was made: its rows would be neither the old nor the new ones; {WAY_OUT}"
            )
        new = [path for path in now if path not in relation.files]
        if new and tell_new and relation.filters is not None:
            log.warning(
                "%d files came to %s since the DataFrame was made, such as %s: their rows are not in it; %s",
                len(new),
                without_secrets(relation.roots[0]),
                without_secrets(new[0]),
                WAY_OUT,
            )


@contextmanager
def files_stay(spark: SparkSession, relations: Sequence[Relation]) -> Iterator[None]:
    """Check the files again after the block, and when Spark fails in the block: a changed file is the likeliest cause.

    Raises DatasetError for a file that changed.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError):
        check_unchanged(spark, relations)
        raise
    check_unchanged(spark, relations)


def without_secrets(path: str) -> str:
    """Strip user, password and query from a path or URL."""
    return re.sub(r"^([^/]*://)[^/]*@", r"\1", path).split("?")[0] if "://" in path else path


def _change(was: tuple[int, int], now: tuple[int, int] | None) -> str:
    if now is None:
        return "is gone"
    return f"has changed (from {was[0]} to {now[0]} bytes)" if was[0] != now[0] else "has been written again"


def _leaves(plan: Any) -> Sequence[Any]:
    leaves = plan.collectLeaves()
    return [leaves.apply(index) for index in range(leaves.size())]


def _files_of(plan: Any) -> list[Relation]:
    """Find what `relations_of` finds, then what is read by Spark's newer readers (`useV1SourceList`)."""
    found = relations_of(plan)
    for table in [leaf.table() for leaf in _leaves(plan) if leaf.getClass().getName() == _V2]:
        if "FileTable" in table.getClass().getSuperclass().getName():
            found.append(_relation(table.fileIndex(), table.getClass().getName(), None, table.schema().json()))
    return found


def _relation(location: Any, reader: str, options: Any, schema: str) -> Relation:
    index = location.getClass().getSimpleName()
    # Other file indices know more of a table than its files: snapshots, deleted rows.
    listed = location.allFiles().mkString("\n") if index == "InMemoryFileIndex" else ""
    roots = tuple(location.rootPaths().mkString("\n").split("\n"))
    printed = options.toString() if options is not None else ""
    return Relation(reader, index, printed, schema, roots, _statuses(listed), location, options)


def _listed_now(spark: SparkSession, relation: Relation) -> dict[str, tuple[int, int]]:
    """List the files of a relation's root paths as Spark would now. Paths that are gone count as empty."""
    from py4j.protocol import Py4JJavaError

    jvm: Any = spark._jvm
    sources = jvm.org.apache.spark.sql.execution.datasources
    none, filters = jvm.scala.Option.empty(), relation.filters
    try:
        listed = sources.InMemoryFileIndex(
            spark._jsparkSession,
            relation.location.rootPaths(),
            jvm.scala.Predef.Map().empty() if filters is None else filters,
            none,
            getattr(getattr(sources, "NoopCache$"), "MODULE$"),
            none,
            none,
        )
    except Py4JJavaError as error:
        if "FileNotFoundException" not in str(error.java_exception):
            raise
        return {}
    return _statuses(listed.allFiles().mkString("\n"))


def _statuses(text: str) -> dict[str, tuple[int, int]]:
    """Parse Hadoop's FileStatus, one in a line: path -> (bytes, milliseconds)."""
    return {path: (int(size), int(changed)) for path, size, changed in _FILE_STATUS.findall(text)}
