"""The table: every fault, where it can happen, where the other rank is, and what the error must say.

Pure values. A case travels as JSON.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launch_faults import strikes

LOCAL, ONE_PROCESS, CLUSTER = LAUNCHERS = ("local", "local[2]", "local-cluster[2,1,1024]")
SPARK = (ONE_PROCESS, CLUSTER)
# Where the other rank is while the fault strikes.
PEERS = ("python", "allreduce", "init")

STALL_TIMEOUT_S = 6
DETECTION_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail.

    Attributes:
        strike: called in the rank that fails; None where the fault comes from elsewhere.
        by: "rank", "driver" (a thread of it), or "outside" (whoever started the driver).
        ends: "rank" (an error that blames it), "stall" (one that blames it after the stall timeout), "loss" (its worker
            or executor died), "cancelled", "interrupt", "killed" (no driver is left to tell), "value" (no error).
        says: pattern of the cause in the error's first line.
        tells: whether the error must hold the last lines that the rank printed.
        peers: where the other rank may be.
        launchers: where it can happen.
    """

    strike: Callable[[Path], object] | None = None
    by: str = "rank"
    ends: str = "rank"
    says: str = ""
    tells: bool = False
    peers: tuple[str, ...] = ("python", "allreduce")
    launchers: tuple[str, ...] = LAUNCHERS


def _stall(strike, *peers):
    return Fault(strike=strike, ends="stall", says=f"stall_timeout_s={STALL_TIMEOUT_S}", peers=peers)


def _death(strike, says, *peers):
    return Fault(strike=strike, says=says, tells=True, peers=peers or ("python", "allreduce"))


def _orphan(start, *, returns=False):
    if returns:
        return Fault(strike=start, ends="value", peers=("returns",))
    return Fault(strike=strikes.raise_after(start), says="ValueError: boom", peers=("python",))


FAULTS = {
    "raises": Fault(strike=strikes.raise_value_error, says="ValueError: boom", peers=PEERS),
    "sys.exit(4)": _death(strikes.sys_exit_4, "exited with code 4"),
    "os._exit(3)": _death(strikes.os_exit_3, "exited with code 3"),
    "SIGSEGV": _death(strikes.die_by_sigsegv, "SIGSEGV"),
    "SIGABRT": _death(strikes.die_by_sigabrt, "SIGABRT"),
    "SIGKILL": _death(strikes.die_by_sigkill, "SIGKILL", *PEERS),
    "memory exhausted": Fault(strike=strikes.exhaust_memory, says="MemoryError"),
    "SIGSTOP": _stall(strikes.stop_itself, *PEERS),
    # Without a collective that waits for it, a rank that sleeps is no different from one that works.
    "sleeps": _stall(strikes.sleep_for_ever, "allreduce", "init"),
    "spins": _stall(strikes.spin_for_ever, "allreduce"),
    "lock": _stall(strikes.wait_for_lock, "allreduce"),
    "returns": Fault(strike=strikes.return_early, says="returned", peers=("allreduce", "init")),
    "raises, child left": _orphan(strikes.start_child),
    "raises, session left": _orphan(strikes.start_session),
    "raises, daemon left": _orphan(strikes.start_daemon),
    "ends, child left": _orphan(strikes.start_child, returns=True),
    "ends, session left": _orphan(strikes.start_session, returns=True),
    "ends, daemon left": _orphan(strikes.start_daemon, returns=True),
    "worker killed": Fault(
        strike=strikes.kill_ancestor("pyspark.daemon"), ends="loss", says="lost|died|killed", launchers=SPARK
    ),
    "executor killed": Fault(
        strike=strikes.kill_ancestor("CoarseGrainedExecutorBackend"),
        ends="loss",
        says="lost|died|killed",
        launchers=(CLUSTER,),
    ),
    "job cancelled": Fault(by="driver", ends="cancelled", says="cancell?ed", launchers=SPARK),
    "Ctrl-C": Fault(by="outside", ends="interrupt"),
    "driver killed": Fault(by="outside", ends="killed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fault at one place: plain values, which travel as JSON."""

    launcher: str
    fault: str
    peer: str
    rank: int = 1
    delay_s: float = 0.0

    @property
    def what(self) -> Fault:
        """The fault."""
        return FAULTS[self.fault]

    @property
    def stalls(self) -> bool:
        """Whether only time tells: also of a rank that waits in hvd.init for one that never comes."""
        return self.what.ends == "stall" or (self.fault, self.peer) == ("returns", "init")

    @property
    def limit_s(self) -> float:
        """Seconds from the fault to the error."""
        return DETECTION_S + (STALL_TIMEOUT_S if self.stalls else 0)


def table(launcher: str) -> list[Case]:
    """Every fault of a launcher with every place of the peer; those that hit more than a rank also with rank 0."""
    faults = {name: fault for name, fault in FAULTS.items() if launcher in fault.launchers}
    cases = [Case(launcher=launcher, fault=name, peer=peer) for name in faults for peer in faults[name].peers]
    # Rank 0 is where the others meet: its end takes more with it.
    first = ("SIGKILL", "SIGSTOP", "returns", "worker killed", "executor killed")
    return cases + [Case(launcher=launcher, fault=name, peer="allreduce", rank=0) for name in first if name in faults]


def random_case(seed: int) -> Case:
    """Any fault, launcher, rank, place of the peer and delay."""
    chance = random.Random(seed)
    launcher = chance.choice(LAUNCHERS)
    name = chance.choice([name for name, fault in FAULTS.items() if launcher in fault.launchers])
    peer = chance.choice(FAULTS[name].peers)
    return Case(launcher=launcher, fault=name, peer=peer, rank=chance.randrange(2), delay_s=chance.uniform(0, 2))
