"""Hold the findings about a model: the parts that are not exact over ranks, and the reductions of the other parts.

Pure values; made by `exactness.find`, used by the exact steps.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

__all__ = ["Findings", "Inexact"]


@dataclass(frozen=True, slots=True)
class Inexact:
    """Describe a part of a model whose value over all rows cannot be computed from its values on the ranks.

    Attributes:
        what: the part's kind and name, as they stand in history, report and signature: "loss 'dice'".
        reason: the rest of the sentence: "is not a mean over rows: it is …".
        way_out: how to make the part exact, or "".
    """

    what: str
    reason: str
    way_out: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.reason}" + (f"; {self.way_out}" if self.way_out else "")


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
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Findings:
        """Decode the output of `to_json`."""
        content = {name: tuple(values) for name, values in json.loads(text).items()}
        return cls(**{**content, "inexact": tuple(Inexact(**one) for one in content["inexact"])})
