"""Compare what is installed on the driver and on the executors, and say what to change where it differs.

Pure but for `installed`, which looks at the environment that it runs in: on the driver and in Spark workers. It imports
none of the packages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

from sparkdl.spark.worker_python import SAME_ENVIRONMENT, SAME_SPARKDL
from sparkdl.version import __version__

__all__ = ["installed", "mismatch"]

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
MAX_HOSTS = 3

def installed() -> dict[str, str]:
    """The versions here of Python (major and minor), sparkdl, TensorFlow, Keras and Horovod; those missing left out."""
    # The executors may have sparkdl from a zip, without a distribution.
    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}", "sparkdl": __version__}
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
            way_out = SAME_SPARKDL if package == "sparkdl" else SAME_ENVIRONMENT
            return f"{told[0]}, but {' and '.join(told[1:])}; {way_out}"
    return None


def _told(package: str, version: str | None, places: Mapping[str, None]) -> str:
    hosts = ["the driver"] if "the driver" in places else sorted(places)
    names = ", ".join(hosts[:MAX_HOSTS])
    if len(hosts) > MAX_HOSTS:
        names += f" and {len(hosts) - MAX_HOSTS} more"
    verb = "has" if len(hosts) == 1 else "have"
    return f"{names} {verb} no {package}" if version is None else f"{names} {verb} {package} {version}"
