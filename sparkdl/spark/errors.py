"""Raise sparkdl's errors in a Spark worker as themselves on the driver, and explain errors of a worker's other Python.

Used on the driver around Spark actions: Spark hands on a Python worker's exception as text inside Spark's exception,
under many lines of Java.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sparkdl import errors
from sparkdl.spark.worker_python import explain_worker_error

__all__ = ["errors_from_workers", "explained", "other_python", "own_error_in"]

_OWN_ERROR = re.compile(r"^sparkdl\.errors\.(\w+): (.*)$", re.MULTILINE)


def own_error_in(text: str) -> errors.SparkDLError | None:
    """Return the error of sparkdl that a worker's traceback ends with; None for other tracebacks."""
    found = _OWN_ERROR.findall(text)
    if not found:
        return None
    # The causes of an error come before it.
    name, message = found[-1]
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.SparkDLError)):
        return None
    return kind(message)


def other_python(workers: str) -> str:
    """Say what to do if the workers' Python, as Spark names it, is not this one: an end of a message; "" if it is."""
    found = shutil.which(workers) or workers
    # The interpreter of a virtual environment is a link, whose target does not tell one environment from another.
    locations = [(os.path.dirname(os.path.abspath(path)), os.path.realpath(path)) for path in (found, sys.executable)]
    if locations[0] == locations[1]:
        return ""
    return (
        f". Spark's workers run {workers!r}, this program {sys.executable}: activate its environment, or set "
        f"PYSPARK_PYTHON={sys.executable}, before the session is made"
    )


def explained(text: str) -> str:
    """Explain Spark's error of a Python worker and say what to do; "" for any other error."""
    from pyspark import SparkContext

    meaning = explain_worker_error(text)
    context = SparkContext._active_spark_context
    return f"{meaning}{other_python(context.pythonExec) if context else ''}" if meaning else ""


@contextmanager
def errors_from_workers() -> Iterator[None]:
    """Turn Spark's exception for one of sparkdl's errors in a worker into that error, chained, within the block.

    Where a worker could not even begin, since its Python lacks a package or is another one, Spark's exception becomes a
    ConfigError.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        own = own_error_in(str(error))
        if own is None and (explanation := explained(str(error))):
            raise errors.ConfigError(explanation) from error
        if own is None:
            raise
        raise own from error
