"""spark-submit jobs/score.py conf/score.yaml [key=value ...]: add a model's predictions to rows, as Parquet."""

from dataclasses import dataclass, field
from typing import Any

import sparkdl
from sparkdl import cli, storage
from sparkdl.checks import require
from sparkdl.model.signature import Signature
from sparkdl.score.commit import check_if_exists
from sparkdl.score.options import ScoreOptions
from sparkdl.score.parquet.api import plan_scoring, score_planned
from sparkdl.score.write_scored import plan_write_scored, write_scored
from sparkdl.train.raw_rows import check_label


@dataclass(frozen=True, kw_only=True)
class ScoreJob(ScoreOptions):
    source: Any
    model_dir: str
    output: str
    direct: bool = False  # by score_parquet: source is {path: …}
    dataset: str | None = None  # with `split`: score only the rows of that split of this dataset
    split: str | None = None
    if_exists: str = "reuse"
    label: Any = None  # the column that the predictions are compared with; {label: column} for several outputs
    weight: str | None = None
    launch: Any = field(default_factory=lambda: {"num_workers": 1, "local": True})
    # Not options of a job.
    custom_objects: None = field(default=None, init=False)
    safe_mode: bool = field(default=True, init=False)

    def __post_init__(self):
        super().__post_init__()
        check_if_exists(self.if_exists)
        object.__setattr__(self, "launch", cli.build(sparkdl.LaunchConfig, self.launch))
        require(self.label is None or not self.direct, "direct=true: leave label out, and use jobs/evaluate.py")
        require(self.label is not None or self.weight is None, "weight is for the figures that label asks for")
        if self.direct:
            path = isinstance(self.source, dict) and self.source.keys() == {"path"}
            require(path and self.dataset is None, "direct=true: source must be {path: …}, and dataset is left out")
        else:
            both = (self.dataset is None) == (self.split is None)
            require(both, "dataset and split go together: they choose the rows to score")


def rows_of(spark, job):
    df = cli.read_source(spark, job.source)
    return df if job.split is None else cli.rows_of_split(df, sparkdl.open_dataset(job.dataset), job.split)


def plan_of(spark, job, metrics):
    if job.direct:
        what = (job.source["path"], job.model_dir, job.output)
        return plan_scoring(spark, *what, job, split=job.split, if_exists=job.if_exists)
    df = rows_of(spark, job)
    return plan_write_scored(df, job.model_dir, job.output, job, metrics=metrics, if_exists=job.if_exists)


def score(spark, job):
    metrics = sparkdl.ScoreMetrics(spark)
    planned = plan_of(spark, job, metrics)
    if job.direct:
        score_planned(spark, planned, metrics)
    else:
        write_scored(planned)
    figures = metrics.figures()
    text = metrics.summary() if figures["tasks"] else "found, scored from the same input"
    facts = {"output": job.output, **figures}
    if job.label is not None:
        how = {"label": job.label, "weight": job.weight, "launch": job.launch}
        found = facts["evaluated"] = sparkdl.evaluate(job.model_dir, rows_of(spark, job), **how)
        text += f"; evaluated: { {name: round(value, 4) for name, value in found.items() if isinstance(value, float)} }"
    return cli.JobResult(text=f"predictions {job.output}: {text}", facts=facts)


def plan(spark, job):
    planned = plan_of(spark, job, sparkdl.ScoreMetrics(spark))
    if job.label is not None:
        check_label(rows_of(spark, job), Signature.read(storage.absolute(job.model_dir)), job.label, job.weight)
    facts = {"output": planned.out, "state": planned.state, "columns": planned.columns}
    columns = ", ".join(f"{name} {kind}" for name, kind in facts["columns"].items())
    text = f"dry run: predictions {planned.out} ({facts['state']}) of columns {columns}"
    return cli.JobResult(text=text, facts=facts)


if __name__ == "__main__":
    cli.main(lambda options: cli.build(ScoreJob, options), score, plan=plan, output=lambda job: job.output)
