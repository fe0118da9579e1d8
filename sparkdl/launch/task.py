"""What a Spark task does for its rank: meet the other tasks, start the rank's process, return its pickled value.

Runs in the Spark worker, inside the barrier job. A failed rank is no failed task: outcomes are data.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkdl.errors import LaunchError
from sparkdl.launch.channel import Link
from sparkdl.launch.environment import Settings, interface_of, rank_environment, search_path
from sparkdl.launch.outcome import Outcome
from sparkdl.launch.process import RankProcess
from sparkdl.launch.rendezvous import Rendezvous
from sparkdl.launch.world import World, assign_worlds

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import BarrierTaskContext, Broadcast

__all__ = ["RESULT_SCHEMA", "TaskPlan", "run_rank"]

RESULT_SCHEMA = "rank int, piece int, content binary"
PIECE_BYTES = 16 << 20
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPlan:
    """What the driver tells every task."""

    control: tuple[str, int]
    """Address and port of the driver's control channel."""

    key: bytes
    """The secret of this run's control channel."""

    settings: Settings

    one_process: bool
    """Whether all tasks run on the driver's machine, inside its process."""

    driver_path: tuple[str, ...]
    """The driver's module search path, where it is the tasks' machine too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What one task tells all others, once."""

    host: str
    address: str
    port: int
    name_is_loopback: bool


def resolve(host: str) -> str:
    """A host's IP address, or the name as it is where nothing knows it."""
    try:
        return socket.gethostbyname(host)
    except OSError:
        return host


def unreachable_hosts(meetings: Iterable[Meeting]) -> str | None:
    """Why ranks on several hosts cannot reach each other, or None.

    Gloo looks up each host's own name, whatever interface it is told; with a loopback address it aborts natively.
    """
    told = list(meetings)
    hosts = sorted({meeting.host for meeting in told if meeting.name_is_loopback})
    if len({meeting.host for meeting in told}) == 1 or not hosts:
        return None
    return (
        f"the own name of {', '.join(hosts)} resolves to 127.x there, where other hosts cannot reach it; "
        "map it to the host's network address in /etc/hosts"
    )


def meet(context: BarrierTaskContext, mine: Meeting) -> list[Meeting]:
    """Tell all tasks about this one, and hear about all of them: in rank order. The only exchange between tasks."""
    note = {name: getattr(mine, name) for name in Meeting.__slots__}
    return [Meeting(**json.loads(text)) for text in context.allGather(json.dumps(note))]


def run_rank(plan: TaskPlan, task: Broadcast[bytes]) -> Iterator[pa.RecordBatch]:
    """Run this task's rank to its end; its pickled value, or its own pickled error, in pieces."""
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank = context.partitionId()
    host = context.getTaskInfos()[rank].address.rpartition(":")[0]
    address = LOOPBACK if plan.one_process else resolve(host)
    with ExitStack() as stack:
        link = Link.to(plan.control, plan.key)
        stack.callback(link.close)
        link.send({"type": "hello", "rank": rank})
        # A host whose own name is a loopback address still knows itself by the address that others use.
        served = "" if address.startswith("127.") and not plan.one_process else address
        rendezvous = stack.enter_context(Rendezvous(served)) if rank == 0 else None
        port = rendezvous.port if rendezvous else 0
        loopback = resolve(socket.gethostname()).startswith("127.")
        meetings = meet(context, Meeting(host=host, address=address, port=port, name_is_loopback=loopback))
        worlds = assign_worlds([meeting.host for meeting in meetings])
        problem = unreachable_hosts(meetings)
        if problem is not None:
            yield _refuse(link, worlds[rank], problem)
            return
        if rendezvous:
            rendezvous.open(worlds)
        env = _environment(plan, worlds, rank, (meetings[0].address, meetings[0].port))
        process = stack.enter_context(RankProcess(worlds[rank], task=task.value, env=env, report=link.send))
        _follow(link, process)
        yield from _pieces(rank, process)


def _environment(plan: TaskPlan, worlds: tuple[World, ...], rank: int, rendezvous: tuple[str, int]) -> dict[str, str]:
    import psutil

    one_host = worlds[rank].local_size == worlds[rank].size
    interfaces = {name: [entry.address for entry in entries] for name, entries in psutil.net_if_addrs().items()}
    return rank_environment(
        os.environ,
        worlds[rank],
        plan.settings,
        rendezvous=rendezvous,
        interface="lo" if one_host else interface_of(resolve(worlds[rank].host), interfaces),
        path=search_path(sys.path, plan.driver_path, folder=os.getcwd()),
    )


def _follow(link: Link, process: RankProcess) -> None:
    """Wait for the process, and then for the driver to know all outcomes; obey the driver, or its silence."""
    dismissed = threading.Event()

    def obey() -> None:
        while (message := link.receive()) is not None and message["type"] != "stop":
            if message["type"] == "finish":
                dismissed.set()
                return
        process.stop()
        dismissed.set()

    threading.Thread(target=obey, daemon=True).start()
    process.wait()
    # Rank 0 serves the rendezvous for all: no task leaves before the last rank has ended.
    dismissed.wait()


def _refuse(link: Link, place: World, message: str) -> pa.RecordBatch:
    outcome = Outcome(
        rank=place.rank, host=place.host, kind="exception", error_type=LaunchError.__name__, message=message
    )
    link.send({"type": "outcome", "outcome": outcome.as_data()})
    return _batch(place.rank, 0, pickle.dumps(LaunchError(message)))


def _pieces(rank: int, process: RankProcess) -> Iterator[pa.RecordBatch]:
    result, piece = process.result, 0
    while content := result.read(PIECE_BYTES):
        yield _batch(rank, piece, content)
        piece += 1


def _batch(rank: int, piece: int, content: bytes) -> pa.RecordBatch:
    import pyarrow as pa

    columns: list[Any] = [pa.array([rank], pa.int32()), pa.array([piece], pa.int32()), pa.array([content], pa.binary())]
    return pa.RecordBatch.from_arrays(columns, names=["rank", "piece", "content"])
