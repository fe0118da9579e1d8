"""Run a job: options, exit codes, Spark's session, its source and its record.

Runs on the driver, started by spark-submit.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparkdl.checks import check_options, require
from sparkdl.cli.log import FORMATS, JobLog
from sparkdl.cli.options import build, load_function, mapping, read_options
from sparkdl.cli.record import record_job
from sparkdl.cli.sigterm import EXIT_TERMINATED, Termination
from sparkdl.data.dataset import Dataset
from sparkdl.data.prepare.splits.apply import split
from sparkdl.errors import ConfigError, SparkDLError, WorkerError, shown

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["JobResult", "main", "read_source", "rows_of_split"]

T = TypeVar("T")

EXIT_RANK_FAILED = 1
EXIT_OWN_ERROR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """Hold the result that a job reports: a line for people, and the same content as names and values."""

    text: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Hold the options that every job has. Raises ConfigError for wrong values."""

    dry_run: bool = False
    """Check all that can be checked, and report what the job would do, without doing it."""

    log_format: str = "text"
    """"text", or "json": each line of the log, an error, and the job's result are JSON objects."""

    def __post_init__(self) -> None:
        require(isinstance(self.dry_run, bool), f"dry_run={shown(self.dry_run)} must be true or false")
        require(self.log_format in FORMATS, f"log_format={shown(self.log_format)} must be one of {', '.join(FORMATS)}")


def main(
    parse: Callable[[dict[str, Any]], T],
    job: Callable[[SparkSession, T], JobResult | None],
    *,
    plan: Callable[[SparkSession, T], JobResult] | None = None,
    output: Callable[[T], str] | None = None,
) -> None:
    """Run a job as a program: read its options, start and stop a Spark session, exit with a code.

    Exit code 2 and one line for an error of sparkdl; 1 and the rank's traceback for a rank's failure; 143 after a
    SIGTERM, on which a training run takes a checkpoint before it ends.

    Args:
        parse: makes the job's configuration from its options; called before Spark starts, so that mistakes are
            reported at once.
        job: does the work.
        plan: called by `dry_run` in place of `job`.
        output: returns the path that the job writes to; the options are written beside it.
    """
    log, termination = JobLog("json" if "log_format=json" in sys.argv else "text"), Termination()
    try:
        options = read_options(sys.argv[1:])
        run = build(RunOptions, {name: options.pop(name) for name in RunOptions.__slots__ if name in options})
        log = JobLog(run.log_format)
        if run.dry_run and plan is None:
            raise ConfigError("dry_run=true: this job has no plan to show")
        config = parse(copy.deepcopy(options))
        result = _run((plan if run.dry_run and plan else job), config, termination)
        if output is not None and not run.dry_run:
            record_job(options, output(config), job=Path(sys.argv[0]).stem)
        if result is not None:
            log.tell(result.text, result.facts)
    except WorkerError as error:
        log.fail(str(error), EXIT_TERMINATED if termination.asked else EXIT_RANK_FAILED)
    except SparkDLError as error:
        log.fail(" ".join(str(error).split()), EXIT_TERMINATED if termination.asked else EXIT_OWN_ERROR)
    except Exception:
        if not termination.asked:
            raise
        log.fail("the job was ended by SIGTERM", EXIT_TERMINATED)  # Spark was stopped while the job used it


def _run(job: Callable[[SparkSession, T], JobResult | None], config: T, termination: Termination) -> JobResult | None:
    from pyspark.sql import SparkSession

    with termination:
        spark = SparkSession.builder.getOrCreate()
        try:
            with termination.of(spark):
                return job(spark, config)
        finally:
            spark.stop()


def read_source(spark: SparkSession, source: Any) -> DataFrame:
    """Read the DataFrame of a job's `source`.

    Args:
        source: `module:function`, called with the session; or `{table: name}`; or a mapping `{format: csv, path: …,
            options: {…}, schema: "age double, job string"}`. The format is "parquet" if it is left out, the schema what
            Spark finds; sources such as jdbc have no path. A path may be a list, or a mapping `{train: …, test: …}`
            from splits to their files: a column (`split_column`, "split" if it is left out) then names the split of
            each row.

    Raises:
        ConfigError: `source` has another form, or Spark cannot find it.
    """
    from pyspark.errors import AnalysisException, IllegalArgumentException

    if isinstance(source, str):
        return load_function(source)(spark)
    options = dict(mapping("source", source))
    try:
        if set(options) == {"table"}:
            return spark.table(options["table"])
        check_options(options, ("format", "path", "options", "schema", "split_column", "table"), "source: ")
        if not {"path", "format"} & set(options) or "table" in options:
            raise ConfigError("source must be module:function, {path: …}, {format: …, options: …} or {table: …}")
        return _read_files(spark, options)
    except (AnalysisException, IllegalArgumentException) as error:
        raise ConfigError(f"source {shown(source)} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _read_files(spark: SparkSession, options: Mapping[str, Any]) -> DataFrame:
    """Read files as `read_source` describes; rows of several splits are put one below the other."""
    from pyspark.sql import DataFrame
    from pyspark.sql import functions as F

    reader = spark.read.format(options.get("format", "parquet"))
    reader = reader.options(**mapping("source: options", options.get("options", {})))
    if "schema" in options:
        reader = reader.schema(options["schema"])
    path = options.get("path")
    if not isinstance(path, Mapping):
        if "split_column" in options:
            raise ConfigError("source: split_column=… needs a path for each split: path: {train: …, test: …}")
        return reader.load(path)
    if not path:
        raise ConfigError("source: path={} must name at least one split")
    column = options.get("split_column", "split")
    parts = []
    for name, where in path.items():
        rows = reader.load(where)
        if str(column).lower() in [known.lower() for known in rows.columns]:
            raise ConfigError(f"source: the files have a column {column!r} already; choose another split_column=…")
        parts.append(rows.select("*", F.lit(str(name)).alias(column)))
        if sorted(parts[-1].dtypes) != sorted(parts[0].dtypes):
            first, here = (set(part.dtypes) for part in (parts[0], parts[-1]))
            raise ConfigError(
                f"source: the files of {shown(name)} have {shown(sorted(here - first))} where those before have "
                f'{shown(sorted(first - here))}; give a schema, schema: "age double, job string"'
            )
    return functools.reduce(DataFrame.unionByName, parts)


def rows_of_split(df: DataFrame, dataset: Dataset, name: str) -> DataFrame:
    """Return the raw rows that a dataset holds in one of its splits. Raises DatasetError for an unknown split."""
    dataset.split(name)
    column = "__split__"
    return split(df, dataset, column=column).where(f"{column} = '{name}'").drop(column)
