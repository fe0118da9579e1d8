"""Choose the GPUs that a rank may see.

Pure, except for reading the names in /dev; called by the process that starts a rank (Spark worker or driver), and on
the driver before local ranks start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["addresses_for", "gpu_environment", "shared_addresses", "too_few", "visible_gpus"]

_DEVICE = re.compile(r"nvidia\d+")
# The entries that CUDA takes in CUDA_VISIBLE_DEVICES: numbers, and the names of GPUs and of their slices.
_ADDRESS = re.compile(r"\d+|(GPU|MIG)-[\w./-]+")


def visible_gpus(environment: Mapping[str, str], devices: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return the addresses of the GPUs that a process with this environment can see; `devices`: the names in /dev.

    CUDA_VISIBLE_DEVICES counts as for CUDA: up to the first invalid entry.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        entries = [entry.strip() for entry in listed.split(",")]
        valid = [_ADDRESS.fullmatch(entry) is not None for entry in entries]
        return tuple(entries if all(valid) else entries[: valid.index(False)])
    files = [name for name in (os.listdir("/dev") if devices is None else devices) if _DEVICE.fullmatch(name)]
    # CUDA counts the GPUs that it finds; a container may hold nvidia3 alone, and that is its GPU 0.
    return tuple(str(number) for number in range(len(files)))


def addresses_for(local_rank: int, gpus_per_worker: int, visible: Sequence[str]) -> tuple[str, ...]:
    """Return a local rank's share of this machine's GPUs; `visible` must hold enough for all (see `too_few`)."""
    return tuple(visible[local_rank * gpus_per_worker : (local_rank + 1) * gpus_per_worker])


def too_few(num_workers: int, gpus_per_worker: int, visible: Sequence[str]) -> str:
    """Return the error message that refuses local ranks on a machine with fewer GPUs than they need."""
    fitting = len(visible) // gpus_per_worker
    use = f"use num_workers <= {fitting}" if fitting else "use gpus_per_worker=0, which trains on CPUs"
    return (
        f"num_workers={num_workers} with gpus_per_worker={gpus_per_worker} need {num_workers * gpus_per_worker} GPUs "
        f"but this machine shows {len(visible)}; {use}, or show more in CUDA_VISIBLE_DEVICES"
    )


def gpu_environment(addresses: Sequence[str]) -> dict[str, str]:
    """Return the variable that shows a process these GPUs and no others."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(addresses)}


def shared_addresses(claims: Sequence[tuple[str, Sequence[str]]]) -> str | None:
    """Return the error message, of one line, if two ranks would share a GPU, else None.

    `claims` holds each rank's host and the addresses of its GPUs, in rank order.
    """
    owners: dict[tuple[str, str], int] = {}
    for rank, (host, addresses) in enumerate(claims):
        for address in addresses:
            owner = owners.setdefault((host, address), rank)
            if owner != rank:
                return (
                    f"ranks {owner} and {rank} on {host} both got GPU {address}: the workers of that host report the "
                    "same GPUs; the discovery script of each (spark.worker.resource.gpu.discoveryScript) must report "
                    "its own"
                )
    return None
