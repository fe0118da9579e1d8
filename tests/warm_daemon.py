"""Start Python workers of the tests' session with third-party libraries in place.

Spark forks its Python workers from a daemon (`spark.python.daemon.module`). Each error ends a worker, so that tests use
hundreds of them, and each would import pandas, pyarrow and TensorFlow anew: 2.5 s of a core. sparkdl itself is imported
in each worker. Tests that start programs of their own use Spark's daemon.
"""

import gc

import fsspec  # noqa: F401
import pyarrow.compute
import pyarrow.parquet  # noqa: F401
from pyspark.daemon import manager

from sparkdl.imports import load_libraries

if __name__ == "__main__":
    load_libraries()
    import pandas  # noqa: F401

    gc.freeze()
    manager()
