"""Score a DataFrame into a folder of Parquet files that is there as a whole or not at all.

Driver; Spark reads and writes the rows. What jobs/score.py does where `score_parquet` cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkdl import storage
from sparkdl.data.source import name_rows
from sparkdl.model.signature import Signature
from sparkdl.report import TasksProgress
from sparkdl.score.figures import ScoreMetrics
from sparkdl.score.output_folder import finished, new_output
from sparkdl.score.transform import transform
from sparkdl.spark_columns import column, require_column
from sparkdl.spark_errors import errors_from_workers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["ScoredRows", "scored_rows", "write_scored"]


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """What will be written.

    Attributes:
        df: the rows with their predictions, not computed yet.
        out: where to.
        made_of: names the content; None where nothing does: then one that is there is never the same.
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
    """Check all that can be checked before a job.

    Args:
        keep: the columns to write beside the prediction, None: all.
        options: of `transform`, whose errors it raises.
    """
    scored = transform(df, model_dir, metrics=metrics, **options)
    if keep is not None:
        for name in keep:
            require_column(df.columns, name)
        scored = scored.select(*map(column, keep), *map(column, scored.columns[len(df.columns) :]))
    model = Signature.read(storage.absolute(model_dir)).digest
    # How it is computed is not what is computed.
    how = {name: value for name, value in options.items() if name not in ("batch_size", "device")}
    source, _ = name_rows(df, {"model": model, "keep": keep, "options": sorted(how.items())})
    return ScoredRows(scored, storage.absolute(out), source.fingerprint)


def write_scored(rows: ScoredRows, metrics: ScoreMetrics) -> bool:
    """Write the rows, and beside them what scoring counted; nothing happens where the same is there.

    Returns:
        Whether they were written now.

    Raises:
        ConfigError: something else is at `out`.
        SchemaError, ModelError: a row cannot be scored.
    """
    if finished(rows.out, rows.made_of) is not None:
        return False
    with new_output(rows.out) as new:
        with errors_from_workers(), TasksProgress(rows.df.sparkSession, "score"):
            rows.df.write.parquet(new.folder)
        parts = {name: size for name, size in sorted(storage.sizes(new.folder).items()) if name.startswith("part-")}
        figures = metrics.figures()
        new.commit(parts, {"made_of": rows.made_of, "rows": figures["rows"], "figures": figures})
    return True
