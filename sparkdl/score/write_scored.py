"""Score a DataFrame into a folder of Parquet files that is complete or absent.

Driver; Spark reads and writes the rows. jobs/score.py uses this where `score_parquet` cannot score.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from sparkdl import storage
from sparkdl.data.prepare.fingerprint import name_rows
from sparkdl.progress import TasksProgress
from sparkdl.score.commit import check_no_input, finished, new_output, put_back
from sparkdl.score.transform import transform
from sparkdl.score.worker.metrics import ScoreMetrics
from sparkdl.score.worker.spec import score_spec
from sparkdl.spark.columns import column, require_column
from sparkdl.spark.errors import errors_from_workers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["ScoredRows", "scored_rows", "write_scored"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Describe the output that will be written.

    Attributes:
        df: the rows with their predictions, not computed yet.
        out: the folder to write.
        made_of: the fingerprint of the content; None if it has none: then an existing output never counts as the same.
    """

    df: DataFrame
    out: str
    made_of: str | None

    @property
    def columns(self) -> dict[str, str]:
        """The Spark type of each column that will be written."""
        return dict(self.df.dtypes)


def scored_rows(
    df: DataFrame, model_dir: str, out: str, *, keep: Sequence[str] | None, metrics: ScoreMetrics, **options: Any
) -> ScoredRows:
    """Plan the output, and check all that can be checked before a job.

    Args:
        keep: the columns to write beside the prediction; None: all.
        options: arguments of `transform`, whose errors this function raises.
    """
    scored = transform(df, model_dir, metrics=metrics, **options)
    if keep is not None:
        for name in keep:
            require_column(df.columns, name)
        scored = scored.select(*map(column, keep), *map(column, scored.columns[len(df.columns) :]))
    task, _ = score_spec(model_dir, **{name: value for name, value in options.items() if name != "output_col"})
    source, _ = name_rows(df, {"task": task.content, "columns": scored.columns})
    return ScoredRows(scored, storage.absolute(out), source.fingerprint if task.code.is_named else None)


def write_scored(rows: ScoredRows, metrics: ScoreMetrics, *, if_exists: str = "reuse") -> bool:
    """Write the rows, and beside them the metrics of scoring.

    Args:
        rows: the planned output.
        metrics: the metrics that scoring these rows updates.
        if_exists: as in `score_parquet`; rows that do not come from files alone never count as the same.

    Returns:
        True if the rows were written now, False if the output was reused.

    Raises:
        ConfigError: `out` holds predictions that are neither reused nor replaced, or something else.
        SchemaError, ModelError: a row cannot be scored.
    """
    replace = if_exists == "replace"
    if replace:
        check_no_input(rows.out, (storage.absolute(unquote(file)) for file in rows.df.inputFiles()))
    put_back(rows.out)
    if finished(rows.out, rows.made_of, if_exists) is not None:
        log.warning("found %s, scored from the same input: nothing was scored now", rows.out)
        return False
    with new_output(rows.out, replace=replace) as new:
        with errors_from_workers(), TasksProgress(rows.df.sparkSession, "score"):
            rows.df.write.parquet(new.folder)
        parts = {name: size for name, size in sorted(storage.sizes(new.folder).items()) if name.startswith("part-")}
        figures = metrics.figures()
        new.commit(parts, {"made_of": rows.made_of, "rows": figures["rows"], "figures": figures})
    return True
