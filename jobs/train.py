"""spark-submit jobs/train.py conf/train.yaml [key=value ...]: train a Keras model on all workers."""

import dataclasses
from collections.abc import Callable

import sparkdl
from sparkdl import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainJob:
    dataset: str
    build_model: Callable
    launch: sparkdl.LaunchConfig


def train(spark, options):
    own = {field.name for field in dataclasses.fields(TrainJob)}
    job = cli.build(TrainJob, {key: value for key, value in options.items() if key in own})
    config = cli.build(sparkdl.TrainConfig, {key: value for key, value in options.items() if key not in own})
    result = sparkdl.fit(job.build_model, sparkdl.open_dataset(job.dataset), config, launch=job.launch)
    last = {name: round(value, 4) for name, value in result.history[-1].items() if isinstance(value, float)}
    print(f"model {result.model_dir}: {last}")


if __name__ == "__main__":
    cli.main(train)
