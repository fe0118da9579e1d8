"""Say what a run's ranks are to the driver, wherever they run.

Runs on the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sparkdl.launch.config import LaunchConfig

__all__ = ["RanksSpec", "Ranks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksSpec:
    """What ranks to start.

    Attributes:
        task: the pickled function with its arguments.
        size: how many ranks.
        launch: where they run.
        description: what the Spark UI calls the job.
        log_folder: where each rank's output is kept, or None.
    """

    task: bytes
    size: int
    launch: LaunchConfig
    description: str = ""
    log_folder: str | None = None


class Ranks(Protocol):
    """The ranks of a run, as the monitor commands them. Each call returns at once."""

    def stop(self) -> None:
        """End all ranks, within two seconds."""

    def dump_stacks(self) -> None:
        """Have all ranks report the Python stacks of their threads."""

    def request_stop(self) -> None:
        """Ask the ranks to keep what they need to go on, and to exit."""

    def is_alive(self) -> bool:
        """Whether more can be heard of them."""
