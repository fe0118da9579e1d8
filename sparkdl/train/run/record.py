"""Hold what a run has recorded: metrics of its epochs and of its ranks, and the versions it ran on.

A plain value, made in ranks, kept in checkpoints, read on the driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Recorded", "averaged_weights", "is_averaged_weights", "scalars"]

_AVERAGED_WEIGHTS = "weights (sync_every="


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Hold what a run has recorded so far, as JSON values.

    Attributes:
        history: one dict per epoch, as in `TrainResult.history`.
        ranks: one dict per epoch: epoch; first_step, 0 unless the run was interrupted within the epoch: the values are
            of the steps from there on; and, each a list with one value per rank: hosts, rows, seconds,
            data_wait_seconds, allreduce_seconds.
        environment: the versions of the software that the ranks of the last launch ran on, by name.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    ranks: list[dict[str, Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Recorded:
        """Read the record from a checkpoint's metadata, which holds its fields among others."""
        return cls(history=content["history"], ranks=content["ranks"], environment=content["environment"])


def averaged_weights(sync_every: int) -> str:
    """Name the weights of a run of local SGD, among the parts of its epochs that are computed per worker."""
    return f"{_AVERAGED_WEIGHTS}{sync_every})"


def is_averaged_weights(name: str) -> bool:
    """Tell whether a name is one that `averaged_weights` gives."""
    return name.startswith(_AVERAGED_WEIGHTS)


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Flatten the metrics of an epoch to numbers: a metric that is a list (of classes) gives `name/0`, `name/1`, …"""
    found: dict[str, float] = {}
    for name, value in record.items():
        if name in ("epoch", "per_worker"):
            continue
        if isinstance(value, (list, tuple)):
            found |= scalars({f"{name}/{index}": part for index, part in enumerate(value)})
        else:
            found[name] = float(value)
    return found
