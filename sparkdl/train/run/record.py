"""What a run has recorded: figures of its epochs and of its ranks, and what it ran on.

A plain value, made in ranks, kept in checkpoints, read on the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Recorded", "scalars"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a run has recorded so far, made of JSON values.

    Attributes:
        history: one dict per epoch, as in `TrainResult.history`.
        ranks: one dict per epoch: epoch; first_step, 0 unless the run was interrupted within the epoch: the figures are
            of the steps from there on; and, each a list with one value per rank: hosts, rows, seconds,
            data_wait_seconds, allreduce_seconds.
        environment: the versions of what the ranks of the last launch ran on, by name.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As it is kept in a checkpoint."""
        return {"history": self.history, "ranks": self.ranks, "environment": self.environment}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Recorded:
        """From a checkpoint's facts."""
        return cls(history=content["history"], ranks=content["ranks"], environment=content["environment"])


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an epoch as numbers: a metric that is a list (of classes) gives `name/0`, `name/1`, …"""
    found: dict[str, float] = {}
    for name, value in record.items():
        if name in ("epoch", "per_worker"):
            continue
        if isinstance(value, (list, tuple)):
            found |= scalars({f"{name}/{place}": part for place, part in enumerate(value)})
        else:
            found[name] = float(value)
    return found
