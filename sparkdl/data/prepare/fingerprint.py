"""Name the input of a dataset, so that the same input is found again: a hash of config, plan and files.

Driver, within prepare. The JVM is asked for the analysed plan as JSON, and for the state of the files. Whatever is not
known to be a function of files alone has no name of this kind: a version names it, or, in prepare, the rows themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkdl.data.dataset import FORMAT_VERSION, Source
from sparkdl.data.features import Feature
from sparkdl.data.prepare.input_files import (
    RELATION,
    SQL,
    Relation,
    check_unchanged,
    files_of,
    files_that_are_read,
    relations_of,
    without_secrets,
)
from sparkdl.data.prepare.row_sums import Sums
from sparkdl.data.prepare_config import PrepareConfig

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["name_content", "name_rows", "name_source", "normalised", "obstacle_in", "renumbered"]

# Paths in a manifest are for people to read.
SHOWN_PATHS = 5
# Settings that change how Spark works, not what it gives. Any other of Spark SQL that is set may change values.
_HARMLESS_SETTINGS = tuple(
    "spark.sql." + name
    for name in (
        "adaptive.",
        "autoBroadcastJoinThreshold",
        "catalogImplementation",
        "cbo.",
        "debug.",
        "event",
        "execution.arrow.",
        "execution.pythonUDF",
        "files.maxPartition",
        "files.minPartitionNum",
        "files.openCostInBytes",
        "repl.",
        "shuffle.",
        "sources.parallelPartitionDiscovery.",
        "streaming.",
        "ui.",
        "warehouse.",
    )
)
# Set while a plan is printed, so that nothing of it is left out.
_PRINTED_FIELDS = "spark.sql.debug.maxToStringFields"

_LOGICAL = SQL + "catalyst.plans.logical."
_EXPRESSIONS = SQL + "catalyst.expressions."
_EXPRESSION_ID = _EXPRESSIONS + "ExprId"
_FILES = SQL + "execution.datasources."

# Which rows they give, in any order, depends on their input alone. A limit or a subset without duplicates does not:
# which row is taken depends on the order of arrival.
_PURE_NODES = """
    Aggregate CTERelationDef CTERelationRef Distinct Except Expand Filter Generate Intersect Join OneRowRelation
    Project Range RebalancePartitions Repartition RepartitionByExpression ResolvedHint Sort SubqueryAlias Union
    View Window WithCTE
"""
_READERS = frozenset(
    _FILES + name
    for name in (
        "binaryfile.BinaryFileFormat",
        "csv.CSVFileFormat",
        "json.JsonFileFormat",
        "orc.OrcFileFormat",
        "parquet.ParquetFileFormat",
        "text.TextFileFormat",
    )
)
# What Spark takes for deterministic, and is not: user code, the moment, the session, the order of arrival; and plans
# inside of expressions, whose files are not seen here.
_IMPURE_EXPRESSIONS = """
    AnyValue ApplyFunctionExpression CallMethodViaReflection CollectList CollectSet CurrentCatalog CurrentDatabase
    CurrentDate CurrentTime CurrentTimeZone CurrentTimestamp CurrentUser DynamicPruningSubquery Exists First
    FunctionTableSubqueryArgumentExpression Last LateralSubquery ListAgg ListQuery LocalTimestamp Now PythonUDAF
    PythonUDF PythonUDTF ScalaUDF ScalarSubquery UserDefinedGenerator VariableReference
"""
# Text that Spark takes for the day or the moment of the query where a date or a time is wanted, with a zone or without.
_MOVING_TEXT = re.compile(r"\s*(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
# When a view was made, and counters of the session.
_DROPPED = frozenset({"desc", "catalogTable", "jvmId"})


def name_source(df: DataFrame, config: PrepareConfig) -> tuple[Source, str]:
    """What a dataset of these rows is prepared from, and what keeps it from having a fingerprint ("": nothing)."""
    return name_rows(df, {"format_version": FORMAT_VERSION, "config": _config(config)}, config.version)


def name_content(
    config: PrepareConfig,
    types: Mapping[str, str],
    rows: Sequence[int],
    sums: Sequence[Sums],
    paths: tuple[str, ...],
) -> Source:
    """The same by what is in the rows, for those that nothing else names.

    Args:
        types: Spark type (DDL) of each column that the dataset reads.
        rows: of each split.
        sums: of the hashes of whole rows, of each split.
        paths: some of what was read.
    """
    how = {"format_version": FORMAT_VERSION, "config": _config(config)}
    return Source(_hash(how | {"types": dict(types), "rows": list(rows), "content": list(sums)}), paths)


def name_rows(df: DataFrame, how: Mapping[str, Any], version: str | int | None = None) -> tuple[Source, str]:
    """The same for whatever is made of the rows.

    Args:
        how: what else decides what is made (JSON).
        version: names the rows in place of their plan.

    Raises DatasetError if a file that will be read has changed since the DataFrame was made.
    """
    check_unchanged(df.sparkSession, files_that_are_read(df), tell_new=True)
    plan = df._jdf.queryExecution().analyzed()
    relations = relations_of(plan)
    roots = dict.fromkeys(without_secrets(root) for relation in relations for root in relation.roots)
    paths = tuple(roots)[:SHOWN_PATHS]
    content = dict(how)
    if version is not None:
        content |= {"version": str(version), "files": sorted(files_of(df.sparkSession, plan).items())}
        return Source(_hash(content), paths), ""
    nodes = json.loads(plan.toJSON())
    obstacle = obstacle_in(nodes) or _obstacle_of_files(nodes, relations)
    if not obstacle and "InMemoryRelation" in df._jdf.queryExecution().withCachedData().toString():
        obstacle = "its rows may come from a cache, which does not see files that change"
    if not obstacle and not plan.deterministic():
        obstacle = "its plan is not deterministic"
    if obstacle:
        return Source(None, paths), obstacle
    content |= {"plan": normalised(nodes), "relations": [relation.to_json() for relation in relations]}
    # JSON leaves out what it has no form for, patterns and options among them; the printed plan has it.
    content["printed"] = _printed(df.sparkSession, plan)
    content["settings"] = _settings(df.sparkSession)
    return Source(_hash(content), paths), ""


def _printed(spark: SparkSession, plan: Any) -> str:
    """The plan as text, without what differs from session to session."""
    before = spark.conf.get(_PRINTED_FIELDS)
    spark.conf.set(_PRINTED_FIELDS, str(2**31 - 1))
    try:
        text = plan.toString()
    finally:
        spark.conf.set(_PRINTED_FIELDS, before or "25")
    return renumbered(text)


def renumbered(text: str) -> str:
    """A printed plan with its columns, lambdas and common tables counted from 0, in the order of their appearance."""
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return found[1] + str(numbers.setdefault(found[0], len(numbers)))

    return re.sub(r"(#|CTERelationDef |CTERelationRef |x_)(\d+)", number, text)


def _settings(spark: SparkSession) -> dict[str, str]:
    """What is set of Spark SQL and may change values; the time zone even where it is the machine's."""
    every = {row["key"]: row["value"] for row in spark.sql("SET").collect()}
    chosen = {name: value for name, value in every.items() if name.startswith("spark.sql.")}
    kept = {name: value for name, value in chosen.items() if not name.startswith(_HARMLESS_SETTINGS)}
    zone = "spark.sql.session.timeZone"
    return {zone: spark.conf.get(zone) or "", **kept}


def obstacle_in(nodes: object) -> str:
    """Why a plan (`TreeNode.toJSON`, parsed) is not known to be a function of files; "" if it is."""
    if isinstance(nodes, list):
        return next((found for found in map(obstacle_in, nodes) if found), "")
    if not isinstance(nodes, dict):
        return ""
    name = str(nodes.get("class", RELATION))
    simple = name.rsplit(".", 1)[1]
    if simple == "Literal" and str(nodes.get("dataType")).startswith("string"):
        moving = _MOVING_TEXT.match(str(nodes.get("value")))
        if moving:
            return f"its plan holds the text {moving[1]!r}, which Spark may take for the time of now"
    if name.startswith(_EXPRESSIONS):
        pure = simple not in _IMPURE_EXPRESSIONS.split() and not name.startswith(_EXPRESSIONS + "objects.")
    else:
        pure = name == RELATION or (name == _LOGICAL + simple and simple in _PURE_NODES.split())
    return obstacle_in(list(nodes.values())) if pure else f"its plan holds {simple}"


def normalised(content: Any, ids: dict[Any, int] | None = None) -> Any:
    """A plan without what differs from session to session: numbers of columns, of lambdas and of common tables."""
    ids = {} if ids is None else ids
    if isinstance(content, list):
        return [normalised(item, ids) for item in content]
    if not isinstance(content, dict):
        return content
    if content.get("product-class") == _EXPRESSION_ID:
        return ids.setdefault(("column", content["id"]), len(ids))
    kind = str(content.get("class", "")).rsplit(".", 1)[-1]
    result = {}
    for key, value in content.items():
        if key == "cteId" or (key == "id" and kind == "CTERelationDef"):
            result[key] = ids.setdefault(("table", value), len(ids))
        elif key not in _DROPPED and not (key == "name" and kind == "NamedLambdaVariable"):
            result[key] = normalised(value, ids)
    return result


def _obstacle_of_files(nodes: Sequence[Any], relations: Sequence[Relation]) -> str:
    """Why the files do not tell what was read; "" if they do."""
    if not relations:
        return "it reads no files"
    if len(relations) != sum(node["class"] == RELATION for node in nodes):
        return "it reads what is no files"
    for relation in relations:
        if relation.reader not in _READERS:
            return f"it reads by {relation.reader.rsplit('.', 1)[1]}"
        if relation.index != "InMemoryFileIndex":
            return f"its files are listed by {relation.index}"
    return ""


def _config(config: PrepareConfig) -> dict[str, Any]:
    """All of a config that decides what is stored."""
    return {
        "features": [_declared(feature) for feature in config.features],
        "labels": [_declared(feature) for feature in config.labels],
        "weight": config.weight,
        "keep": config.keep,
        "splits": config.splits.to_json() if config.splits else None,
        "seed": config.seed,
        "lanes": config.lanes,
    }


def _declared(feature: Feature) -> list[Any]:
    return [type(feature).__name__, {f.name: getattr(feature, f.name) for f in dataclasses.fields(feature)}]  # type: ignore[arg-type]


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
