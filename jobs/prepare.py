"""spark-submit jobs/prepare.py conf/prepare.yaml [key=value ...]: turn a DataFrame into a prepared dataset."""

import sparkdl
from sparkdl import cli


def prepare(spark, options):
    df = cli.read_source(spark, options.pop("source", None))
    ds = sparkdl.prepare(df, cli.build(sparkdl.PrepareConfig, options))
    rows = ", ".join(f"{name} {ds.split(name).rows:,}" for name in ds.splits)
    print(f"dataset {ds.path}: {rows} rows in {len(ds.parts)} parts")


if __name__ == "__main__":
    cli.main(prepare)
