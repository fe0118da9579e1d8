"""Bring an error of ours back from a Spark worker as itself.

Used on the driver around Spark actions: Spark hands on a Python worker's exception as text inside an exception of its
own, under many lines of Java.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sparkdl import errors

__all__ = ["errors_from_workers", "own_error_in"]

_OWN_ERROR = re.compile(r"^sparkdl\.errors\.(\w+): (.*)$", re.MULTILINE)


def own_error_in(text: str) -> errors.SparkDLError | None:
    """The error of ours that a worker's traceback ends with, if any."""
    found = _OWN_ERROR.findall(text)
    if not found:
        return None
    # Its causes come first.
    name, message = found[-1]
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, errors.SparkDLError)):
        return None
    return kind(message)


@contextmanager
def errors_from_workers() -> Iterator[None]:
    """Within the block, Spark's exception for one of our errors in a worker becomes that error, chained."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        own = own_error_in(str(error))
        if own is None:
            raise
        raise own from error
