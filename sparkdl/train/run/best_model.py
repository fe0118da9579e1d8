"""Keep the best epoch's model with the metric by which it is the best, and find it if that metric is asked for.

Rank 0 writes the model, the driver reads it. A model that is the best by another metric, or in the other direction, is
never returned as the best.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparkdl import storage
from sparkdl.train.config import CheckpointConfig
from sparkdl.train.run.best_epoch import best_value, direction_of
from sparkdl.train.run.checkpoint import read_checkpoint
from sparkdl.train.run.run_dir import RunDir

__all__ = ["Best", "best_before", "best_model_dir", "forget_best", "keep_best"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """Describe the epoch, from 0, with the best value of a metric so far; `direction`: "min" or "max"."""

    monitor: str
    direction: str
    value: float
    epoch: int

    def __str__(self) -> str:
        return f"the {self.direction} of {self.monitor}, epoch {self.epoch + 1}"


def keep_best(run: RunDir, best: Best, write: Callable[[], object]) -> None:
    """Write the model as the best one, and then its metric; no file ever names the metric of another model."""
    storage.delete_file(run.best)
    write()
    storage.write_atomic(run.best, json.dumps(asdict(best)).encode())


def forget_best(run: RunDir) -> None:
    """Forget which model is the best one: its value cannot be compared with those to come."""
    storage.delete_file(run.best)


def best_before(run: RunDir, facts: Mapping[str, Any], monitor: str, direction: str) -> float | None:
    """Return the best value in the facts of a checkpoint if the metric and direction are the same; else None."""
    if facts["best"] is None or facts.get("monitor", monitor) != monitor:
        return None
    value = float(facts["best"])
    if "direction" not in facts:
        # An older version wrote no direction: the value shows which it was.
        return value if value == best_value(facts["history"], monitor, direction) else None
    kept = _read(run)
    alike = kept is not None and (kept.monitor, kept.direction) == (monitor, direction) == (monitor, facts["direction"])
    return value if alike else None


def best_model_dir(run: RunDir, config: CheckpointConfig, directions: Mapping[str, str | None]) -> str | None:
    """Return the best model's directory if it was chosen by the metric and direction of `config`; else warn, and None.

    `directions`: as in `MadeBy`.
    """
    if config.monitor is None:
        return None
    direction = direction_of(config.monitor, config.mode, directions)
    asked = f"the {direction} of {config.monitor}" if direction else f"the best {config.monitor}"
    kept = _read(run) if direction else None
    latest = run.latest_checkpoint() if direction else None
    facts = read_checkpoint(latest).facts if latest is not None else {}
    is_asked, found = False, "it keeps no such model"
    if kept is not None:
        is_asked, found = (kept.monitor, kept.direction) == (config.monitor, direction), f"it keeps {kept}"
        if is_asked and "direction" in facts and (facts["monitor"], facts["direction"]) != (config.monitor, direction):
            # Later epochs may be better.
            is_asked, found = False, f"{found}, and looked for something else, or nothing, in its last epochs"
    elif direction is not None and facts:
        is_asked = "direction" not in facts and best_before(run, facts, config.monitor, direction) is not None
    if is_asked and storage.exists(run.best_model):
        return run.best_model
    log.warning(
        "run_dir=%s did not look for %s: %s, and best_model_dir is None; ask for more epochs, where it does look, or "
        "train anew with resume='replace'",
        run.path,
        asked,
        found,
    )
    return None


def _read(run: RunDir) -> Best | None:
    try:
        return Best(**json.loads(storage.read_bytes(run.best)))
    except (FileNotFoundError, ValueError, TypeError):
        return None
