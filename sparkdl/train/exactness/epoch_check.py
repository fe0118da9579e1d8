"""Try losses, metrics and layers once more on rows of each epoch.

Runs in rank processes, after the first step of an epoch. What looked exact at the start may depend on the batch for
other rows or later: a mask of missing labels that the first rows did not have, a layer that changes after some steps.
"""

from __future__ import annotations

from typing import Any

import keras

from sparkdl.train.exact.findings import Findings, Inexact
from sparkdl.train.exact.state.moving_state import layer_states
from sparkdl.train.exactness.functions import tried_functions, values_of
from sparkdl.train.exactness.probe import LEAST_ROWS, Cut, Probe, part_of
from sparkdl.train.exactness.row_form import form_of_parts
from sparkdl.train.exactness.row_independence import added_losses, mixing, model_tolerance, state_reductions

__all__ = ["EpochCheck"]

MOST_ROWS = 16


class EpochCheck:
    """Find the parts that have come to depend on how rows are divided; each once, without those in `findings`."""

    def __init__(self, model: Any, findings: Findings) -> None:
        self._model = model
        self._known = {one.what for one in findings.inexact}
        self._reductions = findings.states
        self._states = layer_states(model)
        # Keras' own functions are known to be exact; to try them each time would cost more than the rest.
        self._functions = {key: function for key, function in tried_functions(model).items() if not function.known}
        variables = [state.variable for state in self._states]
        self._probe = Probe(model, training=True, states=variables, functions=self._functions, repeated=True)

    def __call__(self, x: Any, y: Any) -> list[Inexact]:
        """Try the model on inputs and targets, without padding rows; fewer rows than LEAST_ROWS prove nothing."""
        rows = min(MOST_ROWS, len(keras.tree.flatten(x)[0]))
        if rows < LEAST_ROWS:
            return []
        before = [keras.ops.convert_to_numpy(state.variable) for state in self._states]
        cut = self._probe(part_of(x, slice(rows)), part_of(y, slice(rows)))
        # Where predictions mix rows, so does all that is computed from predictions.
        found = mixing(self._model, cut) or [*added_losses(self._model, cut), *self._forms(cut)]
        unknown, possible = state_reductions(self._states, before, cut)
        found += unknown
        for state, reduction, now in zip(self._states, self._reductions, possible, strict=True):
            if now and reduction not in now:
                found.append(
                    Inexact(
                        f"state {state.name}",
                        f"was put together as the {reduction} of the ranks' changes, and changes as their {now[0]} now",
                        f"set sparkdl_reduction = {now[0]!r} on the layer's class",
                    )
                )
        new = [one for one in found if one.what not in self._known]
        self._known |= {one.what for one in new}
        return new

    def _forms(self, cut: Cut) -> list[Inexact]:
        found = []
        for index, function in enumerate(self._functions.values()):
            if index not in cut.whole.values:
                continue
            whole, *values = (values_of(function, one.values[index], one.rows) for one in (cut.whole, *cut.parts))
            form = form_of_parts(whole, values, cut.places, tolerance=model_tolerance(self._model))
            if form is not None and form.kind == "batch":
                found.append(Inexact(function.what, f"is not a mean over rows: {form.reason}", function.way_out))
        return found
