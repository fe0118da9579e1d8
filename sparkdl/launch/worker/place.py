"""Describe what a task gets from the driver, tells the other tasks and knows of its rank; connect it with the driver.

Runs in the Spark worker, inside the barrier job; the driver makes the plan.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import AuthenticationError

from sparkdl.errors import LaunchError
from sparkdl.launch.checks import versions
from sparkdl.launch.checks.gpus import shared_addresses
from sparkdl.launch.checks.hostname import refused_names
from sparkdl.launch.protocol.channel import SocketLink
from sparkdl.launch.protocol.mailbox.link import MailboxLink
from sparkdl.launch.protocol.messages import Hello
from sparkdl.launch.worker.environment import Settings
from sparkdl.launch.world import World

__all__ = ["LOOPBACK", "Link", "Place", "TaskInfo", "TaskPlan", "connect", "refusal", "resolve"]

LOOPBACK = "127.0.0.1"

Link = SocketLink | MailboxLink
"""Connect a task with the driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """Hold what the driver sends to every task."""

    control: tuple[str, int]
    """Address and port of the driver's control channel."""

    key: bytes
    """The secret of this run's control channel."""

    settings: Settings

    one_process: bool
    """True if all tasks run on the driver's machine, inside the driver's process."""

    driver_path: tuple[str, ...]
    """The driver's module search path, where the tasks run on the driver's machine."""

    gpus_per_worker: int
    """The number of GPUs that each rank sees, of those that its task owns."""

    gpus_of_hosts: bool
    """True if a GPU's address means the same to all tasks of a host; in containers each task counts separately."""

    versions: Mapping[str, str]
    """The versions of the packages on the driver, from `versions.installed`."""

    start_timeout_s: float
    """Seconds that a rank's process may take to start (`LaunchConfig.start_timeout_s`)."""

    log_folder: str | None
    """The folder of this run's log files, or None. Each call of a worker group has its own."""

    mailbox: str | None
    """The folder that replaces the control channel where the driver's port cannot be reached, or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInfo:
    """Hold what one task sends to all others, once."""

    host: str
    address: str
    port: int
    own_name: str
    """The result of `useless_address` there for the host's own name."""

    versions: Mapping[str, str]
    gpus: Sequence[str]


def resolve(host: str) -> str:
    """Return a host's IP address, or the name itself if it does not resolve."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host


def refusal(plan: TaskPlan, infos: Sequence[TaskInfo]) -> str | None:
    """Return the error message, of one line, if these tasks cannot run the ranks, else None. All tasks agree on it."""
    return (
        versions.mismatch(plan.versions, [(info.host, info.versions) for info in infos])
        or refused_names({info.host: info.own_name for info in infos})
        or (shared_addresses([(info.host, info.gpus) for info in infos]) if plan.gpus_of_hosts else None)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Hold what a task knows about its rank and about the others, once all tasks have met."""

    link: Link
    worlds: tuple[World, ...]
    rank: int
    rendezvous_host: str
    """The address at which rank 0 serves the rendezvous."""

    gpus: tuple[str, ...]

    @property
    def world(self) -> World:
        """The world of this task's rank."""
        return self.worlds[self.rank]


def connect(plan: TaskPlan, rank: int, host: str) -> Link:
    """Connect to the driver by its port, or else by the run's mailbox. Raises LaunchError if neither is possible."""
    try:
        return SocketLink.to(plan.control, plan.key, rank)
    except (OSError, EOFError, AuthenticationError, AssertionError) as error:
        if plan.mailbox is None:
            name, port = plan.control
            raise LaunchError(
                f"{host} cannot reach the driver at {name}:{port} ({error}); set spark.driver.host to an address that "
                "executors reach, open the driver's ports to them, or set log_dir to a folder that all hosts see"
            ) from error
        link = MailboxLink(plan.mailbox, rank=rank, key=plan.key)
        link.send(Hello(rank=rank, host=host, error=str(error)))
        return link
