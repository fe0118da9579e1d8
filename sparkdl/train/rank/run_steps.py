"""Hold the exact steps of a run, and make them anew after a callback has compiled the model.

Runs in rank processes. A compilation in mid-run is what two trainings in plain Keras are: the optimizer, loss and
metrics are new ones, and what is trainable is asked for again. It takes effect between two epochs, on all ranks.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from sparkdl.errors import ModelError
from sparkdl.launch.world import World
from sparkdl.model.own_names import own_objects
from sparkdl.train.checks.check_model import build, check_model
from sparkdl.train.exact.collective import gather_over_ranks
from sparkdl.train.exact.counters import StepCounters
from sparkdl.train.exact.instrument import StepOptions, compiled_within, exact_steps
from sparkdl.train.exact.optimizers import accumulate_gradients
from sparkdl.train.exact.patch import patched
from sparkdl.train.rank.callbacks.learning_rate import LearningRates
from sparkdl.train.rank.compilation import check_repeatable, compilation_of, compile_as, figures_of
from sparkdl.train.spec import TrainSpec

__all__ = ["RunSteps"]

log = logging.getLogger(__name__)


class RunSteps:
    """Instrument the model of a run within a `with` block, again after each compilation by a callback.

    Args:
        built: the description of the model as `build_model` returned it (`model_facts`).
        own: the user's objects in that model, by their names; None: they are still those of the model now.
        in_epoch: whether the run goes on within an epoch, whose begin the callbacks see a second time.
        options_of: judges the model as it is compiled now, on all ranks, and returns the options of its steps.
        rates_of: returns the learning rates of its optimizers.
        compilation: how a callback compiled the model before the run was interrupted; None: as `build_model` did.

    Attributes:
        numbers: the counters, the same object for the whole run.
        options, rates: those of the current compilation.
        compilation: how a callback compiled the model, as JSON; None while it is `build_model`'s compilation.
        followed: called after each compilation, in order.
        measures_anew: whether loss or metrics are others than before; the one who uses that sets it to False.
    """

    def __init__(
        self,
        task: TrainSpec,
        model: Any,
        example: tuple[Any, ...],
        here: World,
        *,
        built: Mapping[str, Any],
        own: Mapping[str, Any] | None = None,
        in_epoch: bool = False,
        options_of: Callable[[], StepOptions],
        rates_of: Callable[[], LearningRates],
        compilation: dict[str, Any] | None = None,
    ) -> None:
        self.numbers = StepCounters(0)
        self.options = options_of()
        self.rates = rates_of()
        self.compilation = compilation
        self.followed: list[Callable[[], None]] = []
        self.measures_anew = False
        self._task = task
        self._model = model
        self._example = example
        self._here = here
        self._built = built
        self._own = own
        self._options_of = options_of
        self._rates_of = rates_of
        self._stack = ExitStack()
        self._allowed = self._compiled = False
        self._figures: dict[str, Any] = {}
        # The compilation of the epoch that goes on.
        self._goes_on = compilation_of(model) if in_epoch else None

    def __enter__(self) -> RunSteps:
        self._instrument()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def allow_compile(self) -> None:
        """Let callbacks compile the model until `follow`: between epochs no sum is in progress."""
        self._allowed = True

    def follow(self) -> None:
        """Make the steps anew if callbacks have compiled the model. All ranks call it.

        Raises ModelError if ranks have compiled it in different ways, or a run that goes on could not compile it so.
        """
        if self._compiled:
            accumulate_gradients(self._model, self._task.config.gradient_accumulation_steps)
            if self._goes_on is not None and compilation_of(self._model) != self._goes_on:
                # A callback that goes one step further at each epoch's begin has now done so twice for this epoch.
                compile_as(self._model, self._goes_on, self._own or {})
        self._goes_on = None
        self._allowed = False
        compilation = compilation_of(self._model) if self._compiled else None
        self._check_alike(compilation)
        if compilation is None:
            return
        check_model(self._model)
        self._stack.close()
        check_repeatable(self._model, compilation, self._built, self._own or {})
        dataset, target = self._task.dataset, self._task.config.target
        build(self._model, self._example, dataset.label_encoders if target == "label" else ())
        self.options, self.rates = self._options_of(), self._rates_of()
        self.measures_anew = self.measures_anew or figures_of(compilation) != self._figures
        self.compilation, self._compiled = compilation, False
        self._instrument()
        self._model.make_train_function()
        self._model.reset_metrics()
        for called in self.followed:
            called()
        trained = len(self._model.trainable_weights)
        log.info("a callback has compiled model %r: it trains %d weights from now on", self._model.name, trained)

    def _instrument(self) -> None:
        steps = exact_steps(
            self._model, self._here, self._example, self.options, numbers=self.numbers, compile_by=self._compile
        )
        self._stack.enter_context(steps)
        self._stack.enter_context(self.rates.multiplied())

    def _compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the model as its class does, without the steps of the run, until `follow` makes them anew."""
        model = self._model
        if not self._allowed:
            raise compiled_within(model)
        self._stack.close()
        if self._own is None:
            self._own = own_objects(model)
        if not self._compiled:
            self._figures = figures_of(compilation_of(model))
        self._compiled = True
        # Keras keeps the loss and metrics that the next compilation does not name, which its configuration forgets.
        model._compile_loss = model._compile_metrics = None
        stopping = model.stop_training
        type(model).compile(model, *args, **kwargs)
        model.stop_training = stopping
        self._stack.enter_context(patched(model, {"compile": self._compile}))

    def _check_alike(self, compilation: dict[str, Any] | None) -> None:
        """Raise ModelError on every rank unless all have compiled the model in the same way, or none has."""
        digest = 0
        if compilation is not None:
            digest = 1 + int(hashlib.sha256(json.dumps(compilation).encode()).hexdigest()[:12], 16)
        digests = gather_over_ranks(np.array([digest], np.float64), name="compiled")[:, 0]
        if (digests == digests[0]).all():
            return
        ranks = [rank for rank, found in enumerate(digests) if found]
        raise ModelError(
            f"callbacks have compiled model {self._model.name!r} "
            + ("in different ways on different ranks" if len(ranks) == len(digests) else f"on ranks {ranks} alone")
            + "; compile it alike on every rank"
        )
