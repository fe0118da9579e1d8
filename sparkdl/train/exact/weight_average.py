"""Average what ranks have trained alone, weighted by their rows, every few steps: local SGD.

Runs in rank processes. Weights and the state of optimizers are averaged (Stich 2019, https://arxiv.org/abs/1805.09767),
and what layers remember is put together from the ranks' changes as in a step (`MovingState`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from sparkdl.errors import ModelError
from sparkdl.train.exact.collective import gather_over_ranks, reduce_over_ranks, sum_tensors
from sparkdl.train.exact.counters import Counts, EpochSums, StepCounters
from sparkdl.train.exact.gradients import at_least_single, buckets
from sparkdl.train.exact.optimizers import optimizers_of, updating_optimizers
from sparkdl.train.exact.state.moving_state import MovingState

__all__ = ["WeightAverage"]


class WeightAverage:
    """Let ranks take steps alone, and average them after every `every` steps of an epoch and at its end.

    Args:
        model: a built model, within `exact_steps` with `StepOptions.local`.
        states: the variables that layers remember, with their reductions.
        numbers: the counters of its steps.
        every: the number of steps between two averages.
        steps: the steps of one epoch.
    """

    def __init__(
        self, model: Any, states: Sequence[tuple[Any, str]], numbers: StepCounters, *, every: int, steps: int
    ) -> None:
        self._model = model
        self._numbers = numbers
        self._every = every
        self._steps = steps
        self._state = MovingState(states)
        self._apart = False
        owned = (*model.trainable_weights, *(v for one in optimizers_of(model) for v in one.variables))
        variables = list({id(v): v.value for v in owned}.values())
        self._tensors = [v for v in variables if v.dtype.is_floating and v.shape.rank]
        # Rates and counters: the same on all ranks, and kept to the last bit.
        self._numbers_of = [v for v in variables if not (v.dtype.is_floating and v.shape.rank)]
        updating = [one for outer in optimizers_of(model) for one in updating_optimizers(outer)]
        # Keras makes a variable of a rate that is not a schedule.
        self._rates = {id(r.value): one.name for one in updating if hasattr(r := one._learning_rate, "value")}

    def take_step(self, step: int, data: Any) -> Any:
        """Take a step of an epoch, counted from 0; average the ranks if the step is due. Returns the step's logs."""
        if not self._apart:
            self._state.begin()
            self._apart = True
        logs = self._model.train_function(data)
        if (step + 1) % self._every == 0 or step + 1 == self._steps:
            self._average()
            self._apart = False
        return logs

    def _average(self) -> None:
        """Make all ranks the same. A collective operation."""
        began, numbers = time.monotonic(), self._numbers
        rows, global_rows = numbers.local_rows.numpy().tolist()
        share = rows / global_rows
        self._average_tensors(share)
        self._average_numbers(share)
        counts = Counts(*(tf.constant(int(number), tf.int64) for number in (rows, global_rows, 0)))
        changes = self._state.changes(counts)
        self._state.finish(sum_tensors(changes, name="local_states"), counts)
        parts = numbers.local_parts.numpy()
        sums = reduce_over_ranks("sum", np.append(parts, numbers.ask_stop.numpy()), name="local_sums")
        numbers.train_parts.assign_add(sums[:-1].reshape(parts.shape))
        numbers.stops_asked.assign(sums[-1])
        numbers.local_parts.assign(tf.zeros_like(parts))
        numbers.local_rows.assign(tf.zeros(2, tf.float64))
        numbers.add(EpochSums(reduce_s=time.monotonic() - began))

    def _average_tensors(self, share: float) -> None:
        sizes = [variable.shape.num_elements() * variable.dtype.size for variable in self._tensors]
        for number, places in enumerate(buckets(sizes)):
            bucket = [self._tensors[place] for place in places]
            # A rank without rows adds nothing, whatever it holds.
            wide = [at_least_single(tf.convert_to_tensor(v)) for v in bucket]
            own = [v * tf.constant(share, v.dtype) if share else tf.zeros_like(v) for v in wide]
            for variable, mean in zip(bucket, sum_tensors(own, name=f"local_{number}"), strict=True):
                variable.assign(tf.cast(mean, variable.dtype))

    def _average_numbers(self, share: float) -> None:
        """Average scalars, and take the largest of whole numbers, where ranks differ.

        Raises ModelError on every rank where learning rates differ: a callback has set one alone.
        """
        own = [np.asarray(variable.numpy(), np.float64) for variable in self._numbers_of]
        flat = np.concatenate([[share], *(value.reshape(-1) for value in own)])
        of_ranks = gather_over_ranks(flat, name="local_numbers")
        weights, start = of_ranks[:, 0], 1
        for variable, value in zip(self._numbers_of, own, strict=True):
            columns = of_ranks[:, start : start + value.size]
            start += value.size
            if (columns == columns[0]).all():
                continue
            if (name := self._rates.get(id(variable))) is not None:
                raise ModelError(
                    f"ranks have different learning rates of optimizer {name!r}: {columns[:, 0].tolist()}; set it "
                    "alike on every rank, by what is the same on all, such as the epoch or the logs of an epoch's end"
                )
            merged = weights @ columns if variable.dtype.is_floating else columns.max(axis=0)
            variable.assign(tf.cast(merged.reshape(value.shape), variable.dtype))
