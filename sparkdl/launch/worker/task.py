"""Run a rank in a Spark task: meet the other tasks, start the rank's process, send its result to the driver.

Runs in the Spark worker, inside the barrier job. A failed rank does not fail its task: outcomes are data.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import AuthenticationError
from typing import TYPE_CHECKING

from sparkdl.errors import LaunchError
from sparkdl.launch.checks import versions
from sparkdl.launch.checks.gpus import shared_addresses
from sparkdl.launch.checks.hostname import refused_names, useless_address
from sparkdl.launch.protocol import messages
from sparkdl.launch.protocol.channel import SocketLink
from sparkdl.launch.protocol.mailbox.link import MailboxLink
from sparkdl.launch.protocol.messages import Hello, Message, Outcome, Value
from sparkdl.launch.worker.environment import Settings, interface_of, rank_environment, search_path
from sparkdl.launch.worker.process import RankProcess
from sparkdl.launch.worker.rank_log_file import RankLog
from sparkdl.launch.worker.rendezvous import Rendezvous
from sparkdl.launch.world import World, assign_worlds

if TYPE_CHECKING:
    from pyspark import Broadcast

__all__ = ["TaskPlan", "run_rank"]

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

    log_folder: str | None
    """The folder of this run's log files, or None."""

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


def run_rank(plan: TaskPlan, task: Broadcast[bytes]) -> None:
    """Run this task's rank to its end; send its pickled value, or its pickled error, to the driver.

    Raises LaunchError if the driver cannot be reached.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank = context.partitionId()
    host = context.getTaskInfos()[rank].address.rpartition(":")[0]
    address = LOOPBACK if plan.one_process else resolve(host)
    resource = context.resources().get("gpu") if plan.gpus_per_worker else None
    gpus = tuple(resource.addresses) if resource else ()
    with ExitStack() as stack:
        link = connect(plan, rank, host)
        stack.callback(link.close)
        # A host whose own name is a loopback address still knows itself by the address that others use.
        served = "" if address.startswith("127.") and not plan.one_process else address
        rendezvous = stack.enter_context(Rendezvous(served)) if rank == 0 else None
        mine = TaskInfo(
            host=host,
            address=address,
            port=rendezvous.port if rendezvous else 0,
            own_name=useless_address(socket.gethostname()),
            versions=versions.installed(),
            gpus=gpus,
        )
        # The only exchange between tasks; the answers are in rank order.
        infos = [TaskInfo(**json.loads(text)) for text in context.allGather(json.dumps(asdict(mine)))]
        worlds = assign_worlds([info.host for info in infos])
        if problem := refusal(plan, infos):
            _refuse(link, worlds[rank], problem)
            return
        try:
            if rendezvous:
                rendezvous.open(worlds)
            log = stack.enter_context(RankLog.of(plan.log_folder, worlds[rank])) if plan.log_folder else None
            env = _environment(plan, worlds, rank, (infos[0].address, infos[0].port), gpus)
            _run_process(link, worlds[rank], task.value, env, log)
        except Exception as error:  # no space, no more processes: reported as such, and not as a lost host
            what = f"rank {rank} cannot be run on {host}: {type(error).__name__}: {error}"
            _refuse(link, worlds[rank], what)


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


def _environment(
    plan: TaskPlan, worlds: tuple[World, ...], rank: int, rendezvous: tuple[str, int], gpus: Sequence[str]
) -> dict[str, str]:
    import psutil

    one_host = worlds[rank].local_size == worlds[rank].size
    interfaces = {name: [entry.address for entry in entries] for name, entries in psutil.net_if_addrs().items()}
    # Spark's discovery scripts count GPUs as nvidia-smi does; CUDA by default counts the fastest first.
    counting = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpus else {}
    return rank_environment(
        {**counting, **os.environ},
        worlds[rank],
        plan.settings,
        rendezvous=rendezvous,
        interface="lo" if one_host else interface_of(resolve(worlds[rank].host), interfaces),
        path=search_path(sys.path, plan.driver_path, folder=os.getcwd()),
        gpus=gpus,
    )


def _run_process(link: Link, world: World, task: bytes, env: Mapping[str, str], log: RankLog | None) -> None:
    def report(message: Message) -> None:
        if isinstance(message, Outcome):
            result = process.result
            while content := result.read(messages.MAX_BODY_BYTES):
                link.send(Value(content=content))
        link.send(message)

    process = RankProcess(world, task=task, env=env, report=report, log=log)
    with process:  # a thread may report before the context is entered
        _follow(link, process)


def _follow(link: Link, process: RankProcess) -> None:
    """Wait for the process, then until the driver knows all outcomes; handle its commands, and stop if it is silent."""
    dismissed = threading.Event()

    def handle_commands() -> None:
        while (message := link.receive()) is not None and not isinstance(message, messages.Stop):
            match message:
                case messages.Stacks():
                    process.report_stacks()
                case messages.WindDown():
                    process.wind_down()
                case messages.Finish():
                    dismissed.set()
                    return
        process.stop()
        dismissed.set()

    threading.Thread(target=handle_commands, daemon=True).start()
    process.wait()
    # Rank 0 serves the rendezvous for all: no task leaves before the last rank has ended.
    dismissed.wait()


def _refuse(link: Link, world: World, message: str) -> None:
    outcome = Outcome(
        rank=world.rank, host=world.host, kind="exception", error_type=LaunchError.__name__, message=message
    )
    link.send(Value(content=pickle.dumps(LaunchError(message))))
    link.send(outcome)
