"""Describe a rank among all ranks: its number, the world size, its number on its host.

Pure; used on the driver, in Spark workers and in rank processes. The launcher sets the environment variables that
`world()` and Horovod read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

__all__ = ["World", "assign_worlds", "world", "world_environment", "world_from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Hold the numbers that Horovod gives one rank, and its host."""

    rank: int
    """The number of this process among all ranks, from 0."""

    size: int
    """The number of ranks."""

    local_rank: int = 0
    """The number of this process among the ranks of its host, from 0."""

    local_size: int = 1
    """The number of ranks of its host."""

    cross_rank: int = 0
    """The number of this host among the hosts that have a rank with the same local rank, from 0."""

    cross_size: int = 1
    """The number of hosts that have a rank with the same local rank."""

    host: str = "localhost"
    """The host that the rank runs on."""

    def describe(self) -> str:
        """Return the name that log lines and errors use: `rank 2/8 host-a`."""
        return f"rank {self.rank}/{self.size} {self.host}"


def assign_worlds(hosts: Sequence[str]) -> tuple[World, ...]:
    """Return the world of every rank, given each rank's host in rank order.

    As Horovod defines them, local ranks count the ranks of one host in rank order; cross ranks count the hosts that
    have this local rank, in order of their first rank. The ranks of a host need not be neighbours.
    """
    order = list(dict.fromkeys(hosts))
    counts = {host: hosts.count(host) for host in order}
    worlds = []
    for rank, host in enumerate(hosts):
        local_rank = hosts[:rank].count(host)
        peers = [other for other in order if counts[other] > local_rank]
        worlds.append(
            World(
                rank=rank,
                size=len(hosts),
                local_rank=local_rank,
                local_size=counts[host],
                cross_rank=peers.index(host),
                cross_size=len(peers),
                host=host,
            )
        )
    return tuple(worlds)


def world_environment(world: World) -> dict[str, str]:
    """Return the environment variables from which Horovod and `world()` read a rank's world."""
    numbers = asdict(world)
    host = numbers.pop("host")
    return {**{f"HOROVOD_{name.upper()}": str(number) for name, number in numbers.items()}, "HOROVOD_HOSTNAME": host}


def world_from(environment: Mapping[str, str]) -> World:
    """Return the world that these environment variables describe; a world of one rank where they describe none."""
    alone = World(rank=0, size=1)
    if "HOROVOD_RANK" not in environment:
        return alone
    numbers = asdict(alone)
    host = environment.get("HOROVOD_HOSTNAME", numbers.pop("host"))
    given = {name: int(environment.get(f"HOROVOD_{name.upper()}", number)) for name, number in numbers.items()}
    return World(**given, host=host)


def world() -> World:
    """Return the world of this process: its rank and the world size inside a rank, rank 0 of 1 anywhere else."""
    return world_from(os.environ)
