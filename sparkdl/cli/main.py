"""What the jobs have in common: options, exit codes, Spark's session, what they read and write.

Runs on the driver, started by spark-submit.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparkdl.checks import require
from sparkdl.cli.log import FORMATS, JobLog
from sparkdl.cli.options import build, load_function, mapping, read_options, take
from sparkdl.cli.record import record_job
from sparkdl.cli.sigterm import EXIT_TERMINATED, Termination
from sparkdl.data.dataset import Dataset
from sparkdl.data.prepare.apply_split import split
from sparkdl.errors import ConfigError, SparkDLError, WorkerError, near_miss, shown

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = [
    "JobResult",
    "build",
    "load_function",
    "main",
    "read_options",
    "read_source",
    "rows_of_split",
    "take",
]

T = TypeVar("T")

EXIT_RANK_FAILED = 1
EXIT_OWN_ERROR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class JobResult:
    """What a job tells at its end: a line for people, and the same as names and values."""

    text: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options that every job has. Raises ConfigError for other values."""

    dry_run: bool = False
    """Check all that can be checked, and tell what the job would do, without doing it."""

    log_format: str = "text"
    """"text", or "json": each line of the log, an error, and what the job tells at its end are JSON objects."""

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
    """Run a job as a program: options from the arguments, a session that is stopped, an exit code.

    Exit code 2 and one line for an error of ours; 1 and its traceback for a rank's failure; 143 after a SIGTERM, for
    which a training run takes a checkpoint first.

    Args:
        parse: the job's configuration from its options; called before Spark starts, so that mistakes are told at once.
        job: the work itself.
        plan: what `dry_run` does in place of it.
        output: where the job writes; its options are kept beside that.
    """
    log, termination = JobLog("json" if "log_format=json" in sys.argv else "text"), Termination()
    try:
        options = read_options(sys.argv[1:])
        run = build(RunOptions, {name: options.pop(name) for name in RunOptions.__slots__ if name in options})
        log = JobLog(run.log_format)
        if run.dry_run and plan is None:
            raise ConfigError("dry_run=true: this job has no plan to show")
        config = parse(copy.deepcopy(options))
        told = _run((plan if run.dry_run and plan else job), config, termination)
        if output is not None and not run.dry_run:
            record_job(options, output(config), job=Path(sys.argv[0]).stem)
        if told is not None:
            log.tell(told.text, told.facts)
    except WorkerError as error:
        log.fail(str(error), EXIT_TERMINATED if termination.asked else EXIT_RANK_FAILED)
    except SparkDLError as error:
        log.fail(" ".join(str(error).split()), EXIT_TERMINATED if termination.asked else EXIT_OWN_ERROR)
    except Exception:
        if not termination.asked:
            raise
        log.fail("the job was ended by SIGTERM", EXIT_TERMINATED)  # Spark was stopped under it


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
    """The DataFrame of a job's `source`.

    Args:
        source: `module:function`, called with the session; or a mapping `{format: parquet, path: …, options: {…}}` (the
            format is "parquet" if it is left out); or `{table: name}`.

    Raises:
        ConfigError: none of these, or Spark finds nothing there.
    """
    from pyspark.errors import AnalysisException

    if isinstance(source, str):
        return load_function(source)(spark)
    options = dict(mapping("source", source))
    try:
        if set(options) == {"table"}:
            return spark.table(options["table"])
        for key in options:
            if key not in ("format", "path", "options"):
                raise ConfigError(
                    f"unknown option {key!r} of source{near_miss(str(key), ('format', 'path', 'options', 'table'))}"
                )
        if "path" not in options:
            raise ConfigError("source must be module:function, {path: …} or {table: …}")
        reader = spark.read.format(options.get("format", "parquet")).options(**options.get("options", {}))
        return reader.load(options["path"])
    except AnalysisException as error:
        raise ConfigError(f"source {shown(source)} cannot be read: {' '.join(str(error).split())[:300]}") from error


def rows_of_split(df: DataFrame, dataset: Dataset, name: str) -> DataFrame:
    """The raw rows that a dataset holds in one of its splits. Raises DatasetError for an unknown split."""
    dataset.split(name)
    column = "__split__"
    return split(df, dataset, column=column).where(f"{column} = '{name}'").drop(column)
