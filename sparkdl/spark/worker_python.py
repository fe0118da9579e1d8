"""Explain the errors that end a Spark worker's Python before it can say which versions it has.

Pure; used on the driver.
"""

from __future__ import annotations

import re

__all__ = ["SAME_ENVIRONMENT", "SAME_SPARKDL", "explain_worker_error"]

# What a Spark worker imports to start its rank, beside sparkdl itself.
NEEDED_MODULES = ("cloudpickle", "fsspec", "numpy", "pandas", "psutil", "pyarrow", "tqdm")

SAME_ENVIRONMENT = (
    "spark.pyspark.python (or PYSPARK_PYTHON) must name the same environment on the driver and on all executors"
)
SAME_SPARKDL = "send the driver's with --py-files, or install the same version in the executors' environment"

_PYTHONS = re.compile(
    r"Python in worker has different version:? (\(\d+, *\d+\)|[\d.]*\d) than that in driver:? (\d+\.\d+)"
)
_NO_PROGRAM = re.compile(r'Cannot run program "([^"]+)".*No such file')
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_NO_NAME = re.compile(
    r"AttributeError: Can't get attribute '(?P<lost>[\w.]+)' on <module '(?P<owner>sparkdl(?:\.\w+)*)'"
    r"|ImportError: cannot import name '(?P<name>\w+)' from '(?P<module>sparkdl(?:\.\w+)*)'"
)


def explain_worker_error(text: str) -> str | None:
    """Explain Spark's error of a failed Python worker and say what to change, in one line; None for another error.

    The explained errors are those that end a worker before it can say which versions it has.
    """
    if found := _PYTHONS.search(text):
        # Spark 3.5 shows the worker's version as a tuple.
        worker = ".".join(re.findall(r"\d+", found[1]))
        return f"the executors have Python {worker}, the driver has Python {found[2]}; {SAME_ENVIRONMENT}"
    if found := _NO_PROGRAM.search(text):
        return f"the executors have no program {found[1]}; spark.pyspark.python (or PYSPARK_PYTHON) must name theirs"
    if found := _NO_NAME.search(text):
        what = f"{found['owner']}.{found['lost']}" if found["owner"] else f"{found['module']}.{found['name']}"
        return f"the executors have another version of sparkdl, without {what}; {SAME_SPARKDL}"
    for module in _NO_MODULE.findall(text):
        root = module.partition(".")[0]
        if module == "sparkdl":
            return (
                "the executors have no sparkdl; send it with --py-files, or install sparkdl-tf in the environment that "
                "spark.pyspark.python (or PYSPARK_PYTHON) names"
            )
        if root == "sparkdl":
            return f"the executors have another sparkdl, without {module}; {SAME_SPARKDL}"
        if root in NEEDED_MODULES or root == "distutils":
            # PySpark 3.5 takes it from setuptools, from Python 3.12 on.
            package, who = ("setuptools", "Spark 3.5") if root == "distutils" else (root, "sparkdl")
            return (
                f"the executors have no {package}, which {who} needs there; install it in the environment that "
                "spark.pyspark.python (or PYSPARK_PYTHON) names"
            )
    return None
