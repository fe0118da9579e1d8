"""Who a rank is among all ranks: its number, the world size, its place on its host.

Pure; used on the driver, in Spark workers and in rank processes. The launcher sets the environment variables that
`world()` and Horovod read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["World", "assign_worlds", "world", "world_environment", "world_from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One rank's place among all ranks."""

    rank: int
    """This process among all, from 0."""

    size: int
    """How many ranks there are."""

    local_rank: int = 0
    """This process among the ranks of its host, from 0."""

    local_size: int = 1
    """How many ranks its host has."""

    cross_rank: int = 0
    """This host among the hosts that have a rank with the same local rank."""

    cross_size: int = 1
    """How many hosts have a rank with the same local rank."""

    host: str = "localhost"
    """The host that it runs on."""

    def describe(self) -> str:
        """The name that stands in log lines and errors: `rank 2/8 host-a`."""
        return f"rank {self.rank}/{self.size} {self.host}"


def assign_worlds(hosts: Sequence[str]) -> tuple[World, ...]:
    """The world of every rank, given each rank's host in rank order.

    Local ranks count the ranks of one host in rank order; cross ranks count the hosts, in order of their first rank,
    among those that have this local rank: as Horovod defines them. Hosts need not be in runs.
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


def world_environment(place: World) -> dict[str, str]:
    """The environment variables that tell Horovod, and `world()`, who a rank is."""
    return {
        "HOROVOD_RANK": str(place.rank),
        "HOROVOD_SIZE": str(place.size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank),
        "HOROVOD_LOCAL_SIZE": str(place.local_size),
        "HOROVOD_CROSS_RANK": str(place.cross_rank),
        "HOROVOD_CROSS_SIZE": str(place.cross_size),
        "HOROVOD_HOSTNAME": place.host,
    }


def world_from(environment: Mapping[str, str]) -> World:
    """The world that these environment variables describe; a world of one where they describe none."""
    if "HOROVOD_RANK" not in environment:
        return World(rank=0, size=1)

    def number(name: str, default: int) -> int:
        return int(environment.get(f"HOROVOD_{name}", default))

    return World(
        rank=number("RANK", 0),
        size=number("SIZE", 1),
        local_rank=number("LOCAL_RANK", 0),
        local_size=number("LOCAL_SIZE", 1),
        cross_rank=number("CROSS_RANK", 0),
        cross_size=number("CROSS_SIZE", 1),
        host=environment.get("HOROVOD_HOSTNAME", "localhost"),
    )


def world() -> World:
    """Who this process is: its rank and the world size inside a rank, rank 0 of 1 anywhere else."""
    return world_from(os.environ)
