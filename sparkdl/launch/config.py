"""Say where ranks run and how long to wait for them.

Used on the driver; the values travel to ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sparkdl.checks import as_path, is_whole, named_options, require, require_seconds, require_whole
from sparkdl.errors import shown

__all__ = ["LaunchConfig"]

LOG_CHOICES = ("rank0", "all", "errors")


@named_options
@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchConfig:
    """Say where ranks run and how long to wait for them. Its values never change the result.

    Raises ConfigError for a value out of range.
    """

    num_workers: int
    """Ranks, one process each. In a Spark job every rank takes one task slot."""

    local: bool = False
    """Run the ranks as child processes of the driver, without Spark."""

    gpus_per_worker: int = 0
    """GPUs of each rank: from its task's own Spark resources or, with `local=True`, from this machine's. A rank sees
    these GPUs alone; with 0 it sees none."""

    allow_unencrypted: bool = False
    """Run although the Spark session encrypts its connections. What the ranks send each other, and the driver, is not
    encrypted."""

    min_workers: int | None = None
    """The fewest ranks to run with where the session has too few slots, at the start or at a restart; None:
    `num_workers`. Ignored with `local=True`."""

    driver_port: int = 0
    """The port on which the driver listens for its ranks, where a firewall lets executors reach certain ports alone;
    0: any free port. Two runs on one host at the same time need different ports. Ignored with `local=True`."""

    start_timeout_s: float = 60.0
    """Seconds to wait until every rank has a slot and its process has started."""

    stall_timeout_s: float = 300.0
    """Seconds that a rank may go without progress before the run fails: its process is stopped, or neither its main
    thread (1 % of a core), nor all its threads together (30 %), nor the processes that it started (10 %) use the
    processor, and it emits no event. Waiting for another rank is not progress. `float("inf")` waits without
    limit."""

    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for the rank processes, set before TensorFlow is imported."""

    log: str = "rank0"
    """Whose output reaches the driver's terminal: "rank0", "all" (each line names its rank) or "errors" (none; a
    failing rank's last lines are in the error)."""

    log_dir: str | None = None
    """Folder or URL for each rank's whole output, one folder for each launch; all hosts must see it. Executors that
    cannot reach the driver's port exchange messages with the driver through this folder. None: `fit` uses `logs` in its
    run directory, `run` and `evaluate` keep no output."""

    def __post_init__(self) -> None:
        require_whole("num_workers", self.num_workers)
        require(isinstance(self.local, bool), f"local={shown(self.local)} must be True or False")
        if self.min_workers is not None:
            require_whole("min_workers", self.min_workers)
            fewer = self.min_workers <= self.num_workers
            require(fewer, f"min_workers={self.min_workers} must not be more than num_workers={self.num_workers}")
        require_whole("gpus_per_worker", self.gpus_per_worker, least=0)
        good = isinstance(self.allow_unencrypted, bool)
        require(good, f"allow_unencrypted={shown(self.allow_unencrypted)} must be True or False")
        port = self.driver_port
        good = is_whole(port, 1024, 65535) or is_whole(port, 0, 0)
        require(good, f"driver_port={shown(port)} must be 0, or a port from 1024 to 65535")
        require_seconds("start_timeout_s", self.start_timeout_s, least=0.001)
        require_seconds("stall_timeout_s", self.stall_timeout_s, least=1)
        require(isinstance(self.env, Mapping), f"env={shown(self.env)} must map names to values")
        require(self.log in LOG_CHOICES, f"log={shown(self.log)} must be one of {', '.join(LOG_CHOICES)}")
        if self.log_dir is not None:
            object.__setattr__(self, "log_dir", as_path("log_dir", self.log_dir))
        for name, value in self.env.items():
            good = isinstance(name, str) and isinstance(value, str)
            require(good, f"env[{shown(name)}]={shown(value)}: names and values must be strings")
            good = name != "" and "=" not in name and "\0" not in name + value
            require(
                good,
                f"env[{shown(name)}]={shown(value)} must be an environment variable: use a name that is not empty and "
                "holds no '=', and no \\0 in name or value",
            )
        own_gpus = self.gpus_per_worker > 0 and "CUDA_VISIBLE_DEVICES" in self.env
        require(not own_gpus, "env must not set CUDA_VISIBLE_DEVICES with gpus_per_worker: each rank gets its own")
