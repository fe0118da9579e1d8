"""Compare the versions installed on the driver and on the executors, and say what to change where they differ.

Pure, except for `installed`, which reads the environment that it runs in: on the driver and in Spark workers. This
module imports none of the packages.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
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
# In the order of the message: a host that has another Python has other packages too.
PACKAGES = ("Python", "sparkdl", *DISTRIBUTIONS)
MAX_HOSTS = 3


def installed() -> dict[str, str]:
    """Return the versions here of Python (major and minor), sparkdl, TensorFlow, Keras and Horovod, if installed."""
    # Executors may have sparkdl from a zip, without a distribution.
    found = {"Python": f"{sys.version_info.major}.{sys.version_info.minor}", "sparkdl": __version__}
    for package, names in DISTRIBUTIONS.items():
        for name in names:
            with contextlib.suppress(metadata.PackageNotFoundError):
                # The text after a + says who built the package.
                found[package] = metadata.version(name).partition("+")[0]
                break
    return found


def mismatch(driver: Mapping[str, str], workers: Sequence[tuple[str, Mapping[str, str]]]) -> str | None:
    """Return one line that names a version that differs and what to change; None if driver and workers agree.

    The arguments hold what `installed` returns on the driver, and on each worker, with its host. A package that the
    driver lacks is compared among the workers alone.
    """
    for package in PACKAGES:
        hosts_of: dict[str | None, list[str]] = {}
        if package in driver:
            hosts_of[driver[package]] = ["the driver"]
        for host, versions in workers:
            hosts_of.setdefault(versions.get(package), []).append(host)
        if len(hosts_of) > 1:
            # The message leaves out the workers that agree with the driver.
            said = [_phrase(package, version, dict.fromkeys(hosts)) for version, hosts in hosts_of.items()]
            way_out = SAME_SPARKDL if package == "sparkdl" else SAME_ENVIRONMENT
            return f"{said[0]}, but {' and '.join(said[1:])}; {way_out}"
    return None


def _phrase(package: str, version: str | None, found: Mapping[str, None]) -> str:
    hosts = ["the driver"] if "the driver" in found else sorted(found)
    names = ", ".join(hosts[:MAX_HOSTS])
    if len(hosts) > MAX_HOSTS:
        names += f" and {len(hosts) - MAX_HOSTS} more"
    verb = "has" if len(hosts) == 1 else "have"
    return f"{names} {verb} no {package}" if version is None else f"{names} {verb} {package} {version}"
