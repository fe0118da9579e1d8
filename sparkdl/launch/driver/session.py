"""Find the active Spark session, the number of ranks that it can run, and the addresses of its driver.

Runs on the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkdl.errors import LaunchError
from sparkdl.launch.checks.preflight import check_session
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.worker.place import LOOPBACK

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["active_session", "addresses", "available_workers"]


def active_session() -> SparkSession:
    """Return the active session. Raises LaunchError without an active session, or if it has no SparkContext."""
    from pyspark.sql import SparkSession

    try:
        session = SparkSession.active()
    except RuntimeError:
        session = None
    if session is None:
        raise LaunchError("no SparkSession is active; start one, or run on this machine with local=True")
    if not hasattr(session, "_jsparkSession"):
        raise LaunchError("ranks cannot be started through Spark Connect; run the driver in the cluster or local=True")
    return session


def available_workers(launch: LaunchConfig) -> int:
    """Return the number of ranks to start. Raises LaunchError if the session cannot run them."""
    return check_session(
        active_session(),
        num_workers=launch.num_workers,
        start_timeout_s=launch.start_timeout_s,
        min_workers=launch.min_workers,
        gpus_per_worker=launch.gpus_per_worker,
        allow_unencrypted=launch.allow_unencrypted,
    )


def addresses(spark: SparkSession, one_process: bool) -> tuple[str, str]:
    """Return the address of the driver's control channel for the tasks, and the address that the driver listens on."""
    if one_process:
        return LOOPBACK, LOOPBACK
    conf = spark.sparkContext.getConf()
    address = conf.get("spark.driver.host", LOOPBACK)
    return address, conf.get("spark.driver.bindAddress", address)
