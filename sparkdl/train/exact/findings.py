"""Hold the findings about a model: the parts that are not exact over ranks, and the reductions of the other parts.

Pure values; made by `exactness.find`, used by the exact steps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Findings", "Inexact", "named"]


@dataclass(frozen=True, slots=True)
class Inexact:
    """Describe a part of a model whose value over all rows cannot be computed from its values on the ranks.

    Attributes:
        what: the part's kind and name: "loss 'dice'".
        reason: the rest of the sentence: "is not a mean over rows: it is …".
        way_out: how to make the part exact, or "".
    """

    what: str
    reason: str
    way_out: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.reason}" + (f"; {self.way_out}" if self.way_out else "")


def named(found: Sequence[Inexact]) -> list[str]:
    """List the kinds and names of parts, each once, as they stand in history, report and signature."""
    return list(dict.fromkeys(one.what for one in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Hold the findings about a model; made on rank 0, equal on all ranks.

    Attributes:
        inexact: the parts that depend on how rows are divided.
        states: the reduction of each of `layer_states(model)`.
        single_values: indexes among the model's metrics of those whose function gives one value for all rows.
        averaged_metrics: indexes among the model's metrics of those whose results, not states, are averaged.
        summed_metrics: the names of Sum metrics that layers or steps give sums over rows.
    """

    inexact: tuple[Inexact, ...] = ()
    states: tuple[str, ...] = ()
    single_values: tuple[int, ...] = ()
    averaged_metrics: tuple[int, ...] = ()
    summed_metrics: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Encode the findings as JSON, to be sent to the other ranks."""
        inexact = [[one.what, one.reason, one.way_out] for one in self.inexact]
        return json.dumps([inexact, self.states, self.single_values, self.averaged_metrics, self.summed_metrics])

    @classmethod
    def from_json(cls, text: str) -> Findings:
        """Decode the output of `to_json`."""
        inexact, states, single_values, averaged, summed = json.loads(text)
        return cls(
            inexact=tuple(Inexact(*one) for one in inexact),
            states=tuple(states),
            single_values=tuple(single_values),
            averaged_metrics=tuple(averaged),
            summed_metrics=tuple(summed),
        )
