"""Make the environment variables of a rank process.

Pure, called by the process that starts a rank (Spark worker or driver). The variables of that process itself never
change.
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
# Keys to the sockets of the Spark driver and of the Python worker, which a rank must not have, and the variables of an
# outer Horovod run, which Horovod would obey before those of its ranks.
DROPPED_PREFIXES = ("PYTHON_WORKER_FACTORY_", "PYSPARK_GATEWAY_", "HOROVOD_GLOO_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hold what all ranks' environments have in common."""

    env: tuple[tuple[str, str], ...]
    """The user's variables (`LaunchConfig.env`), which override all others."""

    stall_timeout_s: float
    """Seconds that a rank may go without progress (`LaunchConfig.stall_timeout_s`)."""

    cores: int
    """Cores of one rank: the number of its compute threads."""

    @classmethod
    def of(cls, launch: LaunchConfig, *, cores: int) -> Settings:
        """Make the settings of a launch, for ranks of `cores` cores each."""
        return cls(env=tuple(launch.env.items()), stall_timeout_s=launch.stall_timeout_s, cores=cores)


def rank_environment(
    base: Mapping[str, str],
    world: World,
    settings: Settings,
    *,
    rendezvous: tuple[str, int],
    interface: str | None,
    path: Sequence[str],
    gpus: Sequence[str] = (),
) -> dict[str, str]:
    """Return the environment of one rank process.

    Args:
        base: the variables of the process that starts the rank.
        rendezvous: address and port of Horovod's rendezvous.
        interface: the network interface for Gloo; None lets Gloo choose.
        path: where the rank finds modules, first to last.
        gpus: the addresses of the rank's GPUs; the rank sees no others.
    """
    env = {name: value for name, value in base.items() if not name.startswith(DROPPED_PREFIXES)}
    env.update(world_environment(world))
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
        # A single thread would finish a chain of operations before it starts a sum over ranks beside the chain.
        TF_NUM_INTEROP_THREADS=str(max(2, settings.cores)),
        PYTHONPATH=os.pathsep.join(path),
    )
    env.update(gpu_environment(gpus))
    if interface is not None:
        env["HOROVOD_GLOO_IFACE"] = interface
    env.update(settings.env)
    return env


def gloo_timeout_s(stall_timeout_s: float) -> int:
    """Return the whole seconds that Gloo waits for a peer: longer than the launcher, which knows where each rank is.

    Gloo keeps the timeout in milliseconds as a signed 32-bit number.
    """
    return int(min(stall_timeout_s + GLOO_LATER_S, (2**31 - 1) // 1000))


def search_path(*paths: Sequence[str], folder: str) -> tuple[str, ...]:
    """Join several `sys.path`s: entries made absolute (relative to `folder`), in order, each once."""
    entries = [os.path.abspath(os.path.join(folder, entry)) for path in paths for entry in path]
    return tuple(dict.fromkeys(entry for entry in entries if os.pathsep not in entry))


def interface_of(address: str, interfaces: Mapping[str, Sequence[str]]) -> str | None:
    """Return the name of the interface that holds an IP address, or None. `interfaces` maps names to addresses."""
    return next((name for name, addresses in interfaces.items() if address in addresses), None)
