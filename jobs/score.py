"""spark-submit jobs/score.py conf/score.yaml [key=value ...]: add a model's predictions to rows, as Parquet."""

from dataclasses import dataclass
from typing import Any

import sparkdl
from sparkdl import cli
from sparkdl.checks import require
from sparkdl.score.commit import check_if_exists
from sparkdl.score.foretold import foretold
from sparkdl.score.parquet.api import plan_scoring
from sparkdl.score.write_scored import scored_rows, write_scored


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    source: Any
    model_dir: str
    output: str
    keep: list[str] | None = None
    direct: bool = False  # by score_parquet: source is {path: …}
    output_col: str = "prediction"
    returns: str = "raw"
    k: int = 5
    batch_size: int = 1024
    on_error: str = "raise"
    device: str = "auto"
    dataset: str | None = None  # with `split`: score only the rows of that split of this dataset
    split: str | None = None
    if_exists: str = "reuse"

    def __post_init__(self):
        check_if_exists(self.if_exists)
        if self.direct:
            path = isinstance(self.source, dict) and self.source.keys() == {"path"}
            require(path and self.dataset is None, "direct=true: source must be {path: …}, and dataset is left out")
        else:
            both = (self.dataset is None) == (self.split is None)
            require(both, "dataset and split go together: they choose the rows to score")

    @property
    def options(self):
        names = ("keep", "output_col", "returns", "k", "batch_size", "on_error", "device")
        return {name: getattr(self, name) for name in names}


def rows_of(spark, job, metrics):
    df = cli.read_source(spark, job.source)
    if job.split is not None:
        df = cli.rows_of_split(df, sparkdl.open_dataset(job.dataset), job.split)
    return scored_rows(df, job.model_dir, job.output, metrics=metrics, **job.options)


def score(spark, job):
    metrics = sparkdl.ScoreMetrics(spark)
    if job.direct:
        what = (job.source["path"], job.model_dir, job.output)
        sparkdl.score_parquet(spark, *what, split=job.split, metrics=metrics, if_exists=job.if_exists, **job.options)
    else:
        write_scored(rows_of(spark, job, metrics), metrics, if_exists=job.if_exists)
    figures = metrics.figures()
    text = metrics.summary() if figures["tasks"] else "found, scored from the same input"
    return cli.JobResult(text=f"predictions {job.output}: {text}", facts={"output": job.output, **figures})


def plan(spark, job):
    if job.direct:
        planned = plan_scoring(spark, job.source["path"], job.model_dir, job.output, split=job.split, **job.options)
    else:
        planned = rows_of(spark, job, sparkdl.ScoreMetrics(spark))
    state = foretold(planned.out, planned.made_of, job.if_exists)
    facts = {"output": planned.out, "state": state, "columns": planned.columns}
    columns = ", ".join(f"{name} {kind}" for name, kind in planned.columns.items())
    return cli.JobResult(text=f"dry run: predictions {planned.out} ({state}) of columns {columns}", facts=facts)


if __name__ == "__main__":
    cli.main(lambda options: cli.build(ScoreJob, options), score, plan=plan, output=lambda job: job.output)
