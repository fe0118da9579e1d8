"""spark-submit jobs/prepare.py conf/prepare.yaml [key=value ...]: turn a DataFrame into a prepared dataset."""

import sparkdl
from sparkdl import cli


def parse(options):
    source = cli.take(options, "source")
    return source, cli.build(sparkdl.PrepareConfig, options)


def prepare(spark, job):
    source, config = job
    ds = sparkdl.prepare(cli.read_source(spark, source), config)
    rows = ", ".join(f"{name} {ds.split(name).rows:,}" for name in ds.splits)
    print(f"dataset {ds.path}: {rows} rows in {len(ds.parts)} parts")


if __name__ == "__main__":
    cli.main(parse, prepare)
