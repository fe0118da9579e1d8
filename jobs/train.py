"""spark-submit jobs/train.py conf/train.yaml [key=value ...]: train a Keras model on all workers."""

import sparkdl
from sparkdl import cli
from sparkdl.train.plan import plan_fit


def parse(options):
    dataset = cli.take(options, "dataset")
    build_model = cli.load_function(cli.take(options, "build_model"))
    launch = cli.build(sparkdl.LaunchConfig, cli.take(options, "launch"))
    return build_model, dataset, cli.build(sparkdl.TrainConfig, options), launch


def train(spark, job):
    build_model, dataset, config, launch = job
    result = sparkdl.fit(build_model, sparkdl.open_dataset(dataset), config, launch=launch)
    last = {name: round(value, 4) for name, value in result.history[-1].items() if isinstance(value, float)}
    facts = {"model": result.model_dir, **result.history[-1]}
    return cli.JobResult(text=f"model {result.model_dir}: {last}", facts=facts)


def plan(spark, job):
    build_model, dataset, config, launch = job
    facts = plan_fit(build_model, sparkdl.open_dataset(dataset), config, launch=launch).facts(launch)
    what = "{run_dir} ({state}): {epochs} epochs of {steps} steps over {rows:,} rows on {ranks} ranks".format(**facts)
    return cli.JobResult(text=f"dry run: training {what}", facts=facts)


if __name__ == "__main__":
    cli.main(parse, train, plan=plan, output=lambda job: job[2].run_dir)
