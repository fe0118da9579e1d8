"""Compare what is installed on the driver and on the executors, and say what to change where it differs.

Pure but for `installed`, which looks at the environment that it runs in: on the driver and in Spark workers. It imports
none of the packages.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

__all__ = ["explain_worker_error", "installed", "mismatch"]

# The distributions that may hold the package; the first one that is there counts.
DISTRIBUTIONS = {
    "TensorFlow": (
        "tensorflow",
        "tensorflow-cpu",
        "tensorflow-gpu",
        "tensorflow-intel",
        "tensorflow-rocm",
        "tensorflow-cpu-aws",
        "intel-tensorflow",
        "tf-nightly",
    ),
    "Keras": ("keras", "keras-nightly"),
    "Horovod": ("horovod",),
}
# In the order in which they are named: who has another Python has other packages too.
PACKAGES = ("Python", "sparkdl", *DISTRIBUTIONS)
# What a Spark worker imports to start its rank, beside sparkdl itself.
NEEDED_MODULES = ("cloudpickle", "fsspec", "numpy", "pandas", "psutil", "pyarrow", "tqdm")
MAX_HOSTS = 3

_SAME_ENVIRONMENT = (
    "spark.pyspark.python (or PYSPARK_PYTHON) must name the same environment on the driver and on all executors"
)
_SAME_SPARKDL = "send the driver's with --py-files, or install the same version in the executors' environment"

_PYTHONS = re.compile(
    r"Python in worker has different version:? (\(\d+, *\d+\)|[\d.]*\d) than that in driver:? (\d+\.\d+)"
)
_NO_PROGRAM = re.compile(r'Cannot run program "([^"]+)".*No such file')
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_NO_NAME = re.compile(
    r"AttributeError: Can't get attribute '(?P<lost>[\w.]+)' on <module '(?P<place>sparkdl(?:\.\w+)*)'"
    r"|ImportError: cannot import name '(?P<name>\w+)' from '(?P<module>sparkdl(?:\.\w+)*)'"
)


def installed() -> dict[str, str]:
    """The versions here of Python (major and minor), sparkdl, TensorFlow, Keras and Horovod; those missing left out."""
    import sparkdl  # the executors may have it from a zip, without a distribution

    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}", "sparkdl": sparkdl.__version__}
    for package, names in DISTRIBUTIONS.items():
        version = _first_version(names)
        if version is not None:
            found[package] = version
    return found


def _first_version(names: Iterable[str]) -> str | None:
    for name in names:
        try:
            # What comes after a + says who built it.
            return metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return None


def mismatch(driver: Mapping[str, str], workers: Sequence[tuple[str, Mapping[str, str]]]) -> str | None:
    """What differs between the driver and the workers, and what to change, in one line; None if nothing does.

    Args:
        driver: what `installed` says on the driver. A package that it lacks is compared among the workers alone.
        workers: each worker's host, and what `installed` says there.
    """
    for package in PACKAGES:
        places: dict[str | None, list[str]] = {}
        if package in driver:
            places[driver[package]] = ["the driver"]
        for host, versions in workers:
            places.setdefault(versions.get(package), []).append(host)
        if len(places) > 1:
            # The driver stands for the workers that agree with it.
            told = [_told(package, version, dict.fromkeys(hosts)) for version, hosts in places.items()]
            way_out = _SAME_SPARKDL if package == "sparkdl" else _SAME_ENVIRONMENT
            return f"{told[0]}, but {' and '.join(told[1:])}; {way_out}"
    return None


def _told(package: str, version: str | None, places: Mapping[str, None]) -> str:
    hosts = ["the driver"] if "the driver" in places else sorted(places)
    names = ", ".join(hosts[:MAX_HOSTS])
    if len(hosts) > MAX_HOSTS:
        names += f" and {len(hosts) - MAX_HOSTS} more"
    verb = "has" if len(hosts) == 1 else "have"
    return f"{names} {verb} no {package}" if version is None else f"{names} {verb} {package} {version}"


def explain_worker_error(text: str) -> str | None:
    """What Spark's error of a failed Python worker means, and what to change, in one line; None if it is another error.

    It knows the errors that end a worker before it can say which versions it has.
    """
    if found := _PYTHONS.search(text):
        # Spark 3.5 shows the worker's version as a tuple.
        worker = ".".join(re.findall(r"\d+", found[1]))
        return f"the executors have Python {worker}, the driver has Python {found[2]}; {_SAME_ENVIRONMENT}"
    if found := _NO_PROGRAM.search(text):
        return f"the executors have no program {found[1]}; spark.pyspark.python (or PYSPARK_PYTHON) must name theirs"
    if found := _NO_NAME.search(text):
        what = f"{found['place']}.{found['lost']}" if found["place"] else f"{found['module']}.{found['name']}"
        return f"the executors have another version of sparkdl, without {what}; {_SAME_SPARKDL}"
    for module in _NO_MODULE.findall(text):
        root = module.partition(".")[0]
        if module == "sparkdl":
            return (
                "the executors have no sparkdl; send it with --py-files, or install sparkdl-tf in the environment that "
                "spark.pyspark.python (or PYSPARK_PYTHON) names"
            )
        if root == "sparkdl":
            return f"the executors have another sparkdl, without {module}; {_SAME_SPARKDL}"
        if root in NEEDED_MODULES:
            return (
                f"the executors have no {root}, which sparkdl needs there; install it in the environment that "
                "spark.pyspark.python (or PYSPARK_PYTHON) names"
            )
    return None
