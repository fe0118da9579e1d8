"""Run a rank in a Spark task: meet the other tasks, start the rank's process, send its result to the driver.

Runs in the Spark worker, inside the barrier job. A failed rank does not fail its task: outcomes are data. A task of a
worker group runs one rank process after the other, forked from one that has loaded the libraries.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from sparkdl.errors import LaunchError
from sparkdl.launch.checks import versions
from sparkdl.launch.checks.hostname import useless_address
from sparkdl.launch.protocol import messages
from sparkdl.launch.protocol.messages import Call, Message, Outcome, Ready, Value
from sparkdl.launch.worker.environment import interface_of, rank_environment, search_path
from sparkdl.launch.worker.fork_server.client import ForkServer
from sparkdl.launch.worker.place import LOOPBACK, Link, Place, TaskInfo, TaskPlan, connect, refusal, resolve
from sparkdl.launch.worker.process import RankProcess
from sparkdl.launch.worker.rank_log_file import RankLog
from sparkdl.launch.worker.rendezvous import Rendezvous
from sparkdl.launch.worker.start_reaper import StartReaper, start_reaper
from sparkdl.launch.world import World, assign_worlds

if TYPE_CHECKING:
    from pyspark import Broadcast

__all__ = ["run_rank"]


def run_rank(plan: TaskPlan, task: Broadcast[bytes] | None) -> None:
    """Run this task's rank to its end; send its pickled value, or its pickled error, to the driver.

    Without a task, run the ranks that the driver calls for (`Call`), until it calls for no more.

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
        rendezvous = stack.enter_context(Rendezvous(served)) if rank == 0 and task is not None else None
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
        place = Place(link=link, worlds=worlds, rank=rank, rendezvous_host=infos[0].address, gpus=gpus)
        try:
            if task is None:
                _serve_calls(plan, place, served)
                return
            if rendezvous:
                rendezvous.open(worlds)
            env = _environment(plan, place, infos[0].port)
            _run_process(place, task.value, env, plan.log_folder)
        except Exception as error:  # no space, no more processes: reported as such, and not as a lost host
            what = f"rank {rank} cannot be run on {host}: {type(error).__name__}: {error}"
            _refuse(link, worlds[rank], what)


def _serve_calls(plan: TaskPlan, place: Place, served: str) -> None:
    """Run a rank for each call, until the driver calls for no more or a rank of the group has failed."""
    with ForkServer(limit_s=plan.start_timeout_s) as forks:
        forks.prepare(_environment(plan, place, 0))
        finished = True
        while finished:
            # Each call has its own rendezvous, where no address of an earlier call can be found.
            with Rendezvous(served) if place.rank == 0 else nullcontext() as rendezvous:
                place.link.send(Ready(rendezvous=rendezvous.port if rendezvous else 0))
                call = _next_call(place.link)
                if call is None:
                    return
                if rendezvous:
                    rendezvous.open(place.worlds)
                order, task = call
                env = _environment(plan, place, order.rendezvous)
                start: StartReaper = partial(forks.fork, modules=order.modules)
                finished = _run_process(place, task, env, order.log_folder or None, start)


def _next_call(link: Link) -> tuple[Call, bytes] | None:
    """Wait for the driver's next call and its pickled function; None if the driver calls for no more, or is gone."""
    call: Call | None = None
    task = bytearray()
    while call is None or len(task) < call.size:
        match link.receive():
            case Call() as call:
                pass
            case Value(content=content):
                task += content
            case None | messages.Stop() | messages.Finish():
                return None
    return call, bytes(task)


def _environment(plan: TaskPlan, place: Place, rendezvous_port: int) -> dict[str, str]:
    import psutil

    world = place.world
    interfaces = {name: [entry.address for entry in entries] for name, entries in psutil.net_if_addrs().items()}
    # Spark's discovery scripts count GPUs as nvidia-smi does; CUDA by default counts the fastest first.
    counting = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if place.gpus else {}
    return rank_environment(
        {**counting, **os.environ},
        world,
        plan.settings,
        rendezvous=(place.rendezvous_host, rendezvous_port),
        interface="lo" if world.local_size == world.size else interface_of(resolve(world.host), interfaces),
        path=search_path(sys.path, plan.driver_path, folder=os.getcwd()),
        gpus=place.gpus,
    )


def _run_process(
    place: Place, task: bytes, env: Mapping[str, str], log_folder: str | None, start: StartReaper = start_reaper
) -> bool:
    """Run a rank's process to its end; return True once the driver knows all outcomes, False if it stops the rank."""

    def report(message: Message) -> None:
        if isinstance(message, Outcome):
            result = process.result
            while content := result.read(messages.MAX_BODY_BYTES):
                place.link.send(Value(content=content))
        place.link.send(message)

    with ExitStack() as stack:
        log = stack.enter_context(RankLog.of(log_folder, place.world)) if log_folder else None
        process = RankProcess(place.world, task=task, env=env, report=report, log=log, start=start)
        stack.enter_context(process)  # a thread may report before the context is entered
        return _follow(place.link, process)


def _follow(link: Link, process: RankProcess) -> bool:
    """Wait for the process, then until the driver knows all outcomes; handle its commands, and stop if it is silent.

    Returns True if the driver knows all outcomes.
    """
    dismissed: Future[bool] = Future()

    def handle_commands() -> None:
        while (message := link.receive()) is not None and not isinstance(message, messages.Stop):
            match message:
                case messages.Stacks():
                    process.report_stacks()
                case messages.WindDown():
                    process.wind_down()
                case messages.Finish():
                    dismissed.set_result(True)
                    return
        process.stop()
        dismissed.set_result(False)

    threading.Thread(target=handle_commands, daemon=True).start()
    process.wait()
    # Rank 0 serves the rendezvous for all: no task leaves before the last rank has ended.
    return dismissed.result()


def _refuse(link: Link, world: World, message: str) -> None:
    outcome = Outcome(
        rank=world.rank, host=world.host, kind="exception", error_type=LaunchError.__name__, message=message
    )
    link.send(Value(content=pickle.dumps(LaunchError(message))))
    link.send(outcome)
