"""Call the model with a batch, and find the rows that the model fails on.

Runs in Spark workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sparkdl.errors import ModelError
from sparkdl.model.batches import Batch
from sparkdl.model.load import LoadedModel
from sparkdl.model.save import one_line
from sparkdl.score.worker.predictions import not_numbers
from sparkdl.score.worker.spec import ScoreSpec

__all__ = ["predict"]


def predict(
    model: LoadedModel, batch: Batch, task: ScoreSpec, *, row_name: Callable[[int], str]
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """Return the outputs of a batch, and the rows without outputs with their reasons (0 is the batch's first row).

    Raises ModelError for a row without outputs if `task.on_error` is "raise", and for a model that fails on any rows.
    """
    problems: dict[int, str] = {}
    try:
        results = model.predict_batch(batch.inputs)
    except Exception as error:
        problems = _failing_rows(model, batch, error)
        results = model.predict_batch(_without(batch.inputs, list(problems)))
    if task.returns.kind != "raw":
        problems = not_numbers({n: v[: batch.rows] for n, v in results.items()}, model.signature) | problems
    if problems and task.on_error == "raise":
        row = min(problems)
        raise ModelError(f"{problems[row]}; {row_name(row)}")
    return results, problems


def _failing_rows(model: LoadedModel, batch: Batch, error: Exception) -> dict[int, str]:
    """Find the rows that the model fails on, by halving, each with its error; zeros replace the other rows.

    Raises ModelError if the model fails on zeros alone.
    """

    def failure(rows: range) -> Exception | None:
        others = np.delete(np.arange(batch.rows), rows)
        try:
            model.predict_batch(_without(batch.inputs, others))
        except Exception as caught:
            return caught
        return None

    problems: dict[int, str] = {}
    suspects = [range(batch.rows)] if failure(range(0)) is None else []
    while suspects:
        rows = suspects.pop()
        caught = failure(rows)
        if caught is None:
            continue
        if len(rows) == 1:
            problems[rows[0]] = f"the model fails: {one_line(caught)}"
        else:
            middle = len(rows) // 2
            suspects += [rows[:middle], rows[middle:]]
    if not problems:
        raise ModelError(f"the model fails: {one_line(error)}") from error
    return problems


def _without(inputs: Mapping[str, np.ndarray], rows: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs with zeros in these rows."""
    copies = {name: values.copy() for name, values in inputs.items()}
    for values in copies.values():
        values[rows] = 0
    return copies
