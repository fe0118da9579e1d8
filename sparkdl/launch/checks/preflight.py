"""Refuse a run that cannot start, before anything runs.

Runs on the driver. The decisions are pure; `check_session` reads the session.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparkdl.errors import LaunchError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "arrival_limit",
    "check_session",
    "declared_slots",
    "encryption_refusal",
    "gpu_refusal",
    "is_one_process",
    "refusal",
    "unused_gpus",
    "whole_gpus",
]

log = logging.getLogger(__name__)

POLL_S = 0.2
# Executors of a session that is older than ARRIVAL_S have arrived; missing ones are waited for STEADY_S.
ARRIVAL_S = 30.0
STEADY_S = 3.0

# The settings that encrypt a session's own connections. `spark.ssl.enabled` alone does not: that setting is about web
# pages, and `spark.ssl.rpc.enabled` is the one setting that does not follow it.
ENCRYPTION = ("spark.network.crypto.enabled", "spark.authenticate.enableSaslEncryption", "spark.ssl.rpc.enabled")
TASK_GPUS = "spark.task.resource.gpu.amount"
EXECUTOR_GPUS = "spark.executor.resource.gpu.amount"


def is_one_process(master: str) -> bool:
    """Tell whether this master runs its tasks inside the driver (`local`, `local[4]`), unlike `local-cluster[...]`."""
    return master == "local" or master.startswith("local[")


def declared_slots(
    master: str,
    *,
    task_cpus: int = 1,
    cores: int | None = None,
    executor_cores: int = 0,
    executors: int = 0,
    task_gpus: float = 0,
    executor_gpus: float = 0,
) -> int | None:
    """Return the task slots that a session can ever have, or None where its settings do not determine them.

    `cores` are those of this machine, for `local[*]`; the others are Spark's settings, 0 if not set.
    """
    by_gpus = int(executor_gpus / task_gpus) if task_gpus else sys.maxsize
    machine = cores or os.cpu_count() or 1
    if master == "local":
        return 1 // task_cpus
    if match := re.fullmatch(r"local\[\s*(\*|\d+)\s*(?:,\s*\d+\s*)?\]", master):
        return (machine if match[1] == "*" else int(match[1])) // task_cpus
    if match := re.fullmatch(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*\d+\s*\]", master):
        return int(match[1]) * min(int(match[2]) // task_cpus, by_gpus)
    # Standalone masters divide cores by other rules and may start more executors than were requested.
    if master.startswith(("yarn", "k8s")) and executor_cores and executors:
        return executors * min(executor_cores // task_cpus, by_gpus)
    return None


def refusal(
    num_workers: int, master: str, *, slots: int | None, dynamic_allocation: bool, option: str = "num_workers"
) -> str | None:
    """Return the error message, of one line, if this run is known to be unable to start, else None."""
    if dynamic_allocation and not is_one_process(master):
        return (
            "ranks need their slots at once and dynamic allocation takes them away; "
            "set spark.dynamicAllocation.enabled=false and ask for enough executors"
        )
    if slots is not None and num_workers > slots:
        return too_few(num_workers, master, slots, option)
    return None


def too_few(num_workers: int, master: str, slots: int, option: str = "num_workers") -> str:
    """Return the error message that refuses more workers than slots; `option` is the setting that asks for them."""
    use = f"use {option} <= {slots} or more executor cores (or GPUs)" if slots else "lower spark.task.cpus"
    return f"{option}={num_workers} but {master} has {slots} slots in all; {use}"


def encryption_refusal(master: str, settings: Mapping[str, str]) -> str | None:
    """Return the error message, of one line, if a session with these settings encrypts its connections, else None.

    A master that runs its tasks inside the driver has no connections to encrypt.
    """
    found = next((name for name in ENCRYPTION if settings.get(name, "").strip().lower() == "true"), None)
    if found is None or is_one_process(master):
        return None
    return (
        f"{found}=true encrypts this session's connections, but ranks talk to each other (Gloo) and to the driver "
        "unencrypted; LaunchConfig(allow_unencrypted=True) lets them"
    )


def gpu_refusal(gpus_per_worker: int, master: str, settings: Mapping[str, str]) -> str | None:
    """Return the error message, of one line, if tasks of such a session cannot give each rank its GPUs, else None."""
    amount = settings.get(TASK_GPUS, "0")
    wanted = f"gpus_per_worker={gpus_per_worker}"
    if is_one_process(master):
        if float(amount):
            return f"{TASK_GPUS}={amount} lets no task of {master} start, for its tasks never own GPUs; unset it"
        if gpus_per_worker:
            return f"{wanted} but tasks of {master} own no GPUs; use local=True for ranks on this machine's GPUs"
        return None
    if not gpus_per_worker:
        return None
    if not float(amount):
        return f"{wanted} but {TASK_GPUS} is not set, so that tasks own no GPUs; set it to {gpus_per_worker}"
    if float(amount) != gpus_per_worker:
        shared = ": several tasks share a GPU, which ranks cannot" if float(amount) < 1 else ""
        return f"{wanted} but {TASK_GPUS}={amount}{shared}; set it to {gpus_per_worker}"
    if float(settings.get(EXECUTOR_GPUS, "0")) < gpus_per_worker:
        return f"{wanted} but executors register no GPUs; set {EXECUTOR_GPUS} to the GPUs of one executor"
    return None


def unused_gpus(gpus_per_worker: int, settings: Mapping[str, str]) -> str | None:
    """Return the warning, of one line, if tasks own GPUs that their ranks will not see, else None."""
    amount = settings.get(TASK_GPUS, "0")
    if gpus_per_worker or not float(amount):
        return None
    whole = whole_gpus(amount)
    use = f"set gpus_per_worker={whole}" if whole else "set both to 1 where each rank is to have one"
    return f"{TASK_GPUS}={amount} but gpus_per_worker=0: the ranks use no GPU; {use}"


def whole_gpus(amount: str) -> int:
    """Return a task's number of GPUs, given `spark.task.resource.gpu.amount`; 0 for none or a fraction of one."""
    number = float(amount)
    return int(number) if number == int(number) else 0


def check_session(
    spark: SparkSession,
    num_workers: int,
    start_timeout_s: float,
    *,
    min_workers: int | None = None,
    gpus_per_worker: int = 0,
    allow_unencrypted: bool = False,
) -> int:
    """Return the number of ranks that the session can run at once: `num_workers`, or fewer if `min_workers` allows it.

    Where executors are still arriving, the call waits for their slots: Spark's own check, done too early, costs 15
    seconds.

    Raises LaunchError if the session can run too few ranks, or not with these options.
    """
    least, option = (min_workers, "min_workers") if min_workers else (num_workers, "num_workers")
    context = spark.sparkContext
    master = str(context.master)
    settings = dict(context.getConf().getAll())
    slots = declared_slots(
        master,
        task_cpus=int(settings.get("spark.task.cpus", "1")),
        executor_cores=int(settings.get("spark.executor.cores", "0")),
        executors=int(settings.get("spark.executor.instances", "0")),
        task_gpus=float(settings.get(TASK_GPUS, "0")),
        executor_gpus=float(settings.get(EXECUTOR_GPUS, "0")),
    )
    dynamic = settings.get("spark.dynamicAllocation.enabled", "false").lower() == "true"
    message = (
        (None if allow_unencrypted else encryption_refusal(master, settings))
        or gpu_refusal(gpus_per_worker, master, settings)
        or refusal(least, master, slots=slots, dynamic_allocation=dynamic, option=option)
    )
    if message is not None:
        raise LaunchError(message)
    if warning := unused_gpus(gpus_per_worker, settings):
        log.warning("%s", warning)
    wanted = num_workers if slots is None else min(num_workers, slots)
    patience_s = arrival_limit(time.time() - context.startTime / 1000, start_timeout_s, expected=slots is not None)
    limit = time.monotonic() + patience_s
    while (registered := _registered_slots(spark)) < wanted and time.monotonic() < limit:
        time.sleep(POLL_S)
    if registered < least:
        waited = f" after start_timeout_s={start_timeout_s:g}" if patience_s == start_timeout_s else ""
        raise LaunchError(too_few(least, f"{master}{waited}", registered, option))
    if registered < num_workers:
        log.warning("num_workers=%d but %s has %d slots; the run goes on with them", num_workers, master, registered)
    return min(num_workers, registered)


def arrival_limit(age_s: float, start_timeout_s: float, *, expected: bool) -> float:
    """Return the seconds to wait for executors of a session of this age that are not there yet.

    Where they are `expected`, the session's settings promise enough slots, and missing executors are on their way.
    """
    return start_timeout_s if expected or age_s < ARRIVAL_S else min(STEADY_S, start_timeout_s)


def _registered_slots(spark: SparkSession) -> int:
    # The number that Spark itself checks before it submits a barrier stage.
    scala_context = spark.sparkContext._jsc.sc()
    profile = scala_context.resourceProfileManager().defaultResourceProfile()
    return int(scala_context.maxNumConcurrentTasks(profile))
