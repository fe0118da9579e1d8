"""Refuse a run that cannot start, before anything runs.

Runs on the driver. The decisions are pure; `check_session` asks the session.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from sparkdl.errors import LaunchError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["check_session", "declared_slots", "is_one_process", "refusal"]

POLL_S = 0.2


def is_one_process(master: str) -> bool:
    """Whether this master runs its tasks inside the driver (`local`, `local[4]`), unlike `local-cluster[...]`."""
    return master == "local" or master.startswith("local[")


def declared_slots(
    master: str, *, task_cpus: int = 1, cores: int | None = None, executor_cores: int = 0, executors: int = 0
) -> int | None:
    """The task slots that a session can ever have, or None where its settings do not tell.

    Args:
        master: Spark's master URL.
        task_cpus: `spark.task.cpus`.
        cores: cores of this machine, for `local[*]`.
        executor_cores: `spark.executor.cores`, 0 if not set.
        executors: `spark.executor.instances`, 0 if not set.
    """
    machine = cores or os.cpu_count() or 1
    if master == "local":
        return 1 // task_cpus
    if match := re.fullmatch(r"local\[\s*(\*|\d+)\s*(?:,\s*\d+\s*)?\]", master):
        return (machine if match[1] == "*" else int(match[1])) // task_cpus
    if match := re.fullmatch(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*\]", master):
        return int(match[1]) * (int(match[2]) // task_cpus)
    # Standalone masters divide cores by other rules and may start more executors than were asked for.
    if master.startswith(("yarn", "k8s")) and executor_cores and executors:
        return executors * (executor_cores // task_cpus)
    return None


def refusal(num_workers: int, master: str, *, slots: int | None, dynamic_allocation: bool) -> str | None:
    """Why this run cannot start, in one line; None if nothing is known against it."""
    if dynamic_allocation and not is_one_process(master):
        return (
            "ranks need their slots at once and dynamic allocation takes them away; "
            "set spark.dynamicAllocation.enabled=false and ask for enough executors"
        )
    if slots is not None and num_workers > slots:
        return too_few(num_workers, master, slots)
    return None


def too_few(num_workers: int, master: str, slots: int) -> str:
    """The line that refuses more workers than slots."""
    use = f"use num_workers <= {slots} or more executor cores" if slots else "lower spark.task.cpus"
    return f"num_workers={num_workers} but {master} has {slots} slots in all; {use}"


def check_session(spark: SparkSession, num_workers: int, start_timeout_s: float) -> None:
    """Raise LaunchError if the session cannot run so many ranks at once.

    Where executors are still arriving it waits for their slots: Spark's own check, done too early, costs 15 seconds.
    """
    context = spark.sparkContext
    master = str(context.master)
    conf = context.getConf()
    slots = declared_slots(
        master,
        task_cpus=int(conf.get("spark.task.cpus", "1")),
        executor_cores=int(conf.get("spark.executor.cores", "0")),
        executors=int(conf.get("spark.executor.instances", "0")),
    )
    dynamic = conf.get("spark.dynamicAllocation.enabled", "false").lower() == "true"
    message = refusal(num_workers, master, slots=slots, dynamic_allocation=dynamic)
    if message is not None:
        raise LaunchError(message)
    limit = time.monotonic() + start_timeout_s
    while (registered := _registered_slots(spark)) < num_workers:
        if time.monotonic() >= limit:
            waited = f" after start_timeout_s={start_timeout_s:g}"
            raise LaunchError(too_few(num_workers, f"{master}{waited}", registered))
        time.sleep(POLL_S)


def _registered_slots(spark: SparkSession) -> int:
    # What Spark itself asks before it submits a barrier stage.
    scala_context = spark.sparkContext._jsc.sc()
    profile = scala_context.resourceProfileManager().defaultResourceProfile()
    return int(scala_context.maxNumConcurrentTasks(profile))
