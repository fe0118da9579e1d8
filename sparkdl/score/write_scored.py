"""Score a DataFrame into a folder of Parquet files that is complete or absent.

Driver; Spark reads and writes the rows. jobs/score.py uses this where `score_parquet` cannot score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from sparkdl import storage
from sparkdl.data.prepare.fingerprint import name_rows
from sparkdl.progress import TasksProgress
from sparkdl.score.commit import check_no_input, new_output
from sparkdl.score.options import ScoreOptions
from sparkdl.score.plan import ScorePlan
from sparkdl.score.transform import scored_frame
from sparkdl.score.worker.metrics import ScoreMetrics
from sparkdl.spark.columns import column, require_columns
from sparkdl.spark.errors import errors_from_workers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["FramePlan", "plan_write_scored", "write_scored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlan(ScorePlan):
    """Describe an output of Spark's rows.

    Attributes:
        df: the rows with their predictions, not computed yet.
        metrics: gets the counts and times when the rows are computed.
    """

    df: DataFrame
    metrics: ScoreMetrics

    @property
    def columns(self) -> dict[str, str]:
        """The Spark type of each column that will be written."""
        return dict(self.df.dtypes)


def plan_write_scored(
    df: DataFrame, model_dir: str, out: str, options: ScoreOptions, *, metrics: ScoreMetrics, if_exists: str = "reuse"
) -> FramePlan:
    """Plan the output, and check all that can be checked before a job. Raises as `transform` does."""
    scored, task = scored_frame(df, model_dir, options, metrics)
    if options.keep is not None:
        kept = require_columns(df, list(options.keep))
        scored = scored.select(*kept, *map(column, scored.columns[len(df.columns) :]))
    source, _ = name_rows(df, {"task": task.content, "columns": scored.columns})
    made_of = source.fingerprint if task.code.is_named else None
    return FramePlan(out=storage.absolute(out), made_of=made_of, if_exists=if_exists, df=scored, metrics=metrics)


def write_scored(plan: FramePlan) -> bool:
    """Write the rows, and beside them the metrics of scoring.

    Rows that do not come from files alone never count as the same as those of an existing output.

    Returns:
        True if the rows were written now, False if the output was reused.

    Raises:
        ConfigError: `out` holds predictions that are neither reused nor replaced, or something else.
        SchemaError, ModelError: a row cannot be scored.
    """
    replace = plan.if_exists == "replace"
    if replace:
        check_no_input(plan.out, (storage.absolute(unquote(file)) for file in plan.df.inputFiles()))
    if plan.found() is not None:
        return False
    with new_output(plan.out, replace=replace) as new:
        with errors_from_workers(), TasksProgress(plan.df.sparkSession, "score"):
            plan.df.write.parquet(new.folder)
        parts = {name: size for name, size in sorted(storage.sizes(new.folder).items()) if name.startswith("part-")}
        figures = plan.metrics.figures()
        new.commit(parts, {"made_of": plan.made_of, "rows": figures["rows"], "figures": figures})
    return True
