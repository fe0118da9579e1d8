"""Fingerprint the input of a dataset, so that the same input is found again: a hash of config, plan and files.

Runs on the driver, within prepare. The JVM gives the analysed plan as JSON, and the state of the files. A plan that is
not known to be a function of files alone does not get such a fingerprint: a version identifies its rows, or, in
prepare, the content of the rows does.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparkdl.data.dataset import FORMAT_VERSION, Source
from sparkdl.data.features import Feature
from sparkdl.data.features.feature import StoredEncoder, stated_fields
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
from sparkdl.user_code.source import source_digests

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["name_content", "name_rows", "name_source", "normalised", "obstacle_in", "renumbered"]

# The paths in a manifest are for people to read.
SHOWN_PATHS = 5
# Settings of Spark SQL, by the begin of their names, that change how Spark works, not its results. Any other may change
# values.
_HARMLESS_SETTINGS = """
    adaptive. autoBroadcastJoinThreshold catalogImplementation cbo. debug. event execution.arrow. execution.pythonUDF
    files.maxPartition files.minPartitionNum files.openCostInBytes repl. shuffle. sources.parallelPartitionDiscovery.
    streaming. ui. warehouse.
"""
# Set while a plan is printed, so that Spark prints all fields.
_PRINTED_FIELDS = "spark.sql.debug.maxToStringFields"

_LOGICAL = SQL + "catalyst.plans.logical."
_EXPRESSIONS = SQL + "catalyst.expressions."
_EXPRESSION_ID = _EXPRESSIONS + "ExprId"
_FILES = SQL + "execution.datasources."

# The rows of these nodes, in any order, depend on their input alone. Those of a limit or of a subset without duplicates
# depend on the order of arrival, too.
_PURE_NODES = """
    Aggregate CTERelationDef CTERelationRef Distinct Except Expand Filter Generate Intersect Join OneRowRelation
    Project Range RebalancePartitions Repartition RepartitionByExpression ResolvedHint Sort SubqueryAlias Union
    View Window WithCTE
"""
_READERS = """
    binaryfile.BinaryFileFormat csv.CSVFileFormat json.JsonFileFormat orc.OrcFileFormat parquet.ParquetFileFormat
    text.TextFileFormat
"""
# Expressions that Spark takes for deterministic, though they depend on user code, the time, the session or the order of
# arrival; and plans inside of expressions, whose files are not seen here.
_IMPURE_EXPRESSIONS = """
    AnyValue ApplyFunctionExpression CallMethodViaReflection CollectList CollectSet CollectUnion CurrentCatalog
    CurrentDatabase CurrentDate CurrentPath CurrentTime CurrentTimeZone CurrentTimestamp CurrentTimestampNanos
    CurrentUser CursorReference DynamicPruningSubquery Exists ExternalUserDefinedFunction First
    FunctionTableSubqueryArgumentExpression KllSketchAggBigint KllSketchAggDouble KllSketchAggFloat Last
    LateralSubquery ListAgg ListQuery LocalTimestamp LocalTimestampNanos Now PythonUDAF PythonUDF PythonUDTF
    ScalaUDF ScalarSubquery TranspiledPythonUDF UserDefinedGenerator VariableReference
"""
# Text that Spark reads as the day or the time of the query where it expects a date or a time, with a zone or without.
_MOVING_TEXT = re.compile(r"\s*(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
# The time when a view was made, and counters of the session.
_DROPPED = frozenset({"desc", "catalogTable", "jvmId"})


def name_source(df: DataFrame, config: PrepareConfig) -> tuple[Source, str]:
    """Return the source of a dataset, and why it does not have a fingerprint ("" if it has one)."""
    return name_rows(df, _how(config), config.version)


def name_content(
    config: PrepareConfig,
    types: Mapping[str, str],
    rows: Sequence[int],
    sums: Sequence[Sums],
    paths: tuple[str, ...],
) -> Source:
    """Return the source of a dataset, with a fingerprint of the rows' content, for rows that nothing else identifies.

    Args:
        types: Spark type (DDL) of each column that the dataset reads.
        rows: the number of rows of each split.
        sums: of the hashes of whole rows, for each split.
        paths: some of the folders and files that were read.
    """
    return Source(_hash(_how(config) | {"types": dict(types), "rows": list(rows), "content": list(sums)}), paths)


def name_rows(df: DataFrame, how: Mapping[str, Any], version: str | int | None = None) -> tuple[Source, str]:
    """Return the source of a result of a DataFrame's rows, and why it does not have a fingerprint ("" if it has one).

    Args:
        how: all else that decides the result (JSON).
        version: identifies the rows in place of their plan.

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
    # `toJSON` leaves out values without a form in JSON, such as patterns and options; the printed plan has them.
    content["printed"] = _printed(df.sparkSession, plan)
    content["settings"] = _settings(df.sparkSession)
    return Source(_hash(content), paths), ""


def _printed(spark: SparkSession, plan: Any) -> str:
    """Print a plan, without what differs from session to session."""
    before = spark.conf.get(_PRINTED_FIELDS)
    spark.conf.set(_PRINTED_FIELDS, str(2**31 - 1))
    try:
        text = plan.toString()
    finally:
        spark.conf.set(_PRINTED_FIELDS, before or "25")
    return renumbered(text)


def renumbered(text: str) -> str:
    """Renumber columns, lambdas and common tables in a printed plan from 0, in the order of their appearance."""
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        return found[1] + str(numbers.setdefault(found[0], len(numbers)))

    return re.sub(r"(#|CTERelationDef |CTERelationRef |x_)(\d+)", number, text)


def _settings(spark: SparkSession) -> dict[str, str]:
    """Return the settings of Spark SQL that may change values; always the time zone, even if it is the machine's."""
    every = {row["key"]: row["value"] for row in spark.sql("SET").collect()}
    harmless = tuple(f"spark.sql.{start}" for start in _HARMLESS_SETTINGS.split())
    kept = {n: value for n, value in every.items() if n.startswith("spark.sql.") and not n.startswith(harmless)}
    zone = "spark.sql.session.timeZone"
    return {zone: spark.conf.get(zone) or "", **kept}


def obstacle_in(nodes: object) -> str:
    """Find why a plan (`TreeNode.toJSON`, parsed) is not known to be a function of files; "" if it is."""
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
    """Strip from a plan what differs from session to session: numbers of columns, of lambdas and of common tables."""
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
    """Find why the files do not determine what was read; "" if they do."""
    if not relations:
        return "it reads no files"
    if len(relations) != sum(node["class"] == RELATION for node in nodes):
        return "it reads sources that are not files"
    for relation in relations:
        if relation.reader not in [_FILES + name for name in _READERS.split()]:
            return f"it reads by {relation.reader.rsplit('.', 1)[1]}"
        if relation.index != "InMemoryFileIndex":
            return f"its files are listed by {relation.index}"
    return ""


def _how(config: PrepareConfig) -> dict[str, Any]:
    """Return what decides how rows are stored: the format's version, and fields of the config."""
    fields = {
        "features": [_declared(feature) for feature in config.features],
        "labels": [_declared(feature) for feature in config.labels],
        "weight": config.weight,
        "keep": config.keep,
        "splits": config.splits.to_json() if config.splits else None,
        "seed": config.seed,
        "lanes": config.lanes,
    }
    return {"format_version": FORMAT_VERSION, "config": fields}


def _declared(feature: Feature) -> list[Any]:
    if isinstance(feature, StoredEncoder):
        declared: list[Any] = ["fitted", feature.to_json()]
    else:
        declared = [type(feature).__name__, stated_fields(feature)]
    tokenizer = getattr(feature, "tokenizer", None)
    if tokenizer is not None:
        declared.append(source_digests({tokenizer.partition(":")[0]}))
    return declared


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
