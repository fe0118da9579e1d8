"""spark-submit jobs/evaluate.py conf/evaluate.yaml [key=value ...]: loss and metrics of a model, as JSON."""

import json
from dataclasses import dataclass
from typing import Any

import sparkdl
from sparkdl import cli, storage
from sparkdl.checks import require, require_exactness, require_whole
from sparkdl.launch.run import check_launch
from sparkdl.model.signature import Signature
from sparkdl.train.entry import evaluate_rank


@dataclass(frozen=True, kw_only=True)
class EvaluateJob:
    model_dir: str
    output: str
    launch: Any
    source: Any = None
    dataset: str | None = None  # with `split`: the prepared rows, or with `source` its rows of that split
    split: str | None = None
    label: Any = None
    weight: str | None = None
    path: str | None = None
    global_batch_size: int = 1024
    exactness: str = "strict"

    def __post_init__(self):
        both = (self.dataset is None) == (self.split is None)
        require(both, "dataset and split go together: they choose the rows to evaluate")
        require(self.source is not None or self.dataset is not None, "give source, or dataset and split")
        require_whole("global_batch_size", self.global_batch_size)
        require_exactness(self.exactness)
        object.__setattr__(self, "launch", cli.build(sparkdl.LaunchConfig, self.launch))


def rows_of(spark, job):
    """Return what is evaluated: a dataset with a split, or a DataFrame of raw rows."""
    dataset = None if job.dataset is None else sparkdl.open_dataset(job.dataset)
    if job.source is None:
        dataset.split(job.split)
        return dataset, {"split": job.split}
    df = cli.read_source(spark, job.source)
    df = df if dataset is None else cli.rows_of_split(df, dataset, job.split)
    return df, {"label": job.label, "weight": job.weight, "path": job.path}


def evaluate(spark, job):
    rows, options = rows_of(spark, job)
    how = {"global_batch_size": job.global_batch_size, "exactness": job.exactness}
    figures = sparkdl.evaluate(job.model_dir, rows, launch=job.launch, **options, **how)
    facts = {"model_dir": storage.absolute(job.model_dir), "dataset": job.dataset, "split": job.split, **figures}
    storage.write_atomic(storage.absolute(job.output), json.dumps(facts, indent=1).encode())
    told = {name: round(value, 4) for name, value in figures.items() if isinstance(value, float)}
    return cli.JobResult(text=f"evaluation {job.output}: {told}", facts={"output": job.output, **facts})


def plan(spark, job):
    Signature.read(storage.absolute(job.model_dir))
    rows_of(spark, job)
    ranks = check_launch(evaluate_rank, (), launch=job.launch)
    facts = {"output": job.output, "model_dir": job.model_dir, "ranks": ranks}
    return cli.JobResult(text=f"dry run: evaluation {job.output} of {job.model_dir} on {ranks} ranks", facts=facts)


if __name__ == "__main__":
    cli.main(lambda options: cli.build(EvaluateJob, options), evaluate, plan=plan, output=lambda job: job.output)
