"""Read what a caller of `save_model` says of a model's outputs: one value for all, or one for each by its name.

Pure; nothing of Keras is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sparkdl.data.features import Encoder
from sparkdl.errors import ConfigError, near_miss, shown

__all__ = ["Said", "SaidOfOutput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaidOfOutput:
    """Hold what the caller says of one output; None for what is not said."""

    logits: bool | None
    threshold: float | None
    label: Encoder | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Hold what a caller says of the outputs, as in `save_model`; `labels` by output."""

    logits: bool | Mapping[str, bool] | None = None
    threshold: float | Mapping[str, float] | None = None
    labels: Mapping[str, Encoder] = field(default_factory=dict)

    def of(self, names: Sequence[str]) -> list[SaidOfOutput]:
        """Return what is said of each output. Raises ConfigError for wrong values, and for unknown outputs."""
        logits, thresholds = _by_output("logits", self.logits, names), _by_output("threshold", self.threshold, names)
        labels = _by_output("label", self.labels, names)
        for value in logits.values():
            if value is not None and not isinstance(value, bool):
                given = shown(self.logits)
                raise ConfigError(f"logits={given} must be True, False, None, or a dict of these by output")
        for value in thresholds.values():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if value is not None and not number:
                raise ConfigError(f"threshold={shown(self.threshold)} must be a number, or a dict of numbers by output")
        return [
            SaidOfOutput(
                logits=logits.get(name),  # type: ignore[arg-type]
                threshold=None if thresholds.get(name) is None else float(thresholds[name]),  # type: ignore[arg-type]
                label=labels.get(name),  # type: ignore[arg-type]
            )
            for name in names
        ]


def _by_output(option: str, given: object, names: Sequence[str]) -> dict[str, object]:
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    for name in given:
        if name not in names:
            raise ConfigError(f"{option}: {shown(name)} is not an output of the model{near_miss(str(name), names)}")
    return dict(given)
