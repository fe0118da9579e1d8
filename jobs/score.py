"""spark-submit jobs/score.py conf/score.yaml [key=value ...]: add a model's predictions to a DataFrame, as Parquet."""

import dataclasses
from typing import Any

import sparkdl
from sparkdl import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreJob:
    source: Any
    model_dir: str
    output: str
    output_col: str = "prediction"
    returns: str = "raw"
    batch_size: int = 1024
    dataset: str | None = None  # with `split`: score only the rows of that split of this dataset
    split: str | None = None


def score(spark, options):
    job = cli.build(ScoreJob, options)
    df = cli.read_source(spark, job.source)
    if (job.dataset is None) != (job.split is None):
        raise sparkdl.ConfigError("dataset and split go together: they choose the rows to score")
    if job.split is not None:
        ds = sparkdl.open_dataset(job.dataset)
        ds.split(job.split)
        df = sparkdl.split(df, ds, column="__split__").where(f"__split__ = '{job.split}'").drop("__split__")
    scored = sparkdl.transform(
        df, job.model_dir, output_col=job.output_col, returns=job.returns, batch_size=job.batch_size
    )
    cli.write_parquet(scored, job.output)
    print(f"predictions {job.output}: {spark.read.parquet(job.output).count():,} rows")


if __name__ == "__main__":
    cli.main(score)
