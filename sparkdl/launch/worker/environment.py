"""The environment variables of a rank process.

Pure, called by the process that starts a rank (Spark worker or driver). It never changes that process's own variables.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparkdl.launch.checks.gpus import gpu_environment
from sparkdl.launch.config import LaunchConfig
from sparkdl.launch.world import World, world_environment

__all__ = ["Settings", "gloo_timeout_s", "interface_of", "rank_environment", "search_path"]

GLOO_LATER_S = 4
# Keys to the Spark driver's and the Python worker's own sockets: none of a rank's business.
PRIVATE_PREFIXES = ("PYTHON_WORKER_FACTORY_", "PYSPARK_GATEWAY_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all ranks' environments have in common."""

    env: tuple[tuple[str, str], ...]
    """The user's variables (`LaunchConfig.env`), which override all others."""

    stall_timeout_s: float
    """Seconds that a rank may go without progress (`LaunchConfig.stall_timeout_s`)."""

    cores: int
    """Cores of one rank: the number of its compute threads."""

    @classmethod
    def of(cls, launch: LaunchConfig, *, cores: int) -> Settings:
        """Take them from a launch, for ranks of so many cores each."""
        return cls(env=tuple(launch.env.items()), stall_timeout_s=launch.stall_timeout_s, cores=cores)


def rank_environment(
    base: Mapping[str, str],
    place: World,
    settings: Settings,
    *,
    rendezvous: tuple[str, int],
    interface: str | None,
    path: Sequence[str],
    gpus: Sequence[str] = (),
) -> dict[str, str]:
    """The environment of one rank process.

    Args:
        base: the variables of the process that starts it.
        place: the rank's world.
        settings: what all ranks share.
        rendezvous: address and port of Horovod's rendezvous.
        interface: the network interface for Gloo; None lets Gloo choose.
        path: where the rank finds modules, first to last.
        gpus: the addresses of the rank's own GPUs; it sees no others.
    """
    env = {name: value for name, value in base.items() if not name.startswith(PRIVATE_PREFIXES)}
    # A variable of an outer Horovod run would be obeyed before ours.
    env = {name: value for name, value in env.items() if not name.startswith("HOROVOD_GLOO_")}
    env.update(world_environment(place))
    env.update(
        HOROVOD_GLOO_RENDEZVOUS_ADDR=rendezvous[0],
        HOROVOD_GLOO_RENDEZVOUS_PORT=str(rendezvous[1]),
        HOROVOD_CONTROLLER="gloo",
        HOROVOD_CPU_OPERATIONS="gloo",
        HOROVOD_GLOO_TIMEOUT_SECONDS=str(gloo_timeout_s(settings.stall_timeout_s)),
        TF_CPP_MIN_LOG_LEVEL="3",
        PYTHONUNBUFFERED="1",
        # Spark sets OMP_NUM_THREADS=1 for its Python workers.
        OMP_NUM_THREADS=str(settings.cores),
        TF_NUM_INTRAOP_THREADS=str(settings.cores),
        # One thread goes through a chain of operations to its end before it starts a sum over ranks beside it.
        TF_NUM_INTEROP_THREADS=str(max(2, settings.cores)),
        PYTHONPATH=os.pathsep.join(path),
    )
    env.update(gpu_environment(gpus))
    if interface is not None:
        env["HOROVOD_GLOO_IFACE"] = interface
    env.update(settings.env)
    return env


def gloo_timeout_s(stall_timeout_s: float) -> int:
    """Whole seconds that Gloo waits for a peer: longer than the launcher does, which can tell where each rank stands.

    Gloo keeps it in milliseconds as a signed 32-bit number.
    """
    return int(min(stall_timeout_s + GLOO_LATER_S, (2**31 - 1) // 1000))


def search_path(*paths: Sequence[str], folder: str) -> tuple[str, ...]:
    """Several `sys.path`s as one: absolute (relative to `folder`), in order, each entry once."""
    entries = [os.path.abspath(os.path.join(folder, entry)) for path in paths for entry in path]
    return tuple(dict.fromkeys(entry for entry in entries if os.pathsep not in entry))


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """The name of the interface that holds an IP address, or None. `interfaces` maps names to addresses."""
    return next((name for name, addresses in interfaces.items() if address in addresses), None)
