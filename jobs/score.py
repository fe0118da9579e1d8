"""spark-submit jobs/score.py conf/score.yaml [key=value ...]: add a model's predictions to a DataFrame, as Parquet."""

from dataclasses import dataclass
from typing import Any

import sparkdl
from sparkdl import cli, storage


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    source: Any
    model_dir: str
    output: str
    output_col: str = "prediction"
    returns: str = "raw"
    k: int = 5
    batch_size: int = 1024
    on_error: str = "raise"
    device: str = "auto"
    dataset: str | None = None  # with `split`: score only the rows of that split of this dataset
    split: str | None = None

    def __post_init__(self):
        if (self.dataset is None) != (self.split is None):
            raise sparkdl.ConfigError("dataset and split go together: they choose the rows to score")


def score(spark, job):
    df, metrics = cli.read_source(spark, job.source), sparkdl.ScoreMetrics(spark)
    if job.split is not None:
        df = cli.rows_of_split(df, sparkdl.open_dataset(job.dataset), job.split)
    options = {n: getattr(job, n) for n in ("output_col", "returns", "k", "batch_size", "on_error", "device")}
    cli.write_parquet(sparkdl.transform(df, job.model_dir, metrics=metrics, **options), job.output)
    metrics.save(storage.join(storage.absolute(job.output), "_score.json"))
    print(f"predictions {job.output}: {metrics.summary()}")


if __name__ == "__main__":
    cli.main(lambda options: cli.build(ScoreJob, options), score)
