"""Check the metric by which the best model is chosen, before the first epoch. Runs in rank processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sparkdl.errors import ConfigError
from sparkdl.train.config import TrainConfig
from sparkdl.train.exact.overrides import has_own_step
from sparkdl.train.run.best_epoch import direction_of, unknown_monitor

__all__ = ["check_monitor"]

log = logging.getLogger(__name__)


def check_monitor(
    config: TrainConfig, model: Any, rates: list[str], *, validated: bool, directions: Mapping[str, str | None]
) -> str | None:
    """Return "min" or "max", whichever value of the monitor is its best; None if nothing is monitored.

    Raises ConfigError for a metric that the model does not report, and for one whose direction is not known. Warns
    instead if the user's callbacks or step may still add the metric.
    """
    monitor, mode = config.checkpoint.monitor, config.checkpoint.mode
    direction = None if monitor is None else direction_of(monitor, mode, directions)
    names = ["loss", *model.get_metrics_result()]
    given = {*names, *(f"val_{name}" for name in names if validated), *rates}
    wrong = unknown_monitor(monitor, given)
    # The user's callbacks and steps may add metrics.
    if wrong is not None and config.callbacks is None and not has_own_step(model):
        raise ConfigError(wrong)
    if monitor is not None and direction is None:
        raise ConfigError(
            f"checkpoint.monitor={monitor!r} does not say whether its best value is the smallest or the largest; use "
            "checkpoint.mode='min' or 'max'"
        )
    if wrong is not None:
        log.warning("%s; training fails after its first epoch unless a callback or the model adds it", wrong)
    return direction
