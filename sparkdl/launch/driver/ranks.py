"""Define the interface by which the driver commands the ranks of a run, wherever they run.

Runs on the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sparkdl.launch.config import LaunchConfig

__all__ = ["RanksSpec", "Ranks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RanksSpec:
    """Describe the ranks to start.

    Attributes:
        task: the pickled function with its arguments.
        size: the number of ranks.
        launch: where the ranks run.
        description: the name of the job in the Spark UI.
        log_folder: where each rank's output is kept, or None.
    """

    task: bytes
    size: int
    launch: LaunchConfig
    description: str = ""
    log_folder: str | None = None


class Ranks(Protocol):
    """Command the ranks of a run, for the monitor. Each call returns at once."""

    def stop(self) -> None:
        """End all ranks, within two seconds."""

    def dump_stacks(self) -> None:
        """Have all ranks report the Python stacks of their threads."""

    def request_stop(self) -> None:
        """Ask the ranks to save what they need to go on later, and to exit."""

    def is_alive(self) -> bool:
        """Tell whether more messages of the ranks may come."""
