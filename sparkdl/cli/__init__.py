"""Run jobs as programs under spark-submit: options, session, log, exit codes."""

from sparkdl.cli.main import JobResult, main, read_source, rows_of_split
from sparkdl.cli.options import build, load_function, read_options, take

__all__ = ["JobResult", "build", "load_function", "main", "read_options", "read_source", "rows_of_split", "take"]
