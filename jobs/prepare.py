"""spark-submit jobs/prepare.py conf/prepare.yaml [key=value ...]: turn a DataFrame into a prepared dataset."""

import sparkdl
from sparkdl import cli
from sparkdl.data.prepare.plan import plan_prepare


def parse(options):
    source = cli.take(options, "source")
    return source, cli.build(sparkdl.PrepareConfig, options)


def prepare(spark, job):
    source, config = job
    ds = sparkdl.prepare(cli.read_source(spark, source), config)
    rows = {name: ds.split(name).rows for name in ds.splits}
    text = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    facts = {"dataset": ds.path, "rows": rows, "parts": len(ds.parts), "fingerprint": ds.fingerprint}
    return cli.JobResult(text=f"dataset {ds.path}: {text} rows in {len(ds.parts)} parts", facts=facts)


def plan(spark, job):
    source, config = job
    planned = plan_prepare(cli.read_source(spark, source), config)
    columns = ", ".join(f"{name} {kind}" for name, kind in planned.columns.items())
    facts = {"path": planned.path, "state": planned.state, "columns": dict(planned.columns)}
    return cli.JobResult(text=f"dry run: dataset {planned.path} ({planned.state}) of columns {columns}", facts=facts)


if __name__ == "__main__":
    cli.main(parse, prepare, plan=plan, output=lambda job: job[1].path)
